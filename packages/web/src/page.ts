// Starts the app as the full page, or at `/embed` as a frame in another site's page.

import { mount } from "svelte";
import App from "./App.svelte";
import { FrameHost } from "./app/frame-host.svelte.js";
import { PageHost } from "./app/page-host.svelte.js";
import "./styles/app.css";
import "./styles/page.css";

const framed = location.pathname.replace(/\/$/, "").endsWith("/embed");
const host = framed ? new FrameHost() : new PageHost();
mount(App, { target: document.body, props: { host } });

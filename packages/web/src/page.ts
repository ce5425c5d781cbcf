// Starts the app as a page: the full one, or at `/embed` as a frame in somebody else's.

import { mount } from "svelte";
import App from "./App.svelte";
import { FrameHost } from "./app/frame-host.svelte.js";
import { PageHost } from "./app/page-host.svelte.js";
import "./styles/app.css";
import "./styles/page.css";

const framed = location.pathname.replace(/\/$/, "").endsWith("/embed");
const host = framed ? new FrameHost() : new PageHost();
mount(App, { target: document.body, props: { host } });

// Starts the app as the full page, or at `/embed` as a frame in another site's page.

import { mount } from "svelte";
import App from "./App.svelte";
import type { AppHost } from "./app/host.js";
import { PageHost } from "./app/page-host.svelte.js";
import "./styles/app.css";
import "./styles/page.css";

const start = (host: AppHost) => mount(App, { target: document.body, props: { host } });

const framed = location.pathname.replace(/\/$/, "").endsWith("/embed");
// The frame has code that the page does not need before its first screen. Without `await`, because that code imports from
// this script, which would wait for itself.
if (framed) void import("./app/frame-host.svelte.js").then(({ FrameHost }) => start(new FrameHost()));
else start(new PageHost());

// Starts the app as the full page, at `/embed` as a frame in another site's page, or at `/moderate` the moderators' page.

import { mount } from "svelte";
import App from "./App.svelte";
import type { AppHost } from "./app/host.js";
import { PageHost } from "./app/page-host.svelte.js";
import "./styles/app.css";
import "./styles/page.css";

const start = (host: AppHost) => mount(App, { target: document.body, props: { host } });

/** The page that the address names: the chat without a name, a frame, or the moderators' page. */
const name = location.pathname.replace(/\/$/, "").split("/").at(-1);
// The frame has code that the page does not need before its first screen. Without `await`, because that code imports from
// this script, which would wait for itself.
if (name === "embed") void import("./app/frame-host.svelte.js").then(({ FrameHost }) => start(new FrameHost()));
else if (name === "moderate") void import("./moderate/start.js");
else start(new PageHost());

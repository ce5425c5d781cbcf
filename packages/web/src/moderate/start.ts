// Starts the moderators' page.

import { mount } from "svelte";
import { readFragment } from "../app/fragment.js";
import "./moderate.css";
import { Moderation } from "./api.js";
import ModeratePage from "./ModeratePage.svelte";

// A link may carry the token. It is removed from the address, because people copy and share addresses.
const { token } = readFragment(location.hash);
if (token) {
  new Moderation(token).keep();
  history.replaceState(null, "", location.pathname);
}
mount(ModeratePage, { target: document.body });

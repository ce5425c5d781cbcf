// `make screenshots`: takes a picture of every view into docs/screenshots.

import { mkdir, rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { launch, Server } from "./support.js";
import { views } from "./views.js";

const forms = {
  light: { colorScheme: "light", viewport: { width: 1280, height: 800 } },
  dark: { colorScheme: "dark", viewport: { width: 1280, height: 800 } },
  phone: { colorScheme: "light", viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true },
};

const folder = fileURLToPath(new URL("../docs/screenshots/", import.meta.url));
await rm(folder, { recursive: true, force: true });
const browser = await launch();
for (const [form, options] of Object.entries(forms)) {
  await mkdir(`${folder}${form}`, { recursive: true });
  // Collects clean-up functions, which a test runner would call.
  const ends = [];
  const t = { after: (end) => ends.unshift(end) };
  const server = await Server.start(t);
  await views(t, browser, server, { ...options, reducedMotion: "reduce" }, async (name, page) => {
    await page.evaluate(() => document.fonts.ready);
    await page.screenshot({ path: `${folder}${form}/${name}.png` });
    console.log(`${form}/${name}`);
  });
  for (const end of ends) await end();
}
await browser.close();

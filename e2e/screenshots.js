// `make screenshots`: takes a picture of every view into docs/screenshots.

import { mkdir, rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { launchBrowser, Server } from "./support.js";
import { visitEveryView } from "./views.js";

const screenForms = {
  light: { colorScheme: "light", viewport: { width: 1280, height: 800 } },
  dark: { colorScheme: "dark", viewport: { width: 1280, height: 800 } },
  phone: { colorScheme: "light", viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true },
};

const screenshotsDirectory = fileURLToPath(new URL("../docs/screenshots/", import.meta.url));
await rm(screenshotsDirectory, { recursive: true, force: true });
const browser = await launchBrowser();
for (const [form, options] of Object.entries(screenForms)) {
  await mkdir(`${screenshotsDirectory}${form}`, { recursive: true });
  // Collects clean-up functions, which a test runner would call.
  const cleanups = [];
  const t = { after: (end) => cleanups.unshift(end) };
  const server = await Server.start(t);
  await visitEveryView(t, browser, server, { ...options, reducedMotion: "reduce" }, async (name, page) => {
    await page.evaluate(() => document.fonts.ready);
    await page.screenshot({ path: `${screenshotsDirectory}${form}/${name}.png` });
    console.log(`${form}/${name}`);
  });
  for (const end of cleanups) await end();
}
await browser.close();

// Headless Chromium, each time with a profile of its own.

import { mkdtemp } from "node:fs/promises";
import { join } from "node:path";
import { chromium } from "playwright-core";

const ARGUMENTS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Opens a browser that has never been anywhere. Its profile lies in `directory`. */
export async function openBrowser(directory) {
  const profile = await mkdtemp(join(directory, "chromium-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ARGUMENTS,
    headless: true,
    timeout: 120_000,
  });
  context.setDefaultTimeout(120_000);
  const visited = [];
  context.on("request", (request) => visited.push(request.url()));
  const page = await context.newPage();
  return {
    page,
    /** Every URL that the browser has asked for. */
    visited: () => [...visited],
    /** The cookies it would send to `url`, as a `Cookie` header has them. */
    async cookieHeader(url) {
      return (await context.cookies(url)).map(({ name, value }) => `${name}=${value}`).join("; ");
    },
    cookies: (url) => context.cookies(url),
    /** Opens `url` and reads the JSON that the page shows in the end. */
    async openJson(url) {
      const response = await page.goto(url);
      return { status: response.status(), url: page.url(), body: await response.json() };
    },
    close: () => context.close(),
  };
}

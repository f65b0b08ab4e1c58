// The console, as an operator uses it: in a browser, with nothing but what the page offers.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { openBrowser } from "./browser.js";
import { startGateway } from "./gateway.js";
import { stopAll } from "./processes.js";

test("the console", async (t) => {
  let gateway, browser;
  t.after(async () => {
    await browser?.close();
    await gateway?.stop();
    await stopAll();
  });
  gateway = await startGateway();
  // The page shows what there is when it is opened.
  await gateway.persisted();
  browser = await openBrowser(gateway.directory);
  const { page } = browser;
  const faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  // Refusals of the API are expected below; what the page's own policy stops is not.
  page.on("console", (message) => {
    if (message.type() === "error" && !/status of 4\d\d/.test(message.text())) faults.push(message.text());
  });
  const heading = (text) => page.getByRole("heading", { level: 1, name: text }).waitFor();
  const field = (name) => page.getByLabel(name, { exact: true });
  // A notice of what was saved before stays for some seconds.
  const save = async () => {
    const saved = page.waitForResponse((response) => response.request().method() === "PATCH");
    await page.getByRole("button", { name: "Save" }).click();
    assert.equal((await saved).status(), 200);
    await page.getByText("Saved", { exact: true }).first().waitFor();
  };
  const picture = async (name) => {
    if (process.env.SCREENSHOTS) await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}.png`), fullPage: true });
  };

  await t.test("the first page shows every data plane and what it runs", async () => {
    await page.goto(gateway.console());
    await heading("Data planes");
    await page.getByRole("cell", { name: "node-2" }).waitFor();
    assert.equal(await page.getByRole("cell", { name: "current" }).count(), 2);
    await picture("data-planes");
  });

  await t.test("data planes beyond the first page are on the next", async () => {
    const planes = /\/clustering\/data-planes/;
    // As if the Admin API gave one at a time.
    await page.route(planes, (route) => {
      const url = new URL(route.request().url());
      url.searchParams.set("size", "1");
      return route.continue({ url: url.href });
    });
    await page.getByRole("button", { name: "Look again" }).click();
    await page.getByRole("link", { name: "Next page" }).click();
    await page.getByRole("cell", { name: "node-2" }).waitFor();
    assert.equal(await page.getByRole("cell", { name: "node-1" }).count(), 0);
    assert.equal(await page.getByRole("link", { name: "Next page" }).count(), 0);
    await page.unroute(planes);
  });

  await t.test("a mistake is named at its field, and nothing is made", async () => {
    await page.getByRole("link", { name: "services", exact: true }).click();
    await page.getByRole("link", { name: "New: services" }).click();
    await field("name").fill("app");
    await field("port").fill("70000");
    await page.getByRole("button", { name: "Create" }).click();
    await page.getByRole("alert").waitFor();
    assert.equal(await field("port").getAttribute("aria-invalid"), "true");
    assert.equal(await field("host").getAttribute("aria-invalid"), "true");
    assert.equal(await field("name").getAttribute("aria-invalid"), "false");
    await picture("mistake");
    const { json } = await gateway.curl(`${gateway.admin()}/services`);
    assert.deepEqual(json.data, []);
  });

  await t.test("a service is made, found and changed", async () => {
    await field("port").fill("8080");
    await field("host").fill("app.internal");
    await page.getByRole("button", { name: "Create" }).click();
    await heading("app");
    await field("retries").fill("2");
    await field("tags").fill("one\ntwo");
    await save();
    const { json } = await gateway.curl(`${gateway.admin()}/services/app`);
    assert.deepEqual([json.host, json.port, json.retries, json.tags], ["app.internal", 8080, 2, ["one", "two"]]);
    await page.getByRole("link", { name: "services", exact: true }).click();
    await field("Find").fill("app");
    await page.getByRole("button", { name: "Find" }).click();
    await page.getByRole("link", { name: "app", exact: true }).click();
    await heading("app");
  });

  await t.test("a route below it gets a plugin, by the plugin's own schema", async () => {
    await page.getByRole("link", { name: "routes", exact: true }).last().click();
    await page.getByRole("link", { name: "New: routes" }).click();
    await field("name").fill("front");
    await field("paths").fill("/app");
    await page.getByRole("button", { name: "Create" }).click();
    await heading("front");
    await page.getByRole("link", { name: "plugins", exact: true }).last().click();
    await page.getByRole("link", { name: "New: plugins" }).click();
    await field("Plugin").selectOption("openid-connect");
    await page.getByRole("button", { name: "Configure" }).click();
    await heading("openid-connect: new plugin");
    await page.getByRole("button", { name: "Create" }).click();
    await page.getByRole("alert").waitFor();
    assert.equal(await field("issuer").getAttribute("aria-invalid"), "true");
    await field("issuer").fill("https://op.example.com");
    await field("client_id").fill("app");
    await field("scopes").fill("openid\nemail");
    await page.getByRole("button", { name: "Create" }).click();
    await heading(/^openid-connect$/);
    await field("leeway").fill("5");
    await save();
    await picture("plugin");
    const { json } = await gateway.curl(`${gateway.admin()}/routes/front/plugins`);
    const [plugin] = json.data;
    assert.equal(plugin.config.issuer, "https://op.example.com");
    assert.deepEqual(plugin.config.scopes, ["openid", "email"]);
    assert.equal(plugin.config.leeway, 5);
    await gateway.settled();
  });

  await t.test("what is deleted is gone, after a question", async () => {
    await page.getByRole("button", { name: "Delete" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
    await page.getByRole("button", { name: "Delete" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
    await page.getByText("There is none yet.").waitFor();
    const { json } = await gateway.curl(`${gateway.admin()}/plugins`);
    assert.deepEqual(json.data, []);
  });

  await t.test("every collection has its page and its form", async () => {
    const links = await page.locator("#navigation a").evaluateAll((all) => all.map((one) => one.hash));
    assert.ok(links.length > 8, links.join(" "));
    for (const hash of links.slice(1)) {
      await page.goto(`${gateway.console()}${hash}`);
      await page.waitForFunction(() => document.querySelector("h1") !== null);
      assert.equal(await page.getByRole("heading", { name: "That did not work" }).count(), 0, hash);
      if (hash === "#/revisions" || hash === "#/plugins") continue;
      await page.goto(`${gateway.console()}${hash}/new`);
      await page.getByRole("button", { name: "Create" }).waitFor();
    }
  });

  assert.deepEqual(faults, []);
});

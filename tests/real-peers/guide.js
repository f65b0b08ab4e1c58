// The guide "OpenID Connect with Okta", step by step, against whichever provider it is given.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { openBrowser } from "./browser.js";
import { makeCertificates } from "./certificates.js";
import { flows } from "./flows.js";
import { startGateway } from "./gateway.js";
import { stopAll } from "./processes.js";

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Declares the tests. `connect` starts the provider, given the URIs that the gateway will name. */
export function guide(name, connect) {
  test(name, async (t) => {
    const browsers = [];
    let gateway, provider;
    // Whatever fails, nothing is left running that the suite would wait for.
    t.after(async () => {
      await Promise.all(browsers.map((browser) => browser.close()));
      await provider?.stop();
      await gateway?.stop();
      await stopAll();
    });
    // Nodes take the word of the authority that certifies the provider's endpoints for mutual TLS.
    const directory = mkdtempSync(join(tmpdir(), "wardgate-certificates-"));
    t.after(() => rmSync(directory, { recursive: true, force: true }));
    const certificates = makeCertificates(directory, "127.0.0.2", ["wardgate", "robot"]);
    gateway = await startGateway({ SSL_CERT_FILE: certificates("ca").files.cert });
    // Sign-ins begin on the first node and are called back on the second.
    const [first, second] = [gateway.url(0), gateway.url(1)];
    provider = await connect({
      redirectUris: [`${second}/`],
      postLogoutRedirectUris: [`${first}/signed-out`],
      directory: gateway.directory,
      certificates,
      // Where the provider finds the keys of the cluster, and where it tells of its logouts.
      jwksUri: gateway.jwksUri(),
      backchannelLogoutUri: `${second}/backchannel`,
    });
    const browse = async () => {
      const browser = await openBrowser(gateway.directory);
      browsers.push(browser);
      return browser;
    };
    const signIn = async (browser, url, user) => {
      await browser.page.goto(url);
      // The page, or a refusal on the way to it.
      const arrived = browser.page.waitForResponse(
        (response) => [first, second].includes(new URL(response.url()).origin) && response.status() !== 302,
      );
      await provider.signIn(browser.page, user);
      const response = await arrived;
      // A refusal is a page for people.
      const page = (response.headers()["content-type"] ?? "").startsWith("text/html");
      return { status: response.status(), body: await (page ? response.text() : response.json()) };
    };

    await gateway.configure("POST", "/services", "name=demo", `url=${gateway.upstream}`);
    const route = await gateway.configure("POST", "/services/demo/routes", "paths[]=/", "name=demo");
    const plugin = await gateway.configure(
      "POST",
      `/routes/${route.id}/plugins`,
      "name=openid-connect",
      `config.issuer=${provider.issuer}`,
      `config.client_id=${provider.client.id}`,
      `config.client_secret=${provider.client.secret}`,
      `config.redirect_uri=${second}/`,
      ...provider.scopes.map((scope) => `config.scopes=${scope}`),
      "config.login_action=redirect",
      "config.login_tokens=",
      "config.preserve_query_args=true",
      "config.leeway=0",
      "config.logout_uri_suffix=/logout",
      "config.logout_methods=GET",
      `config.logout_redirect_uri=${first}/signed-out`,
    );
    await gateway.configure("POST", "/services", "name=public", `url=${gateway.upstream}`);
    await gateway.configure("POST", "/services/public/routes", "paths[]=/signed-out", "strip_path=false");
    const change = (...data) => gateway.configure("PATCH", `/plugins/${plugin.id}`, ...data);

    const alice = await browse();
    let token, signedInAfter;

    await t.test("a visitor without a session is sent to the provider", async () => {
      const answer = await gateway.curl("-D", "-", "-o", "/dev/null", `${first}/page`);
      assert.equal(answer.status, 302);
      assert.match(answer.body, new RegExp(`location: ${provider.origin}`, "i"));
    });

    await t.test("a sign-in begun on one node and called back on the other leads to the page", async () => {
      signedInAfter = Date.now();
      const { status, body } = await signIn(alice, `${first}/page?x=1`, "alice");
      assert.equal(status, 200);
      assert.equal(alice.page.url(), `${first}/page?x=1`);
      token = body.headers.authorization;
      assert.match(token, /^Bearer ./);
      assert.equal(body.headers.cookie, undefined);
    });

    await t.test("the session goes on at once, on both nodes, without a call to the provider", async () => {
      const before = provider.calls();
      for (const url of [`${first}/again`, `${second}/again`]) {
        const { status } = await alice.openJson(url);
        assert.equal(status, 200);
        assert.equal(alice.page.url(), url);
      }
      // Unless its access token has ended meanwhile, as it soon does.
      const isFresh = Date.now() - signedInAfter < (provider.accessTokenSeconds - 1) * 1000;
      if (isFresh) assert.deepEqual(provider.calls(), before);
    });

    await t.test("an expired access token is refreshed without the user", async () => {
      await pause((provider.accessTokenSeconds + 1) * 1000);
      const visited = alice.visited().length;
      const { status, body } = await alice.openJson(`${second}/later`);
      assert.equal(status, 200);
      assert.notEqual(body.headers.authorization, token);
      const led = alice.visited().slice(visited).filter((url) => url.startsWith(provider.origin));
      assert.deepEqual(led, []);
    });

    await t.test("users are mapped to consumers, and others are forbidden", async () => {
      const subject = await provider.subject("alice");
      await gateway.configure("POST", "/consumers", "username=Yoda", `custom_id=${subject}`);
      await change("config.consumer_by=custom_id", "config.consumer_claim=sub");
      const { status, body } = await alice.openJson(`${first}/mapped`);
      assert.equal(status, 200);
      assert.equal(body.headers["x-consumer-username"], "Yoda");
      assert.equal(body.headers["x-consumer-custom-id"], subject);
      const bob = await browse();
      assert.equal((await signIn(bob, `${first}/mapped`, "bob")).status, 403);
      await change("config.consumer_optional=true");
    });

    await t.test("groups decide through the acl plugin", async () => {
      await change("config.authenticated_groups_claim=groups");
      const acl = await gateway.configure("POST", `/routes/${route.id}/plugins`, "name=acl", "config.allow=admins");
      const { status, body } = await alice.openJson(`${first}/admins`);
      assert.equal(status, 200, JSON.stringify(body));
      const bob = await browse();
      assert.equal((await signIn(bob, `${first}/admins`, "bob")).status, 403);
      await gateway.configure("DELETE", `/plugins/${acl.id}`);
    });

    await t.test("sessions, sign-ins and nodes go on without a control plane", async () => {
      await gateway.persisted();
      await gateway.stopControlPlane();
      assert.equal((await alice.openJson(`${first}/outage`)).status, 200);
      const bob = await browse();
      assert.equal((await signIn(bob, `${first}/outage`, "bob")).status, 200);
      await gateway.restartNode(0);
      assert.equal((await alice.openJson(`${first}/restarted`)).status, 200);
      assert.equal((await bob.openJson(`${first}/restarted`)).status, 200);
      await gateway.startControlPlane();
      await gateway.settled();
    });

    await t.test("signing out ends the session here and at the provider", async () => {
      await alice.page.goto(`${first}/logout`);
      await provider.confirmLogout(alice.page);
      await alice.page.waitForURL(`${first}/signed-out*`);
      await alice.page.goto(`${first}/page`);
      assert.ok(alice.page.url().startsWith(provider.origin), alice.page.url());
    });

    await flows(t, { gateway, provider, certificates, urls: [first, second], browse, signIn, change });

    await t.test("a session ends with its lifetime, also for a thief who keeps the cookie", async () => {
      await change("config.session_cookie_lifetime=3", "config.session_cookie_renew=0");
      const bob = await browse();
      const begun = Date.now();
      assert.equal((await signIn(bob, `${first}/short`, "bob")).status, 200);
      const stolen = await bob.cookieHeader(first);
      const steal = () => gateway.curl("-o", "/dev/null", "-H", `Cookie: ${stolen}`, `${second}/short`);
      const { status } = await steal();
      // On a machine that is busy it may be over by then.
      if (Date.now() - begun < 2_000) assert.equal(status, 200);
      await pause(4_000);
      assert.equal((await steal()).status, 302);
    });

    await t.test("a provider that is gone ends no session", async () => {
      await change("config.session_cookie_lifetime=3600");
      const bob = await browse();
      assert.equal((await signIn(bob, `${first}/left`, "bob")).status, 200);
      await provider.stop();
      assert.equal((await bob.openJson(`${second}/left`)).status, 200);
    });
  });
}

// What the guide does not show, against whichever provider it is given: pushed and signed requests, signed
// answers, a client without a secret, tokens that clients bring, and a logout that the provider begins.

import assert from "node:assert/strict";
import { mutualTls } from "./mutual_tls.js";
import { until } from "./processes.js";
import { proofKey } from "./proof.js";

/** Runs the flows as subtests of `t`, in the cluster that the guide has set up. */
export async function flows(t, tools) {
  const { gateway, provider, urls: [first, second], browse, signIn, change } = tools;
  let bob, token;

  await t.test("a pushed request and a signed answer", async () => {
    await change("config.require_pushed_authorization_requests=true", "config.response_mode=query.jwt");
    bob = await browse();
    const before = provider.calls().length;
    assert.equal((await signIn(bob, `${first}/pushed`, "bob")).status, 200);
    assert.ok(provider.calls().slice(before).includes(`POST ${provider.pushedRequestPath}`));
    const sent = bob.visited().find((url) => url.includes("request_uri="));
    assert.deepEqual([...new URL(sent).searchParams.keys()].sort(), ["client_id", "request_uri"]);
    const back = bob.visited().find((url) => url.startsWith(second));
    assert.deepEqual([...new URL(back).searchParams.keys()], ["response"]);
  });

  await t.test("a client that signs its requests and proves itself with the cluster's key", async () => {
    // Whoever asks first has the keys made.
    assert.equal((await gateway.curl(gateway.jwksUri())).status, 200);
    await change(
      `config.client_id=${provider.keyedClient.id}`,
      "config.client_secret=",
      "config.client_auth=private_key_jwt",
      "config.require_signed_request_object=true",
      "config.response_mode=query",
      "config.backchannel_logout_uri_suffix=/backchannel",
    );
    bob = await browse();
    const { status, body } = await signIn(bob, `${first}/keyed`, "bob");
    assert.equal(status, 200, JSON.stringify(body));
  });

  await t.test("a logout that the provider begins ends the session on every node", async () => {
    const cookie = await bob.cookieHeader(first);
    const status = async (url) =>
      (await gateway.curl("-o", "/dev/null", "-H", `Cookie: ${cookie}`, "-H", "Accept: text/html", `${url}/later`)).status;
    assert.deepEqual([await status(first), await status(second)], [200, 200]);
    await provider.endSession(bob.page);
    for (const url of [first, second]) {
      await until("end of the session", async () => (await status(url)) === 302 || undefined);
    }
  });

  await t.test("a signed request that is pushed, and a signed answer that the browser posts", async () => {
    await change("config.require_pushed_authorization_requests=true", "config.response_mode=form_post.jwt");
    bob = await browse();
    const before = provider.calls().length;
    const { status, body } = await signIn(bob, `${first}/all`, "bob");
    assert.equal(status, 200, JSON.stringify(body));
    assert.ok(provider.calls().slice(before).includes(`POST ${provider.pushedRequestPath}`));
    const sent = bob.visited().find((url) => url.includes("request_uri="));
    assert.deepEqual([...new URL(sent).searchParams.keys()].sort(), ["client_id", "request_uri"]);
    const back = bob.visited().find((url) => url.startsWith(second));
    assert.equal(new URL(back).search, "");
    const cookie = await bob.cookieHeader(first);
    for (const url of [first, second]) {
      assert.equal((await gateway.curl("-o", "/dev/null", "-H", `Cookie: ${cookie}`, `${url}/all`)).status, 200);
    }
  });

  await t.test("tokens that clients bring: introspection, user info, and the provider's keys", async () => {
    await change(
      `config.client_id=${provider.client.id}`,
      `config.client_secret=${provider.client.secret}`,
      "config.client_auth=",
      "config.require_signed_request_object=false",
      "config.require_pushed_authorization_requests=false",
      "config.response_mode=query",
    );
    const route = await gateway.configure("POST", "/services/demo/routes", "paths[]=/api", "name=api");
    const plugin = await gateway.configure(
      "POST",
      `/routes/${route.id}/plugins`,
      "name=openid-connect",
      `config.issuer=${provider.issuer}`,
      `config.client_id=${provider.client.id}`,
      `config.client_secret=${provider.client.secret}`,
      "config.auth_methods=introspection",
    );
    const methods = ["introspection", "userinfo", ...(provider.jwtAccessTokens ? ["bearer"] : [])];
    const carol = await browse();
    assert.equal((await signIn(carol, `${first}/tokens`, "alice")).status, 200);
    for (const method of methods) {
      await gateway.configure("PATCH", `/plugins/${plugin.id}`, `config.auth_methods=${method}`);
      // The session refreshes it when it has ended.
      const { body } = await carol.openJson(`${first}/tokens`);
      token = body.headers.authorization;
      assert.equal((await call(gateway, first, token)).status, 200, method);
      assert.equal((await call(gateway, second, `${token}x`)).status, 401, method);
    }
    await gateway.configure(
      "PATCH",
      `/plugins/${plugin.id}`,
      `config.auth_methods=${provider.jwtAccessTokens ? "bearer" : "introspection"}`,
      "config.proof_of_possession_dpop=strict",
    );
  });

  await t.test("a token that is bound to a key serves with that key only", async () => {
    const key = proofKey();
    const bound = await provider.boundToken((method, url) => key.prove(method, url));
    const proof = (of) => ["-H", `DPoP: ${of.prove("GET", `${first}/api`, bound)}`];
    assert.equal((await call(gateway, first, `DPoP ${bound}`, ...proof(key))).status, 200);
    assert.equal((await call(gateway, first, `DPoP ${bound}`)).status, 401);
    assert.equal((await call(gateway, first, `DPoP ${bound}`, ...proof(proofKey()))).status, 401);
    assert.equal((await call(gateway, first, token)).status, 401);
  });

  if (provider.mutualTls) await mutualTls(t, tools);
}

const call = (gateway, url, authorization, ...more) => gateway.curl("-H", `Authorization: ${authorization}`, ...more, `${url}/api`);

// Mutual TLS with a provider that offers it: a client that proves itself by its certificate, and tokens that are
// bound to one (RFC 8705).

import assert from "node:assert/strict";
import { until } from "./processes.js";

/** Runs the flows as subtests of `t`, in the cluster that the guide has set up, and leaves its plugin as it was. */
export async function mutualTls(t, { gateway, provider, certificates, urls: [first], browse, signIn, change }) {
  const { mutualTls } = provider;

  const upload = async (name) => {
    const { cert, key } = certificates(name).files;
    const made = await gateway.curl(
      "-X", "POST", `${gateway.admin()}/certificates`,
      "--data-urlencode", `cert@${cert}`, "--data-urlencode", `key@${key}`,
    );
    assert.equal(made.status, 201, made.body);
    return made.json.id;
  };
  const [certified, robot] = [await upload("wardgate"), await upload("robot")];

  await t.test("a client that proves itself by an authority's certificate, at every endpoint", async () => {
    await change(
      `config.client_id=${mutualTls.certifiedClient.id}`,
      "config.client_secret=",
      "config.client_auth=tls_client_auth",
      `config.tls_client_auth_cert_id=${certified}`,
      "config.require_pushed_authorization_requests=true",
      "config.logout_revoke=true",
      "config.upstream_user_info_header=x-userinfo",
    );
    const dave = await browse();
    const { status, body } = await signIn(dave, `${first}/certified`, "dave");
    assert.equal(status, 200, JSON.stringify(body));
    // What the provider says of its user for a token that is bound to the certificate.
    const told = JSON.parse(Buffer.from(body.headers["x-userinfo"] ?? "", "base64").toString() || "{}");
    assert.equal(told.sub, await provider.subject("dave"));
    await dave.page.goto(`${first}/logout`);
    const wanted = [`POST ${provider.pushedRequestPath}`, "POST /token", "GET /me", "POST /token/revocation"];
    await until("the calls over mutual TLS", async () => {
      const calls = mutualTls.calls();
      return wanted.every((call) => calls.includes(call)) || undefined;
    });
  });

  await t.test("a client whose certificate the provider does not know signs nobody in", async () => {
    await change(`config.tls_client_auth_cert_id=${robot}`, "config.require_pushed_authorization_requests=false");
    const erin = await browse();
    assert.equal((await signIn(erin, `${first}/stranger`, "erin")).status, 502);
  });

  await t.test("a client that signs its certificate itself", async () => {
    await change(
      `config.client_id=${mutualTls.selfSignedClient.id}`,
      "config.client_auth=self_signed_tls_client_auth",
    );
    const frank = await browse();
    const { status, body } = await signIn(frank, `${first}/self-signed`, "frank");
    assert.equal(status, 200, JSON.stringify(body));
  });

  await change(
    `config.client_id=${provider.client.id}`,
    `config.client_secret=${provider.client.secret}`,
    "config.client_auth=",
    "config.tls_client_auth_cert_id=",
    "config.logout_revoke=false",
    "config.upstream_user_info_header=",
  );

  await t.test("a token that is bound to a certificate serves with that certificate only", async () => {
    const [plugin] = (await gateway.curl(`${gateway.admin()}/routes/api/plugins`)).json.data;
    const use = (...data) => gateway.configure("PATCH", `/plugins/${plugin.id}`, ...data);
    const by = (name) => {
      const { cert, key } = certificates(name).files;
      return ["--cert", cert, "--key", key];
    };
    const token = async (...more) => {
      const told = await gateway.curl(
        "--cacert", certificates("ca").files.cert, ...by("robot"),
        "-d", "grant_type=client_credentials", "-d", `client_id=${mutualTls.robot.id}`, ...more, `${mutualTls.origin}/token`,
      );
      assert.equal(told.status, 200, told.body);
      return told.json.access_token;
    };
    const call = async (token, ...more) =>
      (await gateway.curl("-k", "-H", `Authorization: Bearer ${token}`, ...more, `${gateway.tlsUrl(0)}/api`)).status;
    const [opaque, jwt] = [await token(), await token("-d", `resource=${mutualTls.resource}`)];
    for (const [method, bound] of [["introspection", opaque], ["bearer", jwt]]) {
      await use(
        `config.auth_methods=${method}`,
        "config.proof_of_possession_dpop=off",
        "config.proof_of_possession_mtls=strict",
      );
      const statuses = [await call(bound, ...by("robot")), await call(bound, ...by("wardgate")), await call(bound)];
      assert.deepEqual(statuses, [200, 401, 401], method);
    }
  });
}

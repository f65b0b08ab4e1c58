// The least of an OpenID provider that a sign-in needs: everybody who comes is signed in at once.

import { createSign, generateKeyPairSync, randomBytes } from "node:crypto";
import { createServer } from "node:http";

const HOUR = 3600;
const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** Starts it; its ID tokens hold `padding` random bytes, as those of real providers hold claims. */
export async function startProvider({ padding }) {
  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const note = randomBytes(padding).toString("base64url");
  const nonces = new Map();
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.2", resolve));
  const issuer = `http://127.0.0.2:${server.address().port}`;
  const keys = { keys: [{ ...publicKey.export({ format: "jwk" }), kid: "1", alg: "RS256", use: "sig" }] };
  const client = { id: "bench", secret: randomBytes(16).toString("hex") };

  function signed(claims) {
    const now = Math.floor(Date.now() / 1000);
    const head = encode({ alg: "RS256", typ: "JWT", kid: "1" });
    const text = `${head}.${encode({ iss: issuer, sub: "alice", iat: now, exp: now + HOUR, ...claims })}`;
    return `${text}.${createSign("RSA-SHA256").update(text).sign(privateKey, "base64url")}`;
  }

  async function tokens(request) {
    let form = "";
    for await (const part of request) form += part;
    const nonce = nonces.get(new URLSearchParams(form).get("code"));
    return {
      token_type: "Bearer",
      access_token: randomBytes(32).toString("base64url"),
      refresh_token: randomBytes(32).toString("base64url"),
      expires_in: HOUR,
      id_token: signed({ aud: client.id, nonce, note }),
    };
  }

  function authorize(url, response) {
    const asked = url.searchParams;
    const code = randomBytes(16).toString("hex");
    nonces.set(code, asked.get("nonce") ?? undefined);
    const back = new URL(asked.get("redirect_uri"));
    for (const [name, value] of Object.entries({ code, state: asked.get("state"), iss: issuer })) back.searchParams.set(name, value);
    response.writeHead(302, { location: back.href }).end();
  }

  server.on("request", async (request, response) => {
    const url = new URL(request.url, issuer);
    if (url.pathname === "/authorize") return authorize(url, response);
    const answers = {
      "/.well-known/openid-configuration": () => ({
        issuer,
        authorization_endpoint: `${issuer}/authorize`,
        token_endpoint: `${issuer}/token`,
        jwks_uri: `${issuer}/jwks`,
        response_types_supported: ["code"],
        subject_types_supported: ["public"],
        id_token_signing_alg_values_supported: ["RS256"],
        authorization_response_iss_parameter_supported: true,
      }),
      "/jwks": () => keys,
      "/token": () => tokens(request),
    };
    const answer = answers[url.pathname];
    if (!answer) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(await answer()));
  });

  return {
    issuer,
    client,
    keys,
    /** A bearer token of somebody. */
    bearer: () => signed({ aud: client.id, scope: "openid", groups: ["staff"] }),
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

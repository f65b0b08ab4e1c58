// Tokens that are bound to a key, and proofs that one has it.

import { createHash, generateKeyPairSync, randomUUID, sign } from "node:crypto";

/** A key, and proofs of its possession (RFC 9449). */
export function proofKey() {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return {
    prove(method, url, accessToken) {
      const header = { typ: "dpop+jwt", alg: "ES256", jwk: publicKey.export({ format: "jwk" }) };
      const claims = { jti: randomUUID(), htm: method, htu: url, iat: Math.floor(Date.now() / 1000) };
      if (accessToken) claims.ath = createHash("sha256").update(accessToken).digest("base64url");
      const message = `${part(header)}.${part(claims)}`;
      const signature = sign("sha256", Buffer.from(message), { key: privateKey, dsaEncoding: "ieee-p1363" });
      return `${message}.${signature.toString("base64url")}`;
    },
  };
}

/** A token of the client credentials grant that is bound to the key which `prove` uses. */
export async function fetchBoundToken(endpoint, client, prove) {
  const answer = await fetch(endpoint, {
    method: "POST",
    headers: {
      authorization: `Basic ${Buffer.from(`${encodeURIComponent(client.id)}:${encodeURIComponent(client.secret)}`).toString("base64")}`,
      DPoP: prove("POST", endpoint),
    },
    body: new URLSearchParams({ grant_type: "client_credentials" }),
  });
  const told = await answer.json();
  if (told.token_type !== "DPoP") throw new Error(`the provider gives no bound token: ${JSON.stringify(told)}`);
  return told.access_token;
}

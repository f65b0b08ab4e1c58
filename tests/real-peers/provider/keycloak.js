// Keycloak, as its distribution starts it for development.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { start, stop, until } from "../processes.js";
import { fetchBoundToken } from "../proof.js";

/** Another loopback address than the gateway's: to the browser it is another site, as in real life. */
const ADDRESS = "127.0.0.2";

const REALM = "wardgate";
const ADMINISTRATOR = { username: "administrator", password: "for this run only" };
const ACCESS_TOKEN_SECONDS = 6;
const USERS = { alice: ["staff", "admins"], bob: ["staff"] };

/** Starts Keycloak and waits for nothing: it takes half a minute. `setUpKeycloak` waits. */
export function startKeycloak(home, directory) {
  return start(
    "keycloak",
    join(home, "bin", "kc.sh"),
    [
      "start-dev",
      `--http-host=${ADDRESS}`,
      "--http-port=0",
      "--db=dev-mem",
      "--cache=local",
      "--http-access-log-enabled=true",
    ],
    {
      env: {
        KC_BOOTSTRAP_ADMIN_USERNAME: ADMINISTRATOR.username,
        KC_BOOTSTRAP_ADMIN_PASSWORD: ADMINISTRATOR.password,
        JAVA_OPTS_KC_HEAP: "-Xms64m -Xmx512m",
      },
      log: join(directory, "keycloak.log"),
    },
  );
}

/** Waits for Keycloak and gives it a realm with one client, with `redirectUris`, and the users alice and bob. */
export async function setUpKeycloak(handle, uris) {
  const origin = await until(
    "line in Keycloak's log that names its address",
    () => readFileSync(handle.log, "utf8").match(/Listening on: (http:\/\/[\d.:]+)/)?.[1],
    { handle, timeoutMs: 900_000 },
  );
  const client = { id: "wardgate", secret: "a-client-secret-of-keycloak" };
  const token = await administratorToken(origin);
  const keyedClient = { id: "wardgate-keyed" };
  await administer(origin, token, "POST", "", realm(client, keyedClient, uris));
  const endpoints = `${origin}/realms/${REALM}/protocol/openid-connect`;

  return {
    origin,
    issuer: `${origin}/realms/${REALM}`,
    client,
    keyedClient,
    pushedRequestPath: `/realms/${REALM}/protocol/openid-connect/ext/par/request`,
    scopes: ["openid", "email", "profile"],
    accessTokenSeconds: ACCESS_TOKEN_SECONDS,
    jwtAccessTokens: true,
    /** All requests that reached the realm so far, as `METHOD path`, from Keycloak's access log. */
    calls: () =>
      [...readFileSync(handle.log, "utf8").matchAll(/"([A-Z]+) ([^ "?]+)[^"]*HTTP/g)].map(([, method, path]) => `${method} ${path}`),
    async subject(user) {
      const found = await administer(origin, await administratorToken(origin), "GET", `/${REALM}/users?exact=true&username=${user}`);
      return found[0].id;
    },
    async signIn(page, user) {
      await page.locator("#username").fill(user);
      await page.locator("#password").fill(`password of ${user}`);
      await page.locator("#kc-login").click();
    },
    /** With an ID token as the hint, Keycloak asks no question. */
    async confirmLogout() {},
    /** Signs the browser's user out at the provider, by nobody's request. */
    async endSession(page) {
      await page.goto(`${endpoints}/logout`);
      await page.locator("#kc-logout").click();
      await page.locator("#kc-logout").waitFor({ state: "detached" });
    },
    boundToken: (prove) => fetchBoundToken(`${endpoints}/token`, client, prove),
    stop: () => stop(handle),
  };
}

function realm(client, keyedClient, { redirectUris, postLogoutRedirectUris, jwksUri, backchannelLogoutUri }) {
  const common = {
    publicClient: false,
    standardFlowEnabled: true,
    redirectUris,
    protocolMappers: [
      {
        name: "groups",
        protocol: "openid-connect",
        protocolMapper: "oidc-group-membership-mapper",
        config: {
          "claim.name": "groups",
          "full.path": "false",
          "id.token.claim": "true",
          "access.token.claim": "true",
          "userinfo.token.claim": "true",
        },
      },
    ],
  };
  const attributes = {
    "pkce.code.challenge.method": "S256",
    "post.logout.redirect.uris": postLogoutRedirectUris.join("##"),
    "backchannel.logout.url": backchannelLogoutUri,
    "backchannel.logout.session.required": "true",
  };
  return {
    realm: REALM,
    enabled: true,
    sslRequired: "none",
    accessTokenLifespan: ACCESS_TOKEN_SECONDS,
    groups: [{ name: "staff" }, { name: "admins" }],
    users: Object.entries(USERS).map(([username, groups]) => ({
      username,
      enabled: true,
      email: `${username}@example.com`,
      emailVerified: true,
      firstName: username,
      lastName: "Example",
      groups,
      credentials: [{ type: "password", value: `password of ${username}`, temporary: false }],
    })),
    clients: [
      { clientId: client.id, secret: client.secret, serviceAccountsEnabled: true, attributes, ...common },
      {
        clientId: keyedClient.id,
        clientAuthenticatorType: "client-jwt",
        attributes: {
          ...attributes,
          "use.jwks.url": "true",
          "jwks.url": jwksUri,
          "request.object.required": "request or request_uri",
          "request.object.signature.alg": "RS256",
        },
        ...common,
      },
    ],
  };
}

async function administratorToken(origin) {
  const answer = await fetch(`${origin}/realms/master/protocol/openid-connect/token`, {
    method: "POST",
    body: new URLSearchParams({ grant_type: "password", client_id: "admin-cli", ...ADMINISTRATOR }),
  });
  if (!answer.ok) throw new Error(`Keycloak refuses its administrator: ${answer.status} ${await answer.text()}`);
  return (await answer.json()).access_token;
}

async function administer(origin, token, method, path, body) {
  const answer = await fetch(`${origin}/admin/realms${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: body && JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`Keycloak refuses ${method} ${path}: ${answer.status} ${await answer.text()}`);
  return method === "GET" ? answer.json() : undefined;
}

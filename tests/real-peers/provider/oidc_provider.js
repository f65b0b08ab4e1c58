// The certified `oidc-provider`, with its own development pages for signing in and giving consent.

import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { Provider } from "oidc-provider";
import { fetchBoundToken } from "../proof.js";

/** Another loopback address than the gateway's: to the browser it is another site, as in real life. */
const ADDRESS = "127.0.0.2";

/** Short, so that the suite sees access tokens expire and be refreshed. */
const ACCESS_TOKEN_SECONDS = 4;

const GROUPS = { alice: ["staff", "admins"], bob: ["staff"] };

/** Starts a provider that knows one client, with `redirectUris`, and the users alice and bob. Their ID tokens hold `padding` random bytes. */
export async function startOidcProvider({
  redirectUris,
  postLogoutRedirectUris,
  jwksUri,
  backchannelLogoutUri,
  accessTokenSeconds = ACCESS_TOKEN_SECONDS,
  padding = 0,
}) {
  const note = randomBytes(padding).toString("base64url");
  const server = createServer();
  await new Promise((resolve) => server.listen(0, ADDRESS, resolve));
  const origin = `http://${ADDRESS}:${server.address().port}`;
  const client = { id: "wardgate", secret: "a client secret of oidc-provider" };
  const keyedClient = { id: "wardgate-keyed" };
  const common = {
    grant_types: ["authorization_code", "refresh_token", "client_credentials"],
    redirect_uris: redirectUris,
    post_logout_redirect_uris: postLogoutRedirectUris,
    ...(backchannelLogoutUri && { backchannel_logout_uri: backchannelLogoutUri, backchannel_logout_session_required: true }),
  };

  const provider = new Provider(origin, {
    clients: [
      {
        client_id: client.id,
        client_secret: client.secret,
        token_endpoint_auth_method: "client_secret_basic",
        ...common,
      },
      ...(jwksUri
        ? [
            {
              client_id: keyedClient.id,
              token_endpoint_auth_method: "private_key_jwt",
              jwks_uri: jwksUri,
              require_signed_request_object: true,
              ...common,
            },
          ]
        : []),
    ],
    claims: { openid: ["sub"], email: ["email"], profile: ["name", "note"], groups: ["groups"] },
    scopes: ["openid", "offline_access", "email", "profile", "groups"],
    // Claims of the asked scopes stand in the ID token, as Okta, Entra ID and Keycloak have them.
    conformIdTokenClaims: false,
    cookies: { keys: ["for this run only"] },
    features: {
      backchannelLogout: { enabled: true },
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
      introspection: { enabled: true },
      jwtResponseModes: { enabled: true },
      requestObjects: { enabled: true },
      rpInitiatedLogout: { enabled: true },
    },
    // By itself it asks no address of this machine, where the gateway is for once.
    fetch: (url, { dispatcher, ...options }) => fetch(url, options),
    findAccount: (_, sub) => ({
      accountId: sub,
      claims: () => ({ sub, name: sub, note, email: `${sub}@example.com`, groups: GROUPS[sub] ?? [] }),
    }),
    issueRefreshToken: async (_, asking) => asking.grantTypeAllowed("refresh_token"),
    pkce: { required: () => true },
    rotateRefreshToken: true,
    ttl: {
      AccessToken: accessTokenSeconds,
      AuthorizationCode: 60,
      Grant: 3600,
      IdToken: 3600,
      Interaction: 600,
      RefreshToken: 3600,
      Session: 3600,
    },
  });

  const calls = [];
  const handle = provider.callback();
  server.on("request", (request, response) => {
    calls.push(`${request.method} ${request.url.split("?")[0]}`);
    handle(request, response);
  });

  return {
    origin,
    issuer: `${origin}/.well-known/openid-configuration`,
    client,
    keyedClient,
    pushedRequestPath: "/request",
    scopes: ["openid", "email", "profile", "groups"],
    accessTokenSeconds,
    /** Its access tokens mean nothing to anybody but itself. */
    jwtAccessTokens: false,
    /** All requests that reached the provider so far, as `METHOD path`. */
    calls: () => [...calls],
    /** The `sub` of a user. */
    subject: async (user) => user,
    async signIn(page, user) {
      await page.getByPlaceholder("Enter any login").fill(user);
      await page.getByPlaceholder("and password").fill("any");
      await page.getByRole("button", { name: "Sign-in" }).click();
      await page.getByRole("button", { name: "Continue" }).click();
    },
    async confirmLogout(page) {
      await page.getByRole("button", { name: "Yes, sign me out" }).click();
    },
    /** Signs the browser's user out at the provider, by nobody's request. */
    async endSession(page) {
      await page.goto(`${origin}/session/end`);
      await this.confirmLogout(page);
    },
    boundToken: (prove) => fetchBoundToken(`${origin}/token`, client, prove),
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

// The certified `oidc-provider`, with its own development pages for signing in and giving consent.

import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { Provider } from "oidc-provider";

/** Another loopback address than the gateway's: to the browser it is another site, as in real life. */
const ADDRESS = "127.0.0.2";

/** Short, so that the suite sees access tokens expire and be refreshed. */
const ACCESS_TOKEN_SECONDS = 4;

const GROUPS = { alice: ["staff", "admins"], bob: ["staff"] };

/** Starts a provider that knows one client, with `redirectUris`, and the users alice and bob. Their ID tokens hold `padding` random bytes. */
export async function startOidcProvider({
  redirectUris,
  postLogoutRedirectUris,
  accessTokenSeconds = ACCESS_TOKEN_SECONDS,
  padding = 0,
}) {
  const note = randomBytes(padding).toString("base64url");
  const server = createServer();
  await new Promise((resolve) => server.listen(0, ADDRESS, resolve));
  const origin = `http://${ADDRESS}:${server.address().port}`;
  const client = { id: "wardgate", secret: "a client secret of oidc-provider" };

  const provider = new Provider(origin, {
    clients: [
      {
        client_id: client.id,
        client_secret: client.secret,
        grant_types: ["authorization_code", "refresh_token"],
        redirect_uris: redirectUris,
        post_logout_redirect_uris: postLogoutRedirectUris,
        token_endpoint_auth_method: "client_secret_basic",
      },
    ],
    claims: { openid: ["sub"], email: ["email"], profile: ["name", "note"], groups: ["groups"] },
    scopes: ["openid", "offline_access", "email", "profile", "groups"],
    // Claims of the asked scopes stand in the ID token, as Okta, Entra ID and Keycloak have them.
    conformIdTokenClaims: false,
    cookies: { keys: ["for this run only"] },
    features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
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
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

// The certified `oidc-provider`, with its own development pages for signing in and giving consent.

import { X509Certificate, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { Provider } from "oidc-provider";
import { fetchBoundToken } from "../proof.js";

/** Another loopback address than the gateway's: to the browser it is another site, as in real life. */
const ADDRESS = "127.0.0.2";

/** Short, so that the suite sees access tokens expire and be refreshed. */
const ACCESS_TOKEN_SECONDS = 4;

const GROUPS = { alice: ["staff", "admins"], bob: ["staff"] };

/** What access tokens for others than the provider are for. */
const RESOURCE = "urn:example:api";

/**
 * Starts a provider that knows one client, with `redirectUris`, and the users alice and bob. Their ID tokens hold
 * `padding` random bytes. With `certificates` it has endpoints for mutual TLS, and clients of its own for them.
 */
export async function startOidcProvider({
  redirectUris,
  postLogoutRedirectUris,
  jwksUri,
  backchannelLogoutUri,
  certificates,
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

  const mutualTls = certificates && (await openMutualTls(certificates, common));

  const provider = new Provider(origin, {
    clients: [
      ...(mutualTls?.clients ?? []),
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
      ...mutualTls?.features,
      jwtResponseModes: { enabled: true },
      requestObjects: { enabled: true },
      revocation: { enabled: true },
      rpInitiatedLogout: { enabled: true },
    },
    ...mutualTls?.configuration,
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
  mutualTls?.serve(handle);

  return {
    origin,
    mutualTls,
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
      for (const open of [server, mutualTls?.server].filter(Boolean)) {
        open.closeAllConnections();
        await new Promise((resolve) => open.close(resolve));
      }
    },
  };
}

/** A listener that asks its clients for certificates, and what a provider is told of it. */
async function openMutualTls(certificates, common) {
  const server = createTlsServer({
    ...certificates("server").pem(),
    ca: certificates("ca").pem().cert,
    requestCert: true,
    // Whether a certificate is good enough is for the provider to say, by client.
    rejectUnauthorized: false,
  });
  await new Promise((resolve) => server.listen(0, ADDRESS, resolve));
  const origin = `https://${ADDRESS}:${server.address().port}`;
  const [certifiedClient, selfSignedClient, robot] = ["certified", "self-signed", "robot"].map((id) => ({ id }));
  const calls = [];
  const presented = ({ socket }) => socket.getPeerCertificate?.();
  const alone = { redirect_uris: [], response_types: [], grant_types: ["client_credentials"] };
  return {
    server,
    origin,
    certifiedClient,
    selfSignedClient,
    robot,
    resource: RESOURCE,
    /** All requests that came over mutual TLS so far, as `METHOD path`. */
    calls: () => [...calls],
    serve: (handle) =>
      server.on("request", (request, response) => {
        calls.push(`${request.method} ${request.url.split("?")[0]}`);
        handle(request, response);
      }),
    clients: [
      {
        ...common,
        client_id: certifiedClient.id,
        token_endpoint_auth_method: "tls_client_auth",
        tls_client_auth_san_dns: "wardgate",
        tls_client_certificate_bound_access_tokens: true,
      },
      {
        ...common,
        client_id: selfSignedClient.id,
        token_endpoint_auth_method: "self_signed_tls_client_auth",
        jwks: { keys: [certificates("robot").jwk()] },
      },
      {
        ...alone,
        client_id: robot.id,
        token_endpoint_auth_method: "tls_client_auth",
        tls_client_auth_san_dns: "robot",
        tls_client_certificate_bound_access_tokens: true,
      },
    ],
    configuration: {
      clientAuthMethods: [
        "client_secret_basic",
        "private_key_jwt",
        "tls_client_auth",
        "self_signed_tls_client_auth",
      ],
      discovery: {
        mtls_endpoint_aliases: {
          token_endpoint: `${origin}/token`,
          introspection_endpoint: `${origin}/token/introspection`,
          revocation_endpoint: `${origin}/token/revocation`,
          pushed_authorization_request_endpoint: `${origin}/request`,
          userinfo_endpoint: `${origin}/me`,
        },
      },
    },
    features: {
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        selfSignedTlsClientAuth: true,
        tlsClientAuth: true,
        getCertificate: (context) => {
          const { raw } = presented(context) ?? {};
          return raw && new X509Certificate(raw);
        },
        certificateAuthorized: ({ socket }) => socket.authorized,
        certificateSubjectMatches: (context, property, expected) =>
          property === "tls_client_auth_san_dns" && presented(context).subjectaltname === `DNS:${expected}`,
      },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: () => ({ scope: "", audience: RESOURCE, accessTokenFormat: "jwt" }),
      },
    },
  };
}

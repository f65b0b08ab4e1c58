// The proxies that Wardgate is compared with, and the upstream behind all of them.

import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { start, stop, until } from "../real-peers/processes.js";

export const PROXY_CORE = "0";
export const LOAD_CORE = "1";
export const BOTH_CORES = `${PROXY_CORE},${LOAD_CORE}`;
const BODY = "x".repeat(1024);

/** A port that is free now. */
export function freePort() {
  return new Promise((resolve) => {
    const server = createServer();
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Starts nginx with `workers` on `cores`; its URL and the processes that serve. */
export async function startNginx(directory, name, cores, http, workers = 1) {
  const port = await freePort();
  const file = join(directory, `${name}.conf`);
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((kind) => `${kind}_temp_path ${directory}/${name}-${kind};`);
  writeFileSync(
    file,
    `daemon off; worker_processes ${workers}; pid ${directory}/${name}.pid; error_log ${directory}/${name}.error;
     events { worker_connections 1024; }
     http { access_log off; keepalive_requests 100000000; large_client_header_buffers 8 32k;
       ${temporary.join(" ")} ${http.replaceAll("PORT", port)} }`,
  );
  const handle = start(name, "taskset", ["-c", cores, "nginx", "-c", file], { log: join(directory, `${name}.log`) });
  const url = `http://127.0.0.1:${port}`;
  await until(`answer of ${name}`, async () => ((await fetch(url)).ok ? true : undefined), { handle });
  return { url, processes: withChildren(handle.child.pid), stop: () => stop(handle) };
}

/** A process and those that it has started. */
function withChildren(id) {
  const children = readFileSync(`/proc/${id}/task/${id}/children`, "utf8");
  return [id, ...children.trim().split(/\s+/).map(Number)];
}

/** The upstream: nginx that answers 1 KB. */
export function startUpstream(directory) {
  return startNginx(directory, "upstream", LOAD_CORE, `server { listen 127.0.0.1:PORT; return 200 "${BODY}"; }`);
}

/** A certificate for localhost, which all proxies show: the files of the certificate and its key, and of both. */
export function makeCertificate(directory) {
  const [certificate, key, both] = ["tls.pem", "tls.key", "tls.both"].map((name) => join(directory, name));
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
  execFileSync("openssl", ["req", "-x509", ...curve, ...names, "-days", "2", "-keyout", key, "-out", certificate], { stdio: "ignore" });
  writeFileSync(both, readFileSync(certificate, "utf8") + readFileSync(key, "utf8"));
  return { certificate, key, both };
}

const FORWARDED = `proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Real-IP $remote_addr;`;

/**
 * nginx as a proxy, with and without TLS. Below `/session` it asks the upstream, which says 200, before it lets a
 * request through: the least that a sign-in by `auth_request` costs.
 */
export async function startNginxProxy(directory, upstream, { certificate, key }, workers = 1) {
  const secure = await freePort();
  const nginx = await startNginx(
    directory,
    `proxy-${workers}`,
    workers === 1 ? PROXY_CORE : BOTH_CORES,
    `upstream echo { server ${upstream.url.slice(7)}; keepalive 128; keepalive_requests 100000000; }
     ssl_certificate ${certificate}; ssl_certificate_key ${key}; ssl_protocols TLSv1.3;
     server { listen 127.0.0.1:PORT; listen 127.0.0.1:${secure} ssl;
       location / { proxy_pass http://echo; ${FORWARDED} }
       location /session { auth_request /asked; proxy_pass http://echo; ${FORWARDED} }
       location = /asked { internal; proxy_pass http://echo; proxy_pass_request_body off; proxy_set_header Content-Length ""; ${FORWARDED} } }`,
    workers,
  );
  return { ...nginx, tlsUrl: `https://127.0.0.1:${secure}` };
}

/** HAProxy with one thread. */
export async function startHaproxy(directory, upstream, { both }) {
  const [port, secure] = [await freePort(), await freePort()];
  const file = join(directory, "haproxy.conf");
  writeFileSync(
    file,
    `global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend all
  bind 127.0.0.1:${port}
  bind 127.0.0.1:${secure} ssl crt ${both} ssl-min-ver TLSv1.3
  option forwardfor
  default_backend echo
backend echo
  http-request set-header X-Forwarded-Proto http
  server one ${upstream.url.slice(7)}
`,
  );
  const handle = start("haproxy", "taskset", ["-c", PROXY_CORE, "haproxy", "-db", "-f", file], { log: join(directory, "haproxy.log") });
  const url = `http://127.0.0.1:${port}`;
  await until("answer of haproxy", async () => ((await fetch(url)).ok ? true : undefined), { handle });
  return { url, tlsUrl: `https://127.0.0.1:${secure}`, processes: [handle.child.pid], stop: () => stop(handle) };
}

/** Envoy's filter for sessions that `provider` begins, and the secrets that it names. */
function envoySessions(filter, provider) {
  const secret = (name, inline_string) => ({ name, generic_secret: { secret: { inline_string } } });
  const sessions = filter("envoy.filters.http.oauth2", "http.oauth2.v3.OAuth2", {
    config: {
      token_endpoint: { cluster: "provider", uri: `${provider.issuer}/token`, timeout: "3s" },
      authorization_endpoint: `${provider.issuer}/authorize`,
      redirect_uri: "http://%REQ(:authority)%/callback",
      redirect_path_matcher: { path: { exact: "/callback" } },
      signout_path: { path: { exact: "/signout" } },
      credentials: { client_id: provider.client.id, token_secret: { name: "token" }, hmac_secret: { name: "hmac" } },
      auth_scopes: ["openid"],
      forward_bearer_token: true,
    },
  });
  return { sessions, secrets: [secret("token", provider.client.secret), secret("hmac", randomBytes(32).toString("hex"))] };
}

/**
 * Envoy with one worker, if its program is at `program`; at `bearerUrl` it lets only tokens of `provider` through, which
 * it verifies once and then remembers, at `sessionUrl` sessions that begin there.
 */
export async function startEnvoy(directory, upstream, provider, program) {
  if (!program || !existsSync(program)) return undefined;
  const [port, guarded, signedIn] = [await freePort(), await freePort(), await freePort()];
  const [host, upstreamPort] = upstream.url.slice(7).split(":");
  const address = (address, port_value) => ({ socket_address: { address, port_value: Number(port_value) } });
  const filter = (name, type, config = {}) => ({ name, typed_config: { "@type": `type.googleapis.com/envoy.extensions.filters.${type}`, ...config } });
  const router = filter("envoy.filters.http.router", "http.router.v3.Router");
  const bearer = filter("envoy.filters.http.jwt_authn", "http.jwt_authn.v3.JwtAuthentication", {
    providers: {
      bench: {
        issuer: provider.issuer,
        local_jwks: { inline_string: JSON.stringify(provider.keys) },
        jwt_cache_config: { jwt_cache_size: 100 },
        forward: true,
      },
    },
    rules: [{ match: { prefix: "/" }, requires: { provider_name: "bench" } }],
  });
  const listener = (port, http_filters) => ({
    address: address("127.0.0.1", port),
    filter_chains: [{
      filters: [filter("http", "network.http_connection_manager.v3.HttpConnectionManager", {
        stat_prefix: "bench",
        route_config: { virtual_hosts: [{ name: "all", domains: ["*"], routes: [{ match: { prefix: "/" }, route: { cluster: "echo" } }] }] },
        http_filters,
      })],
    }],
  });
  const file = join(directory, "envoy.json");
  const cluster = (name, host, port) => {
    const lb_endpoints = [{ endpoint: { address: address(host, port) } }];
    return { name, type: "STATIC", load_assignment: { cluster_name: name, endpoints: [{ lb_endpoints }] } };
  };
  const { sessions, secrets } = envoySessions(filter, provider);
  const { hostname, port: providerPort } = new URL(provider.issuer);
  const config = {
    static_resources: {
      secrets,
      listeners: [listener(port, [router]), listener(guarded, [bearer, router]), listener(signedIn, [sessions, router])],
      clusters: [cluster("echo", host, upstreamPort), cluster("provider", hostname, providerPort)],
    },
  };
  writeFileSync(file, JSON.stringify(config));
  const args = ["-c", PROXY_CORE, program, "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"];
  const handle = start("envoy", "taskset", args, { log: join(directory, "envoy.log") });
  const url = `http://127.0.0.1:${port}`;
  await until("answer of envoy", async () => ((await fetch(url)).ok ? true : undefined), { handle });
  const [bearerUrl, sessionUrl] = [guarded, signedIn].map((port) => `http://127.0.0.1:${port}/`);
  return { url, bearerUrl, sessionUrl, processes: [handle.child.pid], stop: () => stop(handle) };
}

const APACHE_MODULES = "/usr/lib/apache2/modules";

/** Apache with one process and mod_auth_openidc, whose sessions are in cookies; at `sessionUrl` they begin. */
export async function startApache(directory, upstream, provider) {
  const modules = ["mpm_event", "authn_core", "authz_core", "authz_user", "proxy", "proxy_http", "auth_openidc"];
  const loaded = modules.map((name) => `LoadModule ${name}_module ${APACHE_MODULES}/mod_${name}.so`);
  const port = await freePort();
  const file = join(directory, "apache.conf");
  writeFileSync(
    file,
    `ServerRoot ${directory}
PidFile ${directory}/apache.pid
ErrorLog ${directory}/apache.error
ServerName 127.0.0.1
User nobody
Group nogroup
Listen 127.0.0.1:${port}
${loaded.join("\n")}
ServerLimit 1
StartServers 1
ThreadsPerChild 64
MaxRequestWorkers 64
MinSpareThreads 1
MaxSpareThreads 64
MaxKeepAliveRequests 0
OIDCProviderMetadataURL ${provider.issuer}/.well-known/openid-configuration
OIDCClientID ${provider.client.id}
OIDCClientSecret ${provider.client.secret}
OIDCRedirectURI http://127.0.0.1:${port}/callback
OIDCCryptoPassphrase ${randomBytes(32).toString("hex")}
OIDCScope openid
OIDCSessionType client-cookie
OIDCSessionInactivityTimeout 3600
<Location />
  AuthType openid-connect
  Require valid-user
  # Whatever it looks like to somebody who tells browsers from scripts.
  OIDCUnAuthAction auth true
</Location>
ProxyPass / ${upstream.url}/
`,
  );
  const args = ["-c", PROXY_CORE, "apache2", "-f", file, "-DFOREGROUND"];
  const handle = start("apache", "taskset", args, { log: join(directory, "apache.log") });
  const sessionUrl = `http://127.0.0.1:${port}/`;
  await until("answer of apache", async () => ((await fetch(sessionUrl, { redirect: "manual" })).status < 500 ? true : undefined), { handle });
  return { url: sessionUrl, sessionUrl, processes: withChildren(handle.child.pid), stop: () => stop(handle) };
}

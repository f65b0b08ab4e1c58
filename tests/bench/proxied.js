// A Wardgate cluster in front of one upstream: a plain route, one to a balanced target, one with plugins that many
// configure, ones with a session, a session that is to be renewed, and a bearer token, the last also behind such plugins,
// and as many others as are asked for.

import { setTimeout } from "node:timers/promises";
import { startGateway } from "../real-peers/gateway.js";

// A warning for each handshake, say, would fill the pipe that nobody reads while the load runs.
const SETTINGS = { WARDGATE_WORKERS: "1", WARDGATE_ACCESS_LOG: "off", WARDGATE_LOG: "error" };

/** Starts one with `routes` routes in all; its first data plane is run by the command `by`, if there is one. */
export async function startCluster({ upstream, provider, routes = 10, settings = {}, by = [] }) {
  const gateway = await startGateway({ ...SETTINGS, ...settings }, by);
  const connect = (config) => ({
    name: "openid-connect",
    config: {
      issuer: provider.issuer,
      client_id: [provider.client.id],
      client_secret: [provider.client.secret],
      scopes: ["openid"],
      ...config,
    },
  });
  // Signed in at the second node: a session serves on both.
  const [session, due] = ["session", "due"].map((path) => `${gateway.url(1)}/${path}`);
  const usual = [
    { name: "correlation-id", config: { header_name: "X-Trace" } },
    { name: "rate-limiting", config: { minute: 1_000_000_000 } },
    { name: "prometheus", config: { status_code_metrics: true, latency_metrics: true, bandwidth_metrics: true } },
  ];
  const groups = { authenticated_groups_claim: ["groups"] };
  const own = [
    { name: "plain", paths: ["/plain"] },
    { name: "plugins", paths: ["/plugins"], plugins: usual },
    { name: "session", paths: ["/session"], plugins: [connect({ redirect_uri: [session] })] },
    // Each request is one that the session's cookie would be renewed by.
    { name: "due", paths: ["/due"], plugins: [connect({ redirect_uri: [due], session_rolling_timeout: 3600, session_cookie_renew: 3600 })] },
    { name: "bearer", paths: ["/bearer"], plugins: [connect({ auth_methods: ["bearer"] })] },
    {
      name: "all",
      paths: ["/all"],
      plugins: [connect({ auth_methods: ["bearer"], ...groups }), { name: "acl", config: { allow: ["staff"] } }, ...usual],
    },
  ];
  const balanced = [{ name: "balanced", paths: ["/balanced"] }];
  const others = Array.from({ length: routes - own.length - balanced.length }, (_, at) => ({ name: `other-${at}`, paths: [`/other/${at}`] }));
  const answer = await fetch(`${gateway.admin()}/config`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      _format_version: "3.0",
      services: [
        { name: "bench", url: upstream, routes: [...own, ...others] },
        { name: "balanced", host: "bench.example", routes: balanced },
      ],
      upstreams: [{ name: "bench.example", targets: [{ target: new URL(upstream).host }] }],
    }),
  });
  if (!answer.ok) throw new Error(`POST /config: ${answer.status} ${await answer.text()}`);
  await gateway.settled(600_000);
  return { gateway, cookie: await signIn(session), due: await signIn(due), bearer: provider.bearer() };
}

/** The `Cookie` header that a browser with `cookie` has after one more request for `url`: a use may have been noted in it. */
export async function usedAgain(url, cookie) {
  const jar = new Map(cookie.split("; ").map((pair) => pair.match(/^([^=]+)=(.*)$/).slice(1)));
  // While a load runs nothing else does here: a connection that the node has closed meanwhile is noticed first.
  await setTimeout(50);
  const answer = await fetch(url, { headers: { cookie } });
  await answer.arrayBuffer();
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  keep(jar, answer);
  return written(jar);
}

/** Keeps in `jar` what `answer` sets. */
function keep(jar, answer) {
  for (const line of answer.headers.getSetCookie()) {
    const [, name, value] = line.match(/^([^=]+)=([^;]*)/);
    if (value) jar.set(name, value);
    else jar.delete(name);
  }
}

const written = (jar) => [...jar].map(([name, value]) => `${name}=${value}`).join("; ");

/** Signs in at `url` as a browser does; the `Cookie` header of the session. */
export async function signIn(url) {
  const jar = new Map();
  let next = url;
  for (let hop = 0; hop < 10; hop += 1) {
    const headers = { accept: "text/html", "sec-fetch-mode": "navigate", ...(jar.size > 0 && next.startsWith(url) ? { cookie: written(jar) } : {}) };
    const answer = await fetch(next, { redirect: "manual", headers });
    keep(jar, answer);
    await answer.arrayBuffer();
    if (answer.status === 200) return written(jar);
    if (answer.status !== 302) throw new Error(`the sign-in ended at ${next} with ${answer.status}`);
    next = new URL(answer.headers.get("location"), next).href;
  }
  throw new Error("the sign-in does not end");
}

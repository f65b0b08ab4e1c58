// A Wardgate cluster in front of one upstream: a plain route, one with a session, one with a bearer token, and as many
// others as are asked for.

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
  const session = `${gateway.url(1)}/session`;
  const own = [
    { name: "plain", paths: ["/plain"] },
    { name: "session", paths: ["/session"], plugins: [connect({ redirect_uri: [session] })] },
    { name: "bearer", paths: ["/bearer"], plugins: [connect({ auth_methods: ["bearer"] })] },
  ];
  const others = Array.from({ length: routes - own.length }, (_, at) => ({ name: `other-${at}`, paths: [`/other/${at}`] }));
  const answer = await fetch(`${gateway.admin()}/config`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ _format_version: "3.0", services: [{ name: "bench", url: upstream, routes: [...own, ...others] }] }),
  });
  if (!answer.ok) throw new Error(`POST /config: ${answer.status} ${await answer.text()}`);
  await gateway.settled(600_000);
  return { gateway, cookie: await signIn(session), bearer: provider.bearer() };
}

/** Signs in at `url` as a browser does; the `Cookie` header of the session. */
async function signIn(url) {
  const jar = new Map();
  const cookie = () => [...jar].map(([name, value]) => `${name}=${value}`).join("; ");
  let next = url;
  for (let hop = 0; hop < 10; hop += 1) {
    const headers = { accept: "text/html", "sec-fetch-mode": "navigate", ...(jar.size > 0 && next.startsWith(url) ? { cookie: cookie() } : {}) };
    const answer = await fetch(next, { redirect: "manual", headers });
    for (const line of answer.headers.getSetCookie()) {
      const [, name, value] = line.match(/^([^=]+)=([^;]*)/);
      if (value) jar.set(name, value);
      else jar.delete(name);
    }
    await answer.arrayBuffer();
    if (answer.status === 200) return cookie();
    if (answer.status !== 302) throw new Error(`the sign-in ended at ${next} with ${answer.status}`);
    next = new URL(answer.headers.get("location"), next).href;
  }
  throw new Error("the sign-in does not end");
}

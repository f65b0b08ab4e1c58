// What a request costs in Wardgate and in other proxies, side by side in one run, as a table. The proxy has one core,
// the upstream and the load the other; the cases take turns, in another order each round, and Wardgate's plain case is
// entered twice, as a control.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stopAll } from "../real-peers/processes.js";
import { signIn, startCluster, usedAgain } from "./proxied.js";
import { printInstructions } from "./instructions.js";
import { handshakes, load, median, memory, place, slowest, throttled } from "./measure.js";
import { LOAD_CORE, PROXY_CORE, makeCertificate, startApache, startEnvoy, startHaproxy, startNginxProxy, startUpstream } from "./peers.js";
import { startProvider } from "./provider.js";

const [rounds, seconds] = process.argv.slice(2).map(Number);
const MANY = 50_000;

process.env.PATH += ":/usr/sbin";
// The certificate is made for this run.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = "0";
const directory = mkdtempSync(join(tmpdir(), "wardgate-bench-"));
const files = makeCertificate(directory);
const settings = { WARDGATE_PROXY_TLS_CERTIFICATE: files.certificate, WARDGATE_PROXY_TLS_KEY: files.key };

const upstream = await startUpstream(directory);
const provider = await startProvider({ padding: 1_600 });
const nginx = await startNginxProxy(directory, upstream, files);
const haproxy = await startHaproxy(directory, upstream, files);
const envoy = await startEnvoy(directory, upstream, provider, process.env.WARDGATE_BENCH_ENVOY);
const apache = await startApache(directory, upstream, provider);

/** A node of a cluster with `routes` routes, on the proxies' core. */
async function startNode(routes, further = {}) {
  const cluster = await startCluster({ upstream: upstream.url, provider, routes, settings: { ...settings, ...further } });
  const { gateway } = cluster;
  const processes = [gateway.processId(1)];
  place(processes[0], [PROXY_CORE]);
  return { ...cluster, processes, url: gateway.url(1), tlsUrl: gateway.tlsUrl(1) };
}

/** `peer` with the cookies of a session that has begun there. */
async function signedIn(peer) {
  const url = peer.sessionUrl;
  return { ...peer, url, headers: { Cookie: await signIn(url) } };
}

const few = await startNode(10);
const many = await startNode(MANY);
const idle = { nginx: memory(nginx), haproxy: memory(haproxy), ...(envoy && { envoy: memory(envoy) }), few: memory(few), many: memory(many) };

const session = { Cookie: few.cookie };
const bearer = { Authorization: `Bearer ${few.bearer}` };
const plain = { processes: few.processes, url: `${few.url}/plain` };
const cases = {
  nginx: { ...nginx, title: "nginx" },
  haproxy: { ...haproxy, title: "HAProxy", bases: ["nginx"] },
  ...(envoy && { envoy: { ...envoy, title: "Envoy", bases: ["nginx"] } }),
  plain: { ...plain, title: "Wardgate, plain", bases: ["nginx", "haproxy", "envoy"] },
  control: { ...plain, title: "the same again", bases: ["plain"] },
  nginxSession: { ...nginx, url: `${nginx.url}/session`, headers: session, title: "nginx auth_request", bases: ["nginx"] },
  ...(envoy && { envoySession: { ...(await signedIn(envoy)), title: "Envoy oauth2", bases: ["envoy"] } }),
  apacheSession: { ...(await signedIn(apache)), title: "mod_auth_openidc", bases: ["nginx"] },
  session: {
    ...few,
    url: `${few.url}/session`,
    headers: session,
    title: "session cookie",
    bases: ["plain", "nginx", "nginxSession", "envoySession", "apacheSession"],
  },
  ...(envoy && { envoyBearer: { ...envoy, url: envoy.bearerUrl, headers: bearer, title: "Envoy jwt_authn", bases: ["envoy"] } }),
  bearer: { ...few, url: `${few.url}/bearer`, headers: bearer, title: "bearer token", bases: ["plain", "envoyBearer"] },
  many: { ...many, url: `${many.url}/plain`, title: `${MANY} routes`, bases: ["plain"] },
  nginxTls: { ...nginx, url: nginx.tlsUrl, title: "nginx, TLS" },
  haproxyTls: { ...haproxy, url: haproxy.tlsUrl, title: "HAProxy, TLS", bases: ["nginxTls"] },
  tls: { ...few, url: `${few.tlsUrl}/plain`, title: "Wardgate, TLS", bases: ["nginxTls", "haproxyTls"] },
  nginxFull: { ...nginx, url: nginx.tlsUrl, measure: handshakes, title: "nginx, handshake" },
  haproxyFull: { ...haproxy, url: haproxy.tlsUrl, measure: handshakes, title: "HAProxy, handshake", bases: ["nginxFull"] },
  full: { ...few, url: `${few.tlsUrl}/plain`, measure: handshakes, title: "Wardgate, handshake", bases: ["nginxFull", "haproxyFull"] },
};
const names = Object.keys(cases);
const results = Object.fromEntries(names.map((name) => [name, []]));

const alone = load({ url: upstream.url, processes: upstream.processes }, seconds);
/** Takes the cookie that a browser would have by now: wrk goes on with the one that it was given. */
async function renew() {
  session.Cookie = await usedAgain(cases.session.url, session.Cookie);
}
const run = (one, time) => (one.measure ?? load)(one, time);
for (const one of Object.values(cases)) run(one, 1);
for (let round = 0; round < rounds; round += 1) {
  for (let at = 0; at < names.length; at += 1) {
    const name = names[(at + round) % names.length];
    if (name === "session") await renew();
    results[name].push(run(cases[name], seconds));
  }
}

function line(name) {
  const { title, bases = [] } = cases[name];
  const of = (field) => median(results[name].map((one) => one[field]));
  const ratios = bases.filter((base) => cases[base]).map((base) => {
    const each = results[name].map(({ cost }, round) => cost / results[base][round].cost);
    return `${median(each).toFixed(2)} × ${cases[base].title} (${Math.min(...each).toFixed(2)}–${Math.max(...each).toFixed(2)})`;
  });
  console.log(`${title.padEnd(20)}${of("cost").toFixed(2).padStart(7)}${of("rate").toFixed(0).padStart(10)}/s${(100 * of("busy")).toFixed(0).padStart(6)} %   ${ratios.join(", ")}`);
}
console.log(`${rounds} rounds of ${seconds} s, 50 connections, 1 KB answers, no access logs; session cookie of ${few.cookie.length} bytes`);
console.log(`the load alone reaches ${alone.rate.toFixed(0)} requests/s, so it is no limit to a proxy that is far below`);
console.log("\n                    CPU s per 100k requests    rate    proxy core   ratio of the rounds: median (range)");
for (const name of names) line(name);

const rate = 0.3 * median(results.nginx.map((one) => one.rate));
console.log(`\np99 at ${rate.toFixed(0)} requests/s, 30 % of what nginx reaches, in ms: median of ${rounds} rounds`);
const slow = { nginx: [], haproxy: [], plain: [], control: [], session: [] };
for (let round = 0; round < rounds; round += 1) {
  await renew();
  for (const name of Object.keys(slow)) slow[name].push(slowest(cases[name], rate, seconds, directory));
}
console.log(Object.entries(slow).map(([name, times]) => `${cases[name].title} ${median(times).toFixed(2)}`).join(", "));

// Two cores with twice the requests, held against one core. Each core carries its share of proxy, upstream and load.
// Two processes of one worker each share nothing: what they lose is the machine's, and none of ours to mend.
const two = await startNode(10, { WARDGATE_WORKERS: "2" });
const other = await startNode(10);
const nginxTwo = await startNginxProxy(directory, upstream, files, 2);
const twice = ({ url, processes }) => ({ urls: [url, url], processes });
const pairs = {
  nginx: [nginx, twice(nginxTwo)],
  Wardgate: [plain, twice({ ...two, url: `${two.url}/plain` })],
  "two processes": [plain, { urls: [plain.url, `${other.url}/plain`], processes: [...plain.processes, ...other.processes] }],
};
console.log(`\ntwo cores at ${rate.toFixed(0)} requests/s each, shared with upstream and load: requests per CPU-second, of one core's`);
for (const [name, [one, both]] of Object.entries(pairs)) {
  const ratios = Array.from({ length: rounds }, () => {
    const single = throttled({ ...one, urls: [one.url], upstream }, [PROXY_CORE], rate, seconds);
    return single.cost / throttled({ ...both, upstream }, [PROXY_CORE, LOAD_CORE], rate, seconds).cost;
  });
  console.log(`${name} ${median(ratios).toFixed(2)} × (${Math.min(...ratios).toFixed(2)}–${Math.max(...ratios).toFixed(2)})`);
}

const loaded = { nginx: memory(nginx), haproxy: memory(haproxy), ...(envoy && { envoy: memory(envoy) }), few: memory(few), many: memory(many) };
const titles = { few: "Wardgate, 10 routes", many: `Wardgate, ${MANY} routes` };
console.log("\nresident memory before and after, in MB");
console.log(Object.keys(idle).map((name) => `${titles[name] ?? cases[name].title} ${idle[name]} → ${loaded[name]}`).join(", "));

for (const one of [few.gateway, many.gateway, two.gateway, other.gateway, nginx, nginxTwo, haproxy, envoy, apache]) await one?.stop();
await printInstructions(undefined, MANY);
await provider.stop();
await stopAll();
rmSync(directory, { recursive: true, force: true });
process.exit(0);

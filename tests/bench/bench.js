// What a request costs in Wardgate and in other proxies, side by side in one run, as a table. The proxy has one core,
// the upstream and the load the other; the cases take turns, in another order each round, and Wardgate's plain case is
// entered twice, as a control.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stopAll } from "../real-peers/processes.js";
import { startCluster } from "./proxied.js";
import { printInstructions } from "./instructions.js";
import { load, median, memory, slowest } from "./measure.js";
import { PROXY_CORE, makeCertificate, startEnvoy, startHaproxy, startNginxProxy, startUpstream } from "./peers.js";
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
const envoy = await startEnvoy(directory, upstream, process.env.WARDGATE_BENCH_ENVOY);

/** A node of a cluster with `routes` routes, on the proxies' core. */
async function startNode(routes) {
  const cluster = await startCluster({ upstream: upstream.url, provider, routes, settings });
  const { gateway } = cluster;
  const processes = [gateway.processId(1)];
  execFileSync("taskset", ["-a", "-cp", PROXY_CORE, String(processes[0])]);
  return { ...cluster, processes, url: gateway.url(1), tlsUrl: gateway.tlsUrl(1) };
}
const few = await startNode(10);
const many = await startNode(MANY);
const idle = { nginx: memory(nginx), haproxy: memory(haproxy), ...(envoy && { envoy: memory(envoy) }), few: memory(few), many: memory(many) };

const plain = { processes: few.processes, url: `${few.url}/plain` };
const cases = {
  nginx: { ...nginx, title: "nginx" },
  haproxy: { ...haproxy, title: "HAProxy", base: "nginx" },
  ...(envoy && { envoy: { ...envoy, title: "Envoy", base: "nginx" } }),
  plain: { ...plain, title: "Wardgate, plain", base: "nginx" },
  control: { ...plain, title: "the same again", base: "plain" },
  session: { ...few, url: `${few.url}/session`, headers: { Cookie: few.cookie }, title: "session cookie", base: "plain" },
  bearer: { ...few, url: `${few.url}/bearer`, headers: { Authorization: `Bearer ${few.bearer}` }, title: "bearer token", base: "plain" },
  many: { ...many, url: `${many.url}/plain`, title: `${MANY} routes`, base: "plain" },
  nginxTls: { ...nginx, url: nginx.tlsUrl, title: "nginx, TLS" },
  haproxyTls: { ...haproxy, url: haproxy.tlsUrl, title: "HAProxy, TLS", base: "nginxTls" },
  tls: { ...few, url: `${few.tlsUrl}/plain`, title: "Wardgate, TLS", base: "nginxTls" },
};
const names = Object.keys(cases);
const results = Object.fromEntries(names.map((name) => [name, []]));

const alone = load({ url: upstream.url, processes: upstream.processes }, seconds);
for (const one of Object.values(cases)) load(one, 1);
for (let round = 0; round < rounds; round += 1) {
  for (let at = 0; at < names.length; at += 1) {
    const name = names[(at + round) % names.length];
    results[name].push(load(cases[name], seconds));
  }
}

function line(name) {
  const { title, base } = cases[name];
  const of = (field) => median(results[name].map((one) => one[field]));
  const ratios = base ? results[name].map(({ cost }, round) => cost / results[base][round].cost) : [];
  const range = `${Math.min(...ratios).toFixed(2)}–${Math.max(...ratios).toFixed(2)}`;
  const ratio = base ? `${median(ratios).toFixed(2)} × ${cases[base].title} (${range})` : "";
  console.log(`${title.padEnd(18)}${of("cost").toFixed(2).padStart(7)}${of("rate").toFixed(0).padStart(10)}/s${(100 * of("busy")).toFixed(0).padStart(6)} %   ${ratio}`);
}
console.log(`${rounds} rounds of ${seconds} s, 50 connections, 1 KB answers, no access logs; session cookie of ${few.cookie.length} bytes`);
console.log(`the load alone reaches ${alone.rate.toFixed(0)} requests/s, so it is no limit to a proxy that is far below`);
console.log("\n                  CPU s per 100k requests    rate    proxy core   ratio of the rounds: median (range)");
for (const name of names) line(name);

const rate = 0.3 * median(results.nginx.map((one) => one.rate));
console.log(`\np99 at ${rate.toFixed(0)} requests/s, 30 % of what nginx reaches, in ms: median of ${rounds} rounds`);
const slow = { nginx: [], haproxy: [], plain: [], control: [], session: [] };
for (let round = 0; round < rounds; round += 1) {
  for (const name of Object.keys(slow)) slow[name].push(slowest(cases[name], rate, seconds, directory));
}
console.log(Object.entries(slow).map(([name, times]) => `${cases[name].title} ${median(times).toFixed(2)}`).join(", "));

const loaded = { nginx: memory(nginx), haproxy: memory(haproxy), ...(envoy && { envoy: memory(envoy) }), few: memory(few), many: memory(many) };
const titles = { few: "Wardgate, 10 routes", many: `Wardgate, ${MANY} routes` };
console.log("\nresident memory before and after, in MB");
console.log(Object.keys(idle).map((name) => `${titles[name] ?? cases[name].title} ${idle[name]} → ${loaded[name]}`).join(", "));

for (const one of [few.gateway, many.gateway, nginx, haproxy, envoy]) await one?.stop();
await printInstructions(undefined, MANY);
await provider.stop();
await stopAll();
rmSync(directory, { recursive: true, force: true });
process.exit(0);

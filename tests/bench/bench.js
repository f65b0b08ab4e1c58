// CPU-seconds of the proxy per 100,000 requests: nginx, Wardgate plain (entered twice, as a control) and
// Wardgate with a session, in alternating rounds. The proxy has one core, the upstream and the load the other.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openBrowser } from "../real-peers/browser.js";
import { startGateway } from "../real-peers/gateway.js";
import { start, stopAll, until } from "../real-peers/processes.js";
import { startOidcProvider } from "../real-peers/provider/oidc_provider.js";

const [rounds, seconds] = process.argv.slice(2).map(Number);
const PROXY_CORE = "0";
const LOAD_CORE = "1";
const CONNECTIONS = 50;
const BODY = "x".repeat(1024);
const TICKS = Number(execFileSync("getconf", ["CLK_TCK"]));

const directory = mkdtempSync(join(tmpdir(), "wardgate-bench-"));
process.env.PATH += ":/usr/sbin";
process.env.CHROMIUM ??= "/usr/bin/chromium";

/** A port that is free now. */
function freePort() {
  return new Promise((resolve) => {
    const server = createServer();
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Starts nginx with one worker on `core`; its URL and the processes that serve. */
async function startNginx(name, core, http) {
  const port = await freePort();
  const file = join(directory, `${name}.conf`);
  writeFileSync(
    file,
    `daemon off; worker_processes 1; pid ${directory}/${name}.pid; error_log ${directory}/${name}.error;
     events { worker_connections 1024; }
     http { access_log off; keepalive_requests 100000000;
       client_body_temp_path ${directory}/${name}-body; proxy_temp_path ${directory}/${name}-proxy;
       fastcgi_temp_path ${directory}/${name}-f; uwsgi_temp_path ${directory}/${name}-u; scgi_temp_path ${directory}/${name}-s;
       large_client_header_buffers 8 32k;
       ${http.replaceAll("PORT", port)} }`,
  );
  const handle = start(name, "taskset", ["-c", core, "nginx", "-c", file], { log: join(directory, `${name}.log`) });
  const url = `http://127.0.0.1:${port}`;
  await until(`answer of ${name}`, async () => ((await fetch(url)).ok ? true : undefined), { handle });
  const children = readFileSync(`/proc/${handle.child.pid}/task/${handle.child.pid}/children`, "utf8");
  return { url, processes: [handle.child.pid, ...children.trim().split(/\s+/).map(Number)] };
}

/** CPU-seconds that processes have used, all their threads included. */
function cpu(processes) {
  const ticks = processes.map((id) => {
    const fields = readFileSync(`/proc/${id}/stat`, "utf8").replace(/^.*\) /s, "").split(" ");
    return Number(fields[11]) + Number(fields[12]);
  });
  return ticks.reduce((sum, one) => sum + one, 0) / TICKS;
}

/** Time that `core` was idle, and all time, in ticks. */
function busy(core) {
  const line = readFileSync("/proc/stat", "utf8").split("\n").find((one) => one.startsWith(`cpu${core} `));
  const fields = line.split(/\s+/).slice(1).map(Number);
  return { idle: fields[3] + fields[4], all: fields.reduce((sum, one) => sum + one, 0) };
}

function measure({ url, processes, cookie }) {
  const headers = cookie ? ["-H", `Cookie: ${cookie}`] : [];
  const before = { cpu: cpu(processes), core: busy(PROXY_CORE) };
  const said = execFileSync("taskset", ["-c", LOAD_CORE, "wrk", "-t1", `-c${CONNECTIONS}`, `-d${seconds}s`, ...headers, url], { encoding: "utf8" });
  const after = { cpu: cpu(processes), core: busy(PROXY_CORE) };
  const failed = said.match(/Non-2xx or 3xx responses: (\d+)/) ?? said.match(/Socket errors: .*/);
  if (failed) throw new Error(`${url}: ${failed[0]}`);
  const requests = Number(said.match(/(\d+) requests in/)[1]);
  const core = after.core.all - before.core.all;
  return {
    cost: ((after.cpu - before.cpu) / requests) * 100_000,
    rate: requests / seconds,
    busy: 1 - (after.core.idle - before.core.idle) / core,
  };
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

const upstream = await startNginx("upstream", LOAD_CORE, `server { listen 127.0.0.1:PORT; return 200 "${BODY}"; }`);
const nginx = await startNginx(
  "proxy",
  PROXY_CORE,
  `upstream echo { server ${upstream.url.slice(7)}; keepalive 128; keepalive_requests 100000000; }
   server { listen 127.0.0.1:PORT; location / { proxy_pass http://echo; proxy_http_version 1.1; proxy_set_header Connection "";
     proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Real-IP $remote_addr; } }`,
);

const gateway = await startGateway({ WARDGATE_WORKERS: "1", WARDGATE_ACCESS_LOG: "off", WARDGATE_LOG: "warn" });
const second = gateway.url(1);
const provider = await startOidcProvider({
  redirectUris: [`${second}/session`],
  postLogoutRedirectUris: [],
  accessTokenSeconds: 3600,
  // Makes the session's cookie about 3 KB long, as those of real providers are.
  padding: 1_300,
});
execFileSync("taskset", ["-a", "-cp", PROXY_CORE, String(gateway.processId(1))]);
await gateway.configure("POST", "/services", "name=bench", `url=${upstream.url}`);
await gateway.configure("POST", "/services/bench/routes", "paths[]=/plain", "name=plain");
await gateway.configure("POST", "/services/bench/routes", "paths[]=/session", "name=session");
await gateway.configure(
  "POST",
  "/routes/session/plugins",
  "name=openid-connect",
  `config.issuer=${provider.issuer}`,
  `config.client_id=${provider.client.id}`,
  `config.client_secret=${provider.client.secret}`,
  `config.redirect_uri=${second}/session`,
  ...provider.scopes.map((scope) => `config.scopes=${scope}`),
);
const browser = await openBrowser(directory);
await browser.page.goto(`${second}/session`);
await provider.signIn(browser.page, "alice");
await browser.page.waitForURL(`${second}/session**`);
const cookie = await browser.cookieHeader(`${second}/session`);
await browser.close();

const wardgate = { processes: [gateway.processId(1)] };
const cases = {
  nginx,
  plain: { ...wardgate, url: `${second}/plain` },
  control: { ...wardgate, url: `${second}/plain` },
  session: { ...wardgate, url: `${second}/session`, cookie },
};
const alone = measure({ url: upstream.url, processes: upstream.processes });
const results = Object.fromEntries(Object.keys(cases).map((name) => [name, []]));
for (const one of Object.values(cases)) measure(one);
for (let round = 0; round < rounds; round += 1) {
  // Another order each round, so that no case always follows the same one.
  const names = Object.keys(cases);
  for (let at = 0; at < names.length; at += 1) {
    const name = names[(at + round) % names.length];
    results[name].push(measure(cases[name]));
  }
}

const against = (name, base) => results[name].map(({ cost }, round) => cost / results[base][round].cost);
const line = (name, base) => {
  const of = (field) => median(results[name].map((one) => one[field]));
  const ratios = base ? against(name, base) : [];
  const ratio = base ? `${median(ratios).toFixed(2)} × ${base} (${Math.min(...ratios).toFixed(2)}–${Math.max(...ratios).toFixed(2)})` : "";
  console.log(`${name.padEnd(9)}${of("cost").toFixed(2).padStart(7)}${of("rate").toFixed(0).padStart(10)}/s${(100 * of("busy")).toFixed(0).padStart(6)} %   ${ratio}`);
};
console.log(`${rounds} rounds of ${seconds} s, ${CONNECTIONS} connections, 1 KB answers, no access logs; session cookie of ${cookie.length} bytes`);
console.log(`the load alone reaches ${alone.rate.toFixed(0)} requests/s, so it is no limit to a proxy that is far below`);
console.log("\n         CPU s per 100k requests    rate    proxy core   ratio of the rounds: median (range)");
line("nginx");
line("plain", "nginx");
line("control", "plain");
line("session", "plain");

await provider.stop();
await gateway.stop();
await stopAll();
rmSync(directory, { recursive: true, force: true });
process.exit(0);

// User instructions (callgrind) and system calls (strace) of a request: figures that do not scatter.
//
// Usage: node instructions.js [DIRECTORY]   Profiles for `callgrind_annotate` are kept in DIRECTORY.

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { start, stopAll } from "../real-peers/processes.js";
import { send } from "./client.js";
import { startCluster, usedAgain } from "./proxied.js";
import { startUpstream } from "./peers.js";
import { startProvider } from "./provider.js";

// So many that what a connection costs at its beginning hardly counts.
const REQUESTS = 8000;

/** The cases of `cluster` at node `at`. */
function cases({ gateway, cookie, due, bearer }, at) {
  const url = gateway.url(at);
  return {
    plain: { url: `${url}/plain` },
    balanced: { url: `${url}/balanced` },
    plugins: { url: `${url}/plugins` },
    session: { url: `${url}/session`, headers: { Cookie: cookie } },
    due: { url: `${url}/due`, headers: { Cookie: due } },
    bearer: { url: `${url}/bearer`, headers: { Authorization: `Bearer ${bearer}` } },
    all: { url: `${url}/all`, headers: { Authorization: `Bearer ${bearer}` } },
    http2: { url: `${url}/plain`, http2: true },
    http2Bearer: { url: `${url}/bearer`, headers: { Authorization: `Bearer ${bearer}` }, http2: true },
    tls: { url: `${gateway.tlsUrl(at)}/plain` },
    handshake: { url: `${gateway.tlsUrl(at)}/plain`, fresh: true, requests: REQUESTS / 8 },
  };
}

/** `one` with the cookie that a browser would have by now: a session whose use is to be noted is told it on each request. */
async function current(name, one) {
  return name === "session" ? { ...one, headers: { Cookie: await usedAgain(one.url, one.headers.Cookie) } } : one;
}

/** User instructions of one request of `one` in the process `id`, which callgrind runs. */
async function instructions(name, one, id, directory) {
  const control = (...args) => execFileSync("callgrind_control", [...args, String(id)], { stdio: "ignore" });
  const { requests = REQUESTS } = one;
  await send(one, 500);
  control("--instr=on");
  await send(one, 200);
  control("--zero");
  await send(one, requests);
  control(`--dump=${name}`);
  control("--instr=off");
  const files = execFileSync("sh", ["-c", `ls -t ${directory}/profile.${id}.*`], { encoding: "utf8" }).trim().split("\n");
  const texts = files.map((file) => ({ file, text: readFileSync(file, "utf8") }));
  const { file, text } = texts.find((found) => found.text.includes(`Client Request: ${name}`) || found.text.includes(name));
  execFileSync("cp", [file, join(directory, `${name}.callgrind`)]);
  return Number(text.match(/^(?:totals|summary): (\d+)/m)[1]) / requests;
}

/** System calls of one request of `one` in the process `id`, by name. */
async function systemCalls(one, id, directory) {
  const { requests = REQUESTS } = one;
  await send(one, 500);
  const file = join(directory, "calls");
  const tracer = start("strace", "strace", ["-f", "-c", "-o", file, "-p", String(id)], { log: join(directory, "strace.log") });
  await new Promise((resolve) => setTimeout(resolve, 500));
  await send(one, requests);
  process.kill(tracer.child.pid, "SIGINT");
  await tracer.ended;
  const lines = readFileSync(file, "utf8").split("\n").map((line) => line.trim().split(/\s+/));
  const counts = lines.filter((fields) => Number(fields[3]) > requests / 100 && fields.at(-1) !== "total");
  return counts.map((fields) => `${fields.at(-1)} ${(Number(fields[3]) / requests).toFixed(2)}`).join(", ");
}

/** Prints both for clusters of 10 and of `many` routes. */
export async function printInstructions(kept, many = 50_000) {
  const directory = kept ?? mkdtempSync(join(tmpdir(), "wardgate-bench-"));
  mkdirSync(directory, { recursive: true });
  const upstream = await startUpstream(directory);
  const provider = await startProvider({ padding: 1_600 });
  const by = ["valgrind", "--tool=callgrind", "--instr-atstart=no", `--callgrind-out-file=${directory}/profile.%p`];
  console.log("\ncase        routes   user instructions   system calls per request");
  for (const routes of [10, many].filter(Boolean)) {
    const cluster = await startCluster({ upstream: upstream.url, provider, routes, by });
    for (const [name, one] of Object.entries(cases(cluster, 0))) {
      if (routes > 10 && name !== "plain") continue;
      const count = await instructions(name, await current(name, one), cluster.gateway.processId(0), directory);
      const calls = await systemCalls(await current(name, cases(cluster, 1)[name]), cluster.gateway.processId(1), directory);
      console.log(`${name.padEnd(12)}${String(routes).padStart(6)}${count.toFixed(0).padStart(20)}   ${calls}`);
    }
    await cluster.gateway.stop();
  }
  await provider.stop();
  await upstream.stop();
  if (!kept) rmSync(directory, { recursive: true, force: true });
}

if (process.argv[1].endsWith("instructions.js")) {
  process.env.PATH += ":/usr/sbin";
  await printInstructions(process.argv[2], Number(process.argv[3] ?? 50_000));
  await stopAll();
  process.exit(0);
}

// How long the control plane takes for large configurations, and how much memory they need.
//
// Usage: node config.js [RECORDS]   WARDGATE_BIN_DIR names the programs; `tests/bench/run-config` sets it.

import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

const total = Number(process.argv[2] ?? 100_000);
const program = join(process.env.WARDGATE_BIN_DIR, "wardgate-control-plane");
const agent = new http.Agent({ keepAlive: true, maxSockets: 10 });

/** A control plane with a store of its own. */
async function start() {
  const directory = mkdtempSync(join(tmpdir(), "wardgate-bench-"));
  const certificates = join(directory, "certificates");
  execFileSync(program, ["certificates", "--out", certificates]);
  const addresses = join(directory, "addresses.json");
  const child = spawn(program, [], {
    env: {
      ...process.env,
      WARDGATE_CLUSTER_CERTIFICATE: join(certificates, "control-plane.pem"),
      WARDGATE_CLUSTER_KEY: join(certificates, "control-plane.key"),
      WARDGATE_CLUSTER_CA: join(certificates, "ca.pem"),
      WARDGATE_ADMIN_LISTEN: "127.0.0.1:0",
      WARDGATE_CLUSTER_LISTEN: "127.0.0.1:0",
      WARDGATE_DATA_DIRECTORY: join(directory, "data"),
      WARDGATE_ADDRESSES_FILE: addresses,
      WARDGATE_LOG: "warn",
    },
    stdio: ["ignore", "inherit", "inherit"],
  });
  while (!existsSync(addresses)) {
    if (child.exitCode !== null) throw new Error("the control plane ended");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const { admin } = JSON.parse(readFileSync(addresses, "utf8"));
  const [host, port] = admin.split(":");
  const stop = async () => {
    const ended = new Promise((resolve) => child.once("close", resolve));
    child.kill("SIGTERM");
    await ended;
    rmSync(directory, { recursive: true, force: true });
  };
  return { child, host, port, stop };
}

/** One request; resolves to its status and, if wanted, its body. */
function ask({ host, port }, method, path, body, wanted = false) {
  return new Promise((resolve, reject) => {
    const text = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body);
    const headers = text === undefined ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(text) };
    const request = http.request({ agent, host, port, method, path, headers }, (response) => {
      const chunks = [];
      response.on("data", (chunk) => wanted && chunks.push(chunk));
      response.on("end", () => resolve({ status: response.statusCode, body: Buffer.concat(chunks).toString() }));
    });
    request.once("error", reject);
    request.end(text);
  });
}

async function must(node, method, path, body, wanted) {
  const reply = await ask(node, method, path, body, true);
  if (reply.status >= 300) throw new Error(`${method} ${path}: ${reply.status} ${reply.body.slice(0, 500)}`);
  return wanted ? JSON.parse(reply.body) : undefined;
}

const seconds = async (work) => {
  const begun = process.hrtime.bigint();
  await work();
  return Number(process.hrtime.bigint() - begun) / 1e9;
};

/** Memory of a process, in MB: what it has now, and the most that it had. */
function memory({ child }) {
  const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
  const field = (name) => Math.round(Number(status.match(new RegExp(`${name}:\\s+(\\d+)`))[1]) / 1024);
  return { now: field("VmRSS"), most: field("VmHWM") };
}

/** `count` records: services, each with a route and a plugin. */
function file(count) {
  const services = [];
  for (let at = 0; at < count / 3; at += 1) {
    services.push({
      name: `service-${at}`,
      host: `upstream-${at}.test`,
      tags: ["bench"],
      routes: [{ name: `route-${at}`, paths: [`/path-${at}`], tags: ["bench"] }],
      plugins: [{ name: "acl", config: { allow: ["group"] }, tags: ["bench"] }],
    });
  }
  return JSON.stringify({ _format_version: "3.0", services });
}

const id = (kind, at) => `${kind}0000000-0000-4000-8000-${String(at).padStart(12, "0")}`;

/** Sends everything as decK does: PUT by id, ten at a time, parents first. */
async function sync(node, services) {
  for (const put of [
    (at) => ["services", id(1, at), { name: `service-${at}`, host: "h.test", protocol: "http", port: 80 }],
    (at) => ["routes", id(2, at), { name: `route-${at}`, paths: [`/path-${at}`], service: { id: id(1, at) } }],
    (at) => ["plugins", id(3, at), { name: "acl", config: { allow: ["g"] }, service: { id: id(1, at) } }],
  ]) {
    let next = 0;
    const worker = async () => {
      while (next < services) {
        const [kind, key, body] = put(next++);
        await must(node, "PUT", `/${kind}/${key}`, { id: key, ...body });
      }
    };
    await Promise.all(Array.from({ length: 10 }, worker));
  }
}

/** Reads everything in pages, as decK does before it compares. */
async function readAll(node) {
  let found = 0;
  for (const kind of ["services", "routes", "plugins", "consumers", "upstreams", "certificates", "snis"]) {
    let next = `/${kind}?size=1000`;
    while (next) {
      const page = await must(node, "GET", next, undefined, true);
      found += page.data.length;
      next = page.offset ? `/${kind}?size=1000&offset=${encodeURIComponent(page.offset)}` : null;
    }
  }
  return found;
}

/** The median time of a single write, in milliseconds. */
async function singleWrite(node) {
  const times = [];
  for (let at = 0; at < 101; at += 1) {
    times.push(1000 * (await seconds(() => must(node, "PATCH", "/services/service-0", { retries: at % 10 }))));
  }
  return times.sort((a, b) => a - b)[50];
}

const node = await start();
try {
  await must(node, "POST", "/config", file(99));
  const few = await singleWrite(node);
  const text = file(total);
  const posted = await seconds(() => must(node, "POST", "/config", text));
  const again = await seconds(() => must(node, "POST", "/config", text));
  // What was encoded for data planes and what is cached settles first.
  await new Promise((resolve) => setTimeout(resolve, 3000));
  const many = await singleWrite(node);
  const used = memory(node);
  console.log(`POST /config of ${total} records: ${posted.toFixed(2)} s, unchanged again: ${again.toFixed(2)} s`);
  console.log(`single write: ${few.toFixed(2)} ms at 99 records, ${many.toFixed(2)} ms at ${total}: ${(many / few).toFixed(2)} times`);
  console.log(`memory of the control plane: ${used.now} MB at ${total} records, at most ${used.most} MB`);
  console.log(`reading all in pages: ${(await seconds(() => readAll(node))).toFixed(2)} s`);
} finally {
  await node.stop();
}

const services = Math.round(total / 10);
const second = await start();
try {
  const synced = await seconds(() => sync(second, services));
  const found = await readAll(second);
  console.log(`${found} records by PUT, ten at a time: ${synced.toFixed(1)} s`);
} finally {
  await second.stop();
  agent.destroy();
}

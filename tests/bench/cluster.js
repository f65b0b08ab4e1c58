// Both planes as processes with directories of their own, for the measurements of this directory.

import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

const program = (plane) => join(process.env.WARDGATE_BIN_DIR, `wardgate-${plane}`);
const agent = new http.Agent({ keepAlive: true, maxSockets: 10 });

/** A directory with the certificates of a control plane and of one data plane. */
export function prepare() {
  const directory = mkdtempSync(join(tmpdir(), "wardgate-bench-"));
  execFileSync(program("control-plane"), ["certificates", "--out", join(directory, "certificates"), "--data-plane", "node-1"]);
  return { directory, remove: () => rmSync(directory, { recursive: true, force: true }) };
}

/** Starts one of the planes in a directory that was prepared; resolves once it listens. */
async function start(plane, name, { directory }, environment) {
  const certificates = join(directory, "certificates");
  const addresses = join(directory, `${name}.json`);
  rmSync(addresses, { force: true });
  const child = spawn(program(plane), [], {
    env: {
      ...process.env,
      WARDGATE_CLUSTER_CERTIFICATE: join(certificates, `${name}.pem`),
      WARDGATE_CLUSTER_KEY: join(certificates, `${name}.key`),
      WARDGATE_CLUSTER_CA: join(certificates, "ca.pem"),
      WARDGATE_DATA_DIRECTORY: join(directory, name),
      WARDGATE_ADDRESSES_FILE: addresses,
      WARDGATE_LOG: process.env.WARDGATE_LOG ?? "warn",
      ...environment,
    },
    stdio: ["ignore", "inherit", "inherit"],
  });
  while (!existsSync(addresses)) {
    if (child.exitCode !== null) throw new Error(`${name} ended`);
    await pause(2);
  }
  const stop = async () => {
    const ended = new Promise((resolve) => child.once("close", resolve));
    child.kill("SIGTERM");
    await ended;
  };
  return { child, addresses: JSON.parse(readFileSync(addresses, "utf8")), stop };
}

/** A control plane; `cluster` is the address for data planes. */
export function startControlPlane(place, cluster = "127.0.0.1:0") {
  return start("control-plane", "control-plane", place, { WARDGATE_ADMIN_LISTEN: "127.0.0.1:0", WARDGATE_CLUSTER_LISTEN: cluster });
}

/** A data plane of the control plane at the address `cluster`. */
export function startDataPlane(place, cluster) {
  return start("data-plane", "node-1", place, {
    WARDGATE_CONTROL_PLANES: `https://${cluster}`,
    WARDGATE_PROXY_LISTEN: "127.0.0.1:0",
    WARDGATE_PROXY_TLS_LISTEN: "127.0.0.1:0",
    WARDGATE_STATUS_LISTEN: "127.0.0.1:0",
    WARDGATE_ACCESS_LOG: "off",
    // Each try to reach a control plane that is away on purpose would be a warning.
    WARDGATE_LOG: process.env.WARDGATE_LOG ?? "error",
  });
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** One request to an address; resolves to its status and body. */
export function ask(address, method, path, body) {
  const [host, port] = address.split(":");
  return new Promise((resolve, reject) => {
    const text = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body);
    const headers = text === undefined ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(text) };
    const request = http.request({ agent, host, port, method, path, headers }, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("end", () => resolve({ status: response.statusCode, body: Buffer.concat(chunks).toString() }));
    });
    request.once("error", reject);
    request.end(text);
  });
}

/** One request to the Admin API that must succeed; resolves to what it says, if that is wanted. */
export async function must(node, method, path, body, wanted) {
  const reply = await ask(node.addresses.admin, method, path, body);
  if (reply.status >= 300) throw new Error(`${method} ${path}: ${reply.status} ${reply.body.slice(0, 500)}`);
  return wanted ? JSON.parse(reply.body) : undefined;
}

export const done = () => agent.destroy();

export const seconds = async (work) => {
  const begun = process.hrtime.bigint();
  await work();
  return Number(process.hrtime.bigint() - begun) / 1e9;
};

export const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** Memory of a process, in MB: what it has now, and the most that it had. */
export function memory({ child }) {
  const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
  const field = (name) => Math.round(Number(status.match(new RegExp(`${name}:\\s+(\\d+)`))[1]) / 1024);
  return { now: field("VmRSS"), most: field("VmHWM") };
}

/** `count` records: services, each with a route and a plugin. */
export function file(count) {
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

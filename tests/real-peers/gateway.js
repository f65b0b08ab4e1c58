// A Wardgate cluster of real processes, an upstream that echoes, and the guide's commands, sent by curl.

import { execFile, execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { start, stop, until } from "./processes.js";

const run = promisify(execFile);
const ANY = "127.0.0.1:0";

/**
 * Starts a control plane, two data planes called `node-1` and `node-2` with further `settings`, and an upstream. The
 * first data plane is run by the command `by`, if there is one.
 */
export async function startGateway(settings = {}, by = []) {
  const directory = mkdtempSync(join(tmpdir(), "wardgate-"));
  const binary = (name) => join(process.env.WARDGATE_BIN_DIR, name);
  const certificates = join(directory, "certificates");
  execFileSync(binary("wardgate-control-plane"), [
    "certificates", "--out", certificates, "--data-plane", "node-1", "--data-plane", "node-2",
  ]);

  async function startMember(program, name, own, by = []) {
    const told = join(directory, `${name}.json`);
    rmSync(told, { force: true });
    const env = {
      WARDGATE_CLUSTER_CERTIFICATE: join(certificates, `${name}.pem`),
      WARDGATE_CLUSTER_KEY: join(certificates, `${name}.key`),
      WARDGATE_CLUSTER_CA: join(certificates, "ca.pem"),
      WARDGATE_DATA_DIRECTORY: join(directory, "data", name),
      WARDGATE_ADDRESSES_FILE: told,
      ...own,
    };
    const [command, ...args] = [...by, binary(program)];
    const handle = start(name, command, args, { env, log: join(directory, `${name}.log`) });
    const addresses = await until(`addresses of ${name}`, () => JSON.parse(readFileSync(told, "utf8")), { handle });
    return { handle, addresses };
  }

  const controlPlane = { listen: { admin: ANY, cluster: ANY, console: ANY } };
  async function startControlPlane() {
    const { handle, addresses } = await startMember("wardgate-control-plane", "control-plane", {
      WARDGATE_ADMIN_LISTEN: controlPlane.listen.admin,
      WARDGATE_CLUSTER_LISTEN: controlPlane.listen.cluster,
      WARDGATE_CONSOLE_LISTEN: controlPlane.listen.console,
    });
    // Started again, it is to be found where it was.
    controlPlane.listen = addresses;
    controlPlane.handle = handle;
  }

  const nodes = [];
  async function startNode(at) {
    const listen = nodes[at]?.addresses ?? { proxy: ANY, proxy_tls: ANY, status: ANY };
    nodes[at] = await startMember("wardgate-data-plane", `node-${at + 1}`, {
      WARDGATE_PROXY_LISTEN: listen.proxy,
      WARDGATE_PROXY_TLS_LISTEN: listen.proxy_tls,
      WARDGATE_STATUS_LISTEN: listen.status,
      WARDGATE_CONTROL_PLANES: `https://${controlPlane.listen.cluster}`,
      ...settings,
    }, at === 0 ? by : []);
  }

  await startControlPlane();
  await Promise.all([startNode(0), startNode(1)]);

  const upstream = createServer((request, response) => {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ method: request.method, url: request.url, headers: request.headers }));
  });
  await new Promise((resolve) => upstream.listen(0, "127.0.0.1", resolve));

  const admin = () => `http://${controlPlane.listen.admin}`;

  /** Runs curl as the guide does; the status and the JSON of the answer. */
  async function curl(...args) {
    const { stdout } = await run("curl", ["-s", "-w", "\n%{http_code}", ...args]);
    const end = stdout.lastIndexOf("\n");
    const body = stdout.slice(0, end);
    let json;
    try {
      json = JSON.parse(body);
    } catch {
      json = undefined;
    }
    return { status: Number(stdout.slice(end + 1)), body, json };
  }

  /** Sends `--data name=value …` to the Admin API and waits until both nodes run what follows. */
  async function configure(method, path, ...data) {
    const answer = await curl("-X", method, `${admin()}${path}`, ...data.flatMap((one) => ["--data", one]));
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${answer.body}`);
    await settled();
    return answer.json;
  }

  async function settled(timeoutMs = 120_000) {
    const newest = (await curl(`${admin()}/status`)).json.configuration_revision;
    await until(`revision ${newest} on every node`, async () => {
      const running = await Promise.all(nodes.map(({ addresses }) => curl(`http://${addresses.status}/status`)));
      return running.every(({ json }) => json.configuration_revision >= newest) || undefined;
    }, { timeoutMs });
  }

  async function persisted() {
    await until("the configuration on every node's disk", async () => {
      const { json } = await curl(`${admin()}/clustering/data-planes`);
      const all = json.data.filter((node) => node.persisted && node.progress === "current");
      return all.length === nodes.length || undefined;
    });
  }

  return {
    directory,
    /** Where the public keys of the cluster are. */
    jwksUri: () => `${admin()}/openid-connect/jwks`,
    upstream: `http://127.0.0.1:${upstream.address().port}`,
    processId: (at) => nodes[at].handle.child.pid,
    tlsUrl: (at) => `https://${nodes[at].addresses.proxy_tls}`,
    url: (at) => `http://${nodes[at].addresses.proxy}`,
    admin,
    console: () => `http://${controlPlane.listen.console}/`,
    curl,
    configure,
    settled,
    persisted,
    startControlPlane,
    stopControlPlane: () => stop(controlPlane.handle),
    async restartNode(at) {
      await stop(nodes[at].handle);
      await startNode(at);
    },
    async stop() {
      await Promise.all(nodes.map(({ handle }) => stop(handle)));
      await stop(controlPlane.handle);
      upstream.closeAllConnections();
      upstream.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

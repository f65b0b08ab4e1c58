// How long both planes take to start with large configurations, and a data plane to take a change.
//
// Usage: node start.js [RECORDS ...]   WARDGATE_BIN_DIR names the programs; `tests/bench/run-start` sets it.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { ask, done, file, median, memory, must, pause, prepare, seconds, startControlPlane, startDataPlane } from "./cluster.js";

const sizes = process.argv.length > 2 ? process.argv.slice(2).map(Number) : [10_000, 100_000];
const STARTS = 5;

/** Waits for an answer with this status. */
async function until(status, address, path) {
  for (;;) {
    const reply = await ask(address, "GET", path).catch(() => undefined);
    if (reply?.status === status) return;
    await pause(2);
  }
}

/** The configuration with a first route that answers by itself. */
function answering(records) {
  const document = JSON.parse(file(records));
  document.services[0].plugins = [{ name: "request-termination", config: { status_code: 200 } }];
  return JSON.stringify(document);
}

async function measure(records) {
  const place = prepare();
  const running = new Set();
  const track = async (starting) => {
    const started = await starting;
    running.add(started);
    return started;
  };
  const end = async (process) => {
    running.delete(process);
    await process.stop();
  };
  try {
    let controlPlane = await track(startControlPlane(place));
    await must(controlPlane, "POST", "/config", answering(records));
    const { cluster } = controlPlane.addresses;
    let node;
    const first = await seconds(async () => {
      node = await track(startDataPlane(place, cluster));
      await until(200, node.addresses.proxy, "/path-0");
    });
    console.log(`${records} records: a new data plane serves after ${first.toFixed(2)} s, ${memory(node).most} MB at most`);
    while (!existsSync(join(place.directory, "node-1", "last-good"))) await pause(20);

    const changes = [];
    for (let at = 0; at < 11; at += 1) {
      changes.push(await seconds(() => must(controlPlane, "PATCH", "/routes/route-1?wait=60", { paths: [`/changed-${at}`] })));
    }
    console.log(`${records} records: a change of one route is served after ${median(changes).toFixed(3)} s (median of ${changes.length})`);

    const starts = [];
    for (let at = 0; at < STARTS; at += 1) {
      await end(controlPlane);
      starts.push(
        await seconds(async () => {
          controlPlane = await track(startControlPlane(place, cluster));
          await until(200, controlPlane.addresses.admin, "/services/service-0");
        }),
      );
    }
    console.log(`${records} records: the control plane starts in ${median(starts).toFixed(2)} s (median of ${STARTS})`);
    await end(controlPlane);

    const nodes = [];
    for (let at = 0; at < STARTS; at += 1) {
      await end(node);
      nodes.push(
        await seconds(async () => {
          node = await track(startDataPlane(place, cluster));
          await until(200, node.addresses.status, "/status/ready");
          await until(200, node.addresses.proxy, "/path-0");
        }),
      );
    }
    const used = memory(node);
    console.log(
      `${records} records: a data plane without its control plane starts in ${median(nodes).toFixed(2)} s (median of ${STARTS}), ` +
        `${used.now} MB, at most ${used.most} MB`,
    );
  } finally {
    for (const process of running) await process.stop();
    place.remove();
  }
}

for (const records of sizes) await measure(records);
done();

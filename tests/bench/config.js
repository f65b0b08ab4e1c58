// How long the control plane takes for large configurations, and how much memory they need.
//
// Usage: node config.js [RECORDS]   WARDGATE_BIN_DIR names the programs; `tests/bench/run-config` sets it.

import { done, file, median, memory, must, pause, prepare, seconds, startControlPlane } from "./cluster.js";

const total = Number(process.argv[2] ?? 100_000);

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
  return median(times);
}

const place = prepare();
const node = await startControlPlane(place);
try {
  await must(node, "POST", "/config", file(99));
  const few = await singleWrite(node);
  const text = file(total);
  const posted = await seconds(() => must(node, "POST", "/config", text));
  const again = await seconds(() => must(node, "POST", "/config", text));
  // What was encoded for data planes and what is cached settles first.
  await pause(3000);
  const many = await singleWrite(node);
  const used = memory(node);
  console.log(`POST /config of ${total} records: ${posted.toFixed(2)} s, unchanged again: ${again.toFixed(2)} s`);
  console.log(`single write: ${few.toFixed(2)} ms at 99 records, ${many.toFixed(2)} ms at ${total}: ${(many / few).toFixed(2)} times`);
  console.log(`memory of the control plane: ${used.now} MB at ${total} records, at most ${used.most} MB`);
  console.log(`reading all in pages: ${(await seconds(() => readAll(node))).toFixed(2)} s`);
} finally {
  await node.stop();
  place.remove();
}

const services = Math.round(total / 10);
const other = prepare();
const second = await startControlPlane(other);
try {
  const synced = await seconds(() => sync(second, services));
  const found = await readAll(second);
  console.log(`${found} records by PUT, ten at a time: ${synced.toFixed(1)} s`);
} finally {
  await second.stop();
  other.remove();
  done();
}

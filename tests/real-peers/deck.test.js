// decK against the Admin API: what it writes is what it reads, and what the data planes serve.

import assert from "node:assert/strict";
import { test } from "node:test";
import { differences, everything, openDeck } from "./deck.js";
import { startGateway } from "./gateway.js";
import { stopAll } from "./processes.js";

const NOTHING = [0, 0, 0];
const file = (content) => ({ _format_version: "3.0", ...content });

test("decK", async (t) => {
  let gateway;
  t.after(async () => {
    await gateway?.stop();
    await stopAll();
  });
  gateway = await startGateway();
  const deck = openDeck(gateway.admin(), gateway.directory);
  const { hostname: host, port } = new URL(gateway.upstream);
  const { state, count } = everything({ host, port, certificates: `${gateway.directory}/certificates` });
  const reset = (...args) => deck.done("reset", "--force", ...args);
  const unchanged = async (...args) => {
    assert.deepEqual(await deck.report("sync", ...args), NOTHING);
    await deck.done("diff", "--non-zero-exit-code", ...args);
  };

  await t.test("finds a Kong whose files it knows", async () => {
    assert.match(await deck.done("ping"), /Kong version: +3\.\d+\.\d+/);
  });

  await t.test("has a state checked before anything is written", async () => {
    await deck.done("validate", state);
    const { code, stderr } = await deck.run("validate", file({
      services: [{ name: "far", host: "h", port: 70000 }],
      plugins: [{ name: "key-auth", config: { key_namez: ["a"] } }],
    }));
    assert.equal(code, 1);
    assert.match(stderr, /HTTP status 400 \(message: "schema violation \(port: value should be between 0 and 65535\)"\)/);
    assert.match(stderr, /schema violation \(config\.key_namez: unknown field\)/);
    assert.deepEqual(await deck.dump(), file());
  });

  await t.test("makes every kind of record, once", async () => {
    assert.deepEqual(await deck.report("diff", state), [count, 0, 0]);
    assert.deepEqual(await deck.report("sync", "--parallelism", "20", state), [count, 0, 0]);
    await unchanged(state);
  });

  await t.test("dumps what it was given, and changes nothing by it", async () => {
    const dumped = await deck.dump();
    const sent = structuredClone(state);
    sent.upstreams[0].targets[1].target = "[2001:0db8:0000:0000:0000:0000:0000:0001]:80";
    assert.deepEqual(differences(sent, dumped), []);
    await unchanged(dumped);
  });

  await t.test("is served by every data plane", async () => {
    await gateway.settled();
    for (const node of [0, 1]) {
      const url = `${gateway.url(node)}/app`;
      assert.equal((await gateway.curl(url)).status, 401);
      const { status, json } = await gateway.curl("-H", "x-key: key-of-yoda", url);
      assert.deepEqual([status, json?.url, json?.headers["x-added"]], [200, "/base", "1"]);
      assert.equal((await gateway.curl(`${gateway.url(node)}/alone`)).status, 418);
    }
  });

  await t.test("changes the record whose field has changed, and no other", async () => {
    for (const change of [
      (next) => (next.services[0].retries = 4),
      (next) => (next.services[0].routes[0].headers = { "x-b": ["1"] }),
      (next) => delete next.services[0].routes[0].methods,
      (next) => (next.services[0].plugins[0].config.hide_credentials = true),
      // Of a consumer that is in no group: decK compares a member with its consumer's fields.
      (next) => (next.consumers[1].custom_id = "subject-2"),
      (next) => (next.consumers[0].jwt_secrets[0].secret = "another"),
      (next) => (next.consumer_groups[0].plugins[0].config.second = 50),
      (next) => (next.upstreams[0].healthchecks.active.timeout = 3),
      (next) => (next.upstreams[0].targets[1].weight = 1),
      (next) => delete next.vaults[0].description,
      (next) => (next.keys[1].kid = "three"),
    ]) {
      change(state);
      assert.deepEqual(await deck.report("sync", state), [0, 1, 0], change.toString());
    }
    await unchanged(state);
  });

  await t.test("shows what Kong says to a record that it does not take", async () => {
    const { code, stderr } = await deck.run("sync", file({ ...state, routes: [{ name: "alone", protocols: ["tcp"] }] }));
    assert.equal(code, 1);
    assert.match(stderr, /must set one of 'sources', 'destinations', 'snis' when 'protocols' is 'tcp', 'tls' or 'udp'/);
    await deck.report("sync", state);
  });

  await t.test("applies a part and leaves the rest alone", async () => {
    const part = file({ services: [{ name: "more", host: "more.internal", routes: [{ name: "more", paths: ["/more"] }] }] });
    assert.deepEqual(await deck.report("apply", part), [2, 0, 0]);
    assert.deepEqual(await deck.report("apply", part), NOTHING);
    assert.deepEqual(await deck.report("sync", state), [0, 0, 2]);
  });

  await t.test("keeps to the records that have its tags", async () => {
    const tags = { select_tags: ["ours", "shared"] };
    const ours = file({ _info: tags, services: [{ name: "tagged", host: "h", routes: [{ name: "tagged", paths: ["/tagged"] }] }] });
    assert.deepEqual(await deck.report("sync", ours), [2, 0, 0]);
    await unchanged(ours);
    const { services } = await deck.dump("--select-tag", "ours,shared");
    assert.deepEqual(services.map(({ name }) => name), ["tagged"]);
    assert.deepEqual(await deck.report("sync", file({ _info: tags })), [0, 0, 2]);
  });

  await t.test("refers to records of another file by their tags", async () => {
    const base = file({ _info: { select_tags: ["base"] }, services: [{ name: "base", host: "h" }] });
    const user = file({
      _info: { select_tags: ["user"], default_lookup_tags: { services: ["base"] } },
      routes: [{ name: "user", paths: ["/user"], service: { name: "base" } }],
    });
    assert.deepEqual(await deck.report("sync", base), [1, 0, 0]);
    assert.deepEqual(await deck.report("sync", user), [1, 0, 0]);
    await unchanged(user);
    await unchanged(base);
    assert.deepEqual(await deck.report("sync", state), [0, 0, 2]);
  });

  await t.test("keeps workspaces apart", async () => {
    const team = file({ _workspace: "team", services: [{ name: "app", host: "team.internal" }], consumers: [{ username: "yoda" }] });
    // Authorities are no workspace's own.
    const own = ["--skip-ca-certificates"];
    assert.deepEqual(await deck.report("sync", ...own, team), [2, 0, 0]);
    await unchanged(...own, team);
    await unchanged(state);
    const dumped = await deck.dump("--workspace", "team", ...own);
    assert.deepEqual(differences(team, dumped), []);
    await reset("--workspace", "team", ...own);
    assert.deepEqual(await deck.dump("--workspace", "team", ...own), file({ _workspace: "team" }));
    await unchanged(state);
  });

  await t.test("takes away what it has made, and brings it back with its ids", async () => {
    const dumped = await deck.dump("--with-id");
    await reset();
    assert.deepEqual(await deck.dump(), file());
    assert.deepEqual(await deck.report("sync", dumped), [count, 0, 0]);
    assert.deepEqual(await deck.dump("--with-id"), dumped);
    await reset();
  });

  await t.test("writes five hundred services with a route each", async () => {
    const services = Array.from({ length: 500 }, (_, at) => ({
      name: `s${at}`, host: "h", routes: [{ name: `r${at}`, paths: [`/r${at}`] }],
    }));
    assert.deepEqual(await deck.report("sync", "--parallelism", "20", file({ services })), [1000, 0, 0]);
    await unchanged(file({ services }));
    await reset();
    assert.deepEqual(await deck.dump(), file());
  });
});

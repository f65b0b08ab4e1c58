// The tests that decK and the library below it have of their own, against the Admin API. Those for Kong Enterprise and
// for other versions of Kong skip themselves, by what the root page says.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { startGateway } from "./gateway.js";
import { stopAll } from "./processes.js";

const SUITES = [
  {
    name: "go-kong",
    program: "go-kong.test",
    directory: "go-kong-source/kong",
    atLeast: 140,
    skipped: {
      TestBaseRootURL: "expects port 8001",
      TestListeners: "expects proxies beside the Admin API; here each data plane has its own",
    },
  },
  {
    name: "decK",
    program: "deck.test",
    directory: "deck-source/tests/integration",
    atLeast: 180,
    skipped: {},
  },
];

for (const { name, program, directory, atLeast, skipped } of SUITES) {
  test(`${name}'s own tests`, async (t) => {
    let gateway;
    t.after(async () => {
      await gateway?.stop();
      await stopAll();
    });
    gateway = await startGateway();
    const admin = gateway.admin();
    const clients = process.env.KONG_CLIENTS;
    const args = ["-test.v", "-test.count=1", "-test.timeout=10m"];
    const skips = Object.keys(skipped).map((one) => `^${one}$`);
    if (skips.length > 0) args.push(`-test.skip=${skips.join("|")}`);
    const child = spawn(join(clients, program), args, {
      cwd: join(clients, directory),
      env: {
        ...process.env,
        KONG_ADMIN_URL: admin,
        DECK_KONG_ADDR: admin,
        DECK_ANALYTICS: "off",
        HOME: gateway.directory,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (output += chunk));
    const code = await new Promise((resolve) => child.once("close", resolve));
    const failed = output.match(/^ *--- FAIL: .*$/gm) ?? [];
    assert.deepEqual(failed, [], output.slice(-20_000));
    assert.equal(code, 0, output.slice(-20_000));
    // A suite that skips everything would pass too.
    const passed = output.match(/^ *--- PASS: /gm)?.length ?? 0;
    assert.ok(passed >= atLeast, `${passed} passed`);
  });
}

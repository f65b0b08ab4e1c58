// Starts programs and stops them again by process id, whatever way the suite ends.

import { spawn } from "node:child_process";
import { createWriteStream, readFileSync } from "node:fs";

const running = new Set();

/** Starts `command`; its output goes to `log`. The returned process is stopped with the suite if not before. */
export function start(name, command, args, { env = {}, log } = {}) {
  // A group of its own, so that what a start script forks is stopped along with it.
  const child = spawn(command, args, {
    env: { ...process.env, ...env },
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const output = createWriteStream(log, { flags: "a" });
  child.stdout.pipe(output, { end: false });
  child.stderr.pipe(output, { end: false });
  const handle = { name, child, log, ended: new Promise((resolve) => child.once("close", resolve)) };
  child.once("error", (error) => output.write(`${name} did not start: ${error.message}\n`));
  child.once("exit", () => running.delete(handle));
  running.add(handle);
  return handle;
}

/** Asks a program to end, and kills it if it has not within `graceMs`. */
export async function stop(handle, graceMs = 10_000) {
  if (!running.has(handle)) return;
  signal(handle, "SIGTERM");
  const timer = setTimeout(() => signal(handle, "SIGKILL"), graceMs);
  await handle.ended;
  clearTimeout(timer);
}

/** Stops all programs that are still running. */
export async function stopAll() {
  await Promise.all([...running].map((handle) => stop(handle)));
}

/** Waits until `probe` returns something other than `undefined`; fails with the log's end if `handle` ends first. */
export async function until(what, probe, { handle, timeoutMs = 120_000 } = {}) {
  const deadline = Date.now() + timeoutMs;
  let last;
  for (;;) {
    try {
      const found = await probe();
      if (found !== undefined) return found;
    } catch (error) {
      last = error;
    }
    if (handle && !running.has(handle)) throw new Error(`${handle.name} ended while waiting for ${what}:\n${tail(handle)}`);
    if (Date.now() > deadline) {
      throw new Error(`no ${what} within ${timeoutMs} ms${handle ? `:\n${tail(handle)}` : ""}`, { cause: last });
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function tail({ log }) {
  return readFileSync(log, "utf8").split("\n").slice(-40).join("\n");
}

function signal({ child }, name) {
  try {
    process.kill(-child.pid, name);
  } catch {
    // Already gone.
  }
}

process.once("exit", () => {
  for (const handle of running) signal(handle, "SIGKILL");
});
for (const [name, code] of [["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]]) {
  process.once(name, () => process.exit(code));
}

// What a proxy costs: CPU, memory, and how long its slowest answers take.

import { execFileSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { LOAD_CORE, PROXY_CORE } from "./peers.js";

const CONNECTIONS = 50;
const TICKS = Number(execFileSync("getconf", ["CLK_TCK"]));

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

/** Resident memory of processes, in MB. */
export function memory({ processes }) {
  const sizes = processes.map((id) => Number(readFileSync(`/proc/${id}/status`, "utf8").match(/VmRSS:\s+(\d+)/)[1]));
  return Math.round(sizes.reduce((sum, one) => sum + one, 0) / 1024);
}

const fields = (headers) => Object.entries(headers ?? {}).flatMap(([name, value]) => ["-H", `${name}: ${value}`]);

/** Loads `one` for `seconds`: CPU-seconds per 100,000 requests, requests per second, and how busy the core was. */
export function load({ url, processes, headers }, seconds) {
  const before = { cpu: cpu(processes), core: busy(PROXY_CORE) };
  const args = ["-c", LOAD_CORE, "wrk", "-t1", `-c${CONNECTIONS}`, `-d${seconds}s`, ...fields(headers), url];
  const said = execFileSync("taskset", args, { encoding: "utf8" });
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

/** The time in milliseconds within which 99 of 100 requests are answered when `rate` of them come per second. */
export function slowest({ url, headers }, rate, seconds, directory) {
  const log = join(directory, "latencies");
  rmSync(log, { force: true });
  const each = Math.max(1, Math.round(rate / CONNECTIONS));
  const args = ["--h1", "-t1", `-c${CONNECTIONS}`, `-D${seconds}`, `--rps=${each}`, `--log-file=${log}`, ...fields(headers), url];
  execFileSync("taskset", ["-c", LOAD_CORE, "h2load", ...args], { stdio: "ignore" });
  const lines = readFileSync(log, "utf8").trim().split("\n").map((line) => line.split("\t").map(Number));
  const failed = lines.filter(([, status]) => status !== 200).length;
  if (failed > 0) throw new Error(`${url}: ${failed} of ${lines.length} requests failed`);
  const times = lines.map(([, , time]) => time).sort((a, b) => a - b);
  return times[Math.floor(times.length * 0.99)] / 1000;
}

export const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

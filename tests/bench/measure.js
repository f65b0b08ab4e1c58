// What a proxy costs: CPU, memory, and how long its slowest answers take.

import { execFileSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { LOAD_CORE, PROXY_CORE } from "./peers.js";

const CONNECTIONS = 50;
// Clients that shake hands one time after another: few, as they cost more than the proxy, and never all wait.
const SHAKERS = 8;
const TICKS = Number(execFileSync("getconf", ["CLK_TCK"]));

/** CPU-seconds that processes have used, all their threads included. */
function cpu(processes) {
  const ticks = processes.map((id) => {
    const fields = readFileSync(`/proc/${id}/stat`, "utf8").replace(/^.*\) /s, "").split(" ");
    return Number(fields[11]) + Number(fields[12]);
  });
  return sum(ticks) / TICKS;
}

/** Time that `core` was idle, and all time, in ticks. */
function busy(core) {
  const line = readFileSync("/proc/stat", "utf8").split("\n").find((one) => one.startsWith(`cpu${core} `));
  const fields = line.split(/\s+/).slice(1).map(Number);
  return { idle: fields[3] + fields[4], all: sum(fields) };
}

/** Resident memory of processes, in MB. */
export function memory({ processes }) {
  const sizes = processes.map((id) => Number(readFileSync(`/proc/${id}/status`, "utf8").match(/VmRSS:\s+(\d+)/)[1]));
  return Math.round(sum(sizes) / 1024);
}

const fields = (headers) => Object.entries(headers ?? {}).flatMap(([name, value]) => ["-H", `${name}: ${value}`]);

/** What `processes` cost while `send` runs for `seconds`, which says how many requests it has sent. */
function measured(processes, seconds, send) {
  const before = { cpu: cpu(processes), core: busy(PROXY_CORE) };
  const requests = send();
  const after = { cpu: cpu(processes), core: busy(PROXY_CORE) };
  return {
    cost: ((after.cpu - before.cpu) / requests) * 100_000,
    rate: requests / seconds,
    busy: 1 - (after.core.idle - before.core.idle) / (after.core.all - before.core.all),
  };
}

/** Runs a command once for each of `cores` at a time, for each with one of `last` behind it; what they say. */
function onEach(cores, command, last = []) {
  const quoted = (words) => words.map((word) => `'${word}'`).join(" ");
  const all = cores.map((core, at) => `taskset -c ${core} ${quoted([...command, ...last.slice(at, at + 1)])} &`);
  return execFileSync("sh", ["-c", `${all.join("\n")}\nwait`], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
}

const sum = (values) => values.reduce((total, one) => total + Number(one), 0);

/** Loads `one` for `seconds`: CPU-seconds per 100,000 requests, requests per second, and how busy the core was. */
export function load({ url, processes, headers }, seconds) {
  return measured(processes, seconds, () => {
    const said = onEach([LOAD_CORE], ["wrk", "-t1", `-c${CONNECTIONS}`, `-d${seconds}s`, ...fields(headers), url]);
    const failed = said.match(/Non-2xx or 3xx responses: (\d+)/) ?? said.match(/Socket errors: .*/);
    if (failed) throw new Error(`${url}: ${failed[0]}`);
    return Number(said.match(/(\d+) requests in/)[1]);
  });
}

/** The same with a connection of its own for each request, and a full handshake of TLS 1.3, for which OpenSSL's client says `*`. */
export function handshakes({ url, processes }, seconds) {
  const { host, pathname } = new URL(url);
  return measured(processes, seconds, () => {
    const args = ["openssl", "s_time", "-connect", host, "-new", "-tls1_3", "-time", String(seconds), "-www", pathname];
    const said = onEach(Array(SHAKERS).fill(LOAD_CORE), args);
    const full = said.match(/\*/g)?.length ?? 0;
    const told = [...said.matchAll(/^(\d+) connections in .* real seconds, (\d+) bytes/gm)];
    const made = sum(told.map(([, connections]) => connections));
    if (told.length !== SHAKERS || made !== full) throw new Error(`${url}: ${full} full handshakes in ${made} connections`);
    if (told.some(([, , bytes]) => Number(bytes) < 1024)) throw new Error(`${url}: an answer is missing`);
    return made;
  });
}

/**
 * The same with `rate` requests per second on each of `cores`, which proxy, upstream and load share: a rate that leaves
 * them idle for a part of the time, so that none waits for another. Each core's load goes to one of `urls`.
 */
export function throttled({ urls, processes, upstream }, cores, rate, seconds) {
  for (const id of [...processes, ...upstream.processes]) place(id, cores);
  return measured(processes, seconds, () => {
    const each = Math.max(1, Math.round(rate / CONNECTIONS));
    const said = onEach(cores, ["h2load", "--h1", "-t1", `-c${CONNECTIONS}`, `-D${seconds}`, `--rps=${each}`], urls);
    const told = [...said.matchAll(/(\d+) succeeded, (\d+) failed/g)];
    if (told.length !== cores.length || told.some(([, , failed]) => failed !== "0")) throw new Error(`${urls}: ${said}`);
    return sum(told.map(([, succeeded]) => succeeded));
  });
}

/** Lets the process `id` run on `cores` alone. */
export function place(id, cores) {
  execFileSync("taskset", ["-a", "-cp", cores.join(","), String(id)], { stdio: "ignore" });
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

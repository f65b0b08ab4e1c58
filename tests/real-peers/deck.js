// decK as an operator runs it: state files in, reports and dumps out.

import { execFile } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** A decK that works on `admin`, with its files in `directory`. */
export function openDeck(admin, directory) {
  const env = { ...process.env, DECK_KONG_ADDR: admin, DECK_ANALYTICS: "off", HOME: directory };
  let files = 0;

  /** Runs `deck gateway …`. A state that is an object is given as a file. */
  function run(command, ...args) {
    const words = args.map((arg) => {
      if (typeof arg === "string") return arg;
      const path = join(directory, `state-${(files += 1)}.json`);
      writeFileSync(path, JSON.stringify(arg));
      return path;
    });
    return new Promise((resolve) => {
      const options = { env, cwd: directory, maxBuffer: 64 * 1024 * 1024 };
      execFile(join(process.env.KONG_CLIENTS, "deck"), ["gateway", command, ...words], options, (error, stdout, stderr) => {
        resolve({ code: error ? error.code : 0, stdout, stderr });
      });
    });
  }

  async function done(command, ...args) {
    const outcome = await run(command, ...args);
    if (outcome.code !== 0) throw new Error(`deck ${command} ended with ${outcome.code}:\n${outcome.stderr}`);
    return outcome.stdout;
  }

  /** Changes the gateway, or with `diff` only says how: how many records are made, changed and deleted. */
  async function report(command, ...args) {
    const output = await done(command, ...args);
    const numbers = /Created: (\d+)\s+Updated: (\d+)\s+Deleted: (\d+)/.exec(output);
    if (!numbers) throw new Error(`deck ${command} gave no summary:\n${output}`);
    return numbers.slice(1).map(Number);
  }

  return {
    run,
    done,
    report,
    dump: async (...args) => JSON.parse(await done("dump", "--format", "json", "--output-file", "-", ...args)),
  };
}

const CERTIFICATE = "11111111-1111-4111-8111-111111111111";
const AUTHORITY = "22222222-2222-4222-8222-222222222222";

/**
 * A state with every kind of record that decK and the gateway both know, whose service `app` is at `host` and
 * `port`. How many records that is comes along.
 */
export function everything({ host, port, certificates }) {
  const read = (name) => readFileSync(join(certificates, name), "utf8");
  const { publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const pem = publicKey.export({ type: "spki", format: "pem" });
  const jwk = JSON.stringify({ kid: "one", ...publicKey.export({ format: "jwk" }) });
  const state = {
    _format_version: "3.0",
    services: [
      {
        name: "app",
        host: "backends",
        path: "/base",
        retries: 3,
        tags: ["team-a", "blue"],
        routes: [
          {
            name: "front",
            paths: ["/app", "~/app/[0-9]+$"],
            methods: ["GET", "POST"],
            plugins: [{ name: "cors", config: { origins: ["https://a.example"], credentials: true } }],
          },
          { name: "rpc", protocols: ["grpc", "grpcs"], hosts: ["*.rpc.example"], headers: { "x-a": ["1", "2"] }, strip_path: false },
        ],
        plugins: [
          { name: "key-auth", instance_name: "keys-of-app", config: { key_names: ["apikey", "x-key"] } },
          { name: "acl", config: { allow: ["masters"] } },
        ],
      },
      {
        name: "secure",
        protocol: "https",
        host: "secure.internal",
        port: 8443,
        client_certificate: CERTIFICATE,
        tls_verify: true,
        tls_verify_depth: 2,
        ca_certificates: [AUTHORITY],
      },
    ],
    routes: [{ name: "alone", paths: ["/alone"], plugins: [{ name: "request-termination", config: { status_code: 418 } }] }],
    consumers: [
      {
        username: "yoda",
        custom_id: "subject-1",
        tags: ["jedi"],
        keyauth_credentials: [{ key: "key-of-yoda" }],
        hmacauth_credentials: [{ username: "yoda", secret: "secret" }],
        jwt_secrets: [
          { key: "symmetric", algorithm: "HS256", secret: "secret" },
          { key: "asymmetric", algorithm: "RS256", rsa_public_key: pem, secret: "unused" },
        ],
        acls: [{ group: "masters" }],
        oauth2_credentials: [
          {
            name: "app",
            client_id: "client",
            client_secret: "secret",
            // decK does not fill these two.
            client_type: "confidential",
            hash_secret: false,
            redirect_uris: ["https://a.example/callback"],
          },
        ],
        groups: [{ name: "gold" }],
        plugins: [{ name: "rate-limiting", config: { minute: 1000, policy: "local" } }],
      },
      { username: "luke" },
    ],
    consumer_groups: [
      { name: "gold", tags: ["paying"], plugins: [{ name: "rate-limiting", config: { second: 100, policy: "local" } }] },
    ],
    plugins: [
      {
        name: "openid-connect",
        enabled: false,
        config: { issuer: "https://provider.example", client_id: ["client"], client_secret: ["secret"], scopes: ["openid", "email"] },
      },
      { name: "request-transformer", config: { add: { headers: ["x-added:1"] } } },
    ],
    upstreams: [
      {
        name: "backends",
        algorithm: "consistent-hashing",
        hash_on: "header",
        hash_on_header: "x-user",
        healthchecks: { active: { type: "https", http_path: "/health", timeout: 2 } },
        targets: [
          { target: `${host}:${port}`, weight: 10, tags: ["here"] },
          { target: "[2001:db8::1]:80", weight: 0 },
        ],
      },
    ],
    certificates: [
      { id: CERTIFICATE, cert: read("control-plane.pem"), key: read("control-plane.key"), snis: [{ name: "a.example" }, { name: "*.c.example" }] },
    ],
    ca_certificates: [{ id: AUTHORITY, cert: read("ca.pem") }],
    vaults: [{ name: "env", prefix: "my-env", description: "variables", config: { prefix: "SECRET_" } }],
    key_sets: [{ name: "set" }],
    keys: [
      { name: "first", kid: "one", jwk, set: { name: "set" } },
      { name: "second", kid: "two", pem: { public_key: pem } },
    ],
  };
  return { state, count: 34 };
}

/** What is wrong with `dumped`, given that it stands for `sent`: the paths of fields that differ, in words. */
export function differences(sent, dumped, path = "") {
  if (Array.isArray(sent)) {
    if (!Array.isArray(dumped) || dumped.length !== sent.length) return [`${path}: ${JSON.stringify(dumped)}`];
    const rest = [...dumped];
    return sent.flatMap((one, at) => {
      // decK sorts records; each must have its counterpart, and none may stand for two.
      const found = rest.findIndex((other) => differences(one, other).length === 0);
      if (found < 0) return [`${path}.${at}: ${JSON.stringify(one)} is not in ${JSON.stringify(rest)}`];
      rest.splice(found, 1);
      return [];
    });
  }
  if (sent !== null && typeof sent === "object") {
    return Object.entries(sent).flatMap(([name, value]) => differences(value, dumped?.[name], `${path}.${name}`));
  }
  return sent === dumped ? [] : [`${path}: ${JSON.stringify(sent)} became ${JSON.stringify(dumped)}`];
}

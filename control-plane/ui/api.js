// The Admin API, which the console's own server passes on below `api`.

const TOKEN = "admin token";

/** An answer that is no success. */
export class Refused extends Error {
  constructor(status, body) {
    super(body?.message ?? `the Admin API answered ${status}`);
    this.status = status;
    this.fields = body?.fields ?? {};
  }
}

/** Keeps the token for this tab, and forgets it with the tab. */
export const signIn = (token) => sessionStorage.setItem(TOKEN, token);

/** Sends `body` as JSON to `path`; the JSON of the answer. */
export async function call(method, path, body) {
  const headers = { accept: "application/json" };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers["kong-admin-token"] = token;
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await fetch(`api${path}`, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
  });
  const text = await response.text();
  let json;
  try {
    json = text ? JSON.parse(text) : undefined;
  } catch {
    json = undefined;
  }
  if (!response.ok) throw new Refused(response.status, json);
  return json;
}

export const read = (path) => call("GET", path);

/** A path of segments that may hold anything. */
export const path = (...segments) => segments.map((segment) => `/${encodeURIComponent(segment)}`).join("");

const schemas = new Map();

/** The fields of a collection, or of a plugin if one is named: pairs of name and attributes, in order. */
export async function schema(kind, plugin) {
  const key = plugin ? `plugins/${plugin}` : kind;
  if (!schemas.has(key)) {
    const { fields } = await read(`/schemas/${key}`);
    schemas.set(key, fields.map((field) => Object.entries(field)[0]));
  }
  return schemas.get(key);
}

/** What the list of endpoints tells: by its name in URLs, each collection's kind and what lies below it. */
export async function collections() {
  const { data } = await read("/endpoints");
  const paths = new Set(data);
  const found = new Map();
  for (const [, name, kind] of data.map((path) => path.match(/^\/([a-z0-9_-]+)\/\{([a-z0-9_-]+)\}$/) ?? [])) {
    // Tags, for one, are read and not made: they have no schema.
    if (name && paths.has(`/${name}`) && paths.has(`/schemas/${kind}`)) found.set(name, { kind, below: new Map() });
  }
  for (const path of data) {
    // A list, not the one record that a foreign key points to: records of a list have a path each.
    const [, parent, child, kind] = path.match(/^\/([a-z0-9_-]+)\/\{[a-z0-9_-]+\}\/([a-z0-9_-]+)\/\{([a-z0-9_-]+)\}$/) ?? [];
    if (child && paths.has(`/schemas/${kind}`)) found.get(parent)?.below.set(child, kind);
  }
  for (const [name, { kind }] of found) names.set(kind, name);
  return { found, has: (path) => paths.has(path) };
}

const names = new Map();

/** A collection's name in URLs. */
export const nameOf = (kind) => names.get(kind) ?? kind;

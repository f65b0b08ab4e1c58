// The console: pages by the part of the URL behind `#`, each drawn from what the Admin API tells of itself.

import { Refused, call, collections, path, read, schema, signIn } from "./api.js";
import { alert, confirm, element, link, notice, table, time } from "./elements.js";
import { formFor, titleOf } from "./form.js";

const PAGE = 25;
/** As many as the Admin API gives at once: a fleet is looked at as a whole. */
const MOST_NODES = 1000;
const main = document.getElementById("main");
let map;

/** Collections whose records are looked for below a consumer or an upstream. */
const isNested = (kind) => /_credentials$|^(jwt_secrets|acls|targets)$/.test(kind);

async function show() {
  const segments = location.hash.replace(/^#\/?/, "").split("?")[0].split("/").filter(Boolean).map(decodeURIComponent);
  const query = new URLSearchParams(location.hash.split("?")[1] ?? "");
  try {
    if (!map) await start();
    const page = await choose(segments, query);
    main.replaceChildren(...page);
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return main.replaceChildren(...tokenPage());
    main.replaceChildren(element("h1", {}, "That did not work"), alert(error.message));
  }
  const title = main.querySelector("h1")?.textContent ?? "Wardgate";
  document.title = `${title} – Wardgate`;
  for (const one of document.querySelectorAll("#navigation a")) {
    const here = one.hash === `#/${segments[0] ?? ""}`;
    if (here) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
  main.focus({ preventScroll: true });
}

const titled = (name) => name.replaceAll(/[_-]/g, " ");

async function start() {
  const [about, found] = await Promise.all([read("/"), collections()]);
  map = { ...found, about };
  document.getElementById("about").textContent = `Admin API ${about.version} on ${about.hostname}`;
  const pages = [["", "Data planes"], ...(map.has("/revisions") ? [["revisions", "Revisions"]] : [])];
  const kinds = [...map.found].filter(([, { kind }]) => !isNested(kind)).map(([name]) => [name, titled(name)]);
  const list = (entries) => element("ul", {}, entries.map(([to, text]) => element("li", {}, link(`#/${to}`, text))));
  document.getElementById("navigation").replaceChildren(list(pages), list(kinds));
}

function choose(segments, query) {
  if (segments.length === 0) return overview(query);
  if (segments[0] === "revisions") return revisions(query);
  const place = placeOf(segments);
  return place.record ? recordPage(place) : listPage(place, query);
}

/** A collection, maybe below a parent, and the record in it that is asked for, if one is. */
function placeOf(segments) {
  const [name, id, nested, child] = segments;
  const own = map.found.get(name);
  const kind = own?.kind ?? name;
  if (!nested) return { kind, name, base: path(name), record: id };
  const parent = { kind, name, id };
  return { kind: own?.below.get(nested) ?? nested, name: nested, parent, base: path(name, id, nested), record: child };
}

/** A page of the list at `base`, from `offset` on if there is one. */
const pageOf = (base, size, offset) => read(`${base}?size=${size}${offset ? `&offset=${encodeURIComponent(offset)}` : ""}`);

async function overview(query) {
  const [planes, status] = await Promise.all([pageOf("/clustering/data-planes", MOST_NODES, query.get("offset")), read("/status")]);
  const rows = planes.data.map((node) => {
    const refusal = node.last_refusal;
    const faults = refusal?.faults?.map((fault) => [fault.entity_type, fault.field, fault.message].filter(Boolean).join(" "));
    return [
      node.name ?? node.id,
      node.hostname,
      element("span", { className: node.connected ? "good" : "bad" }, node.connected ? "connected" : "away"),
      element("span", { className: node.progress === "current" ? "good" : "bad" }, node.progress ?? "unknown"),
      String(node.revision ?? ""),
      time(node.last_seen),
      refusal ? `revision ${refusal.revision}: ${faults.join("; ")}` : "none",
      time(node.cert_details?.expiry_timestamp),
      node.version,
    ];
  });
  return [
    element("h1", {}, "Data planes"),
    element("p", {}, `The configuration is at revision ${status.configuration_revision}.`),
    table(
      `${planes.data.length} shown`,
      ["Node", "Machine", "Link", "Progress", "Revision", "Last seen", "Last refusal", "Certificate ends", "Version"],
      rows,
    ),
    planes.offset ? element("p", {}, link(`#/?offset=${encodeURIComponent(planes.offset)}`, "Next page")) : null,
    reloadButton(),
  ].filter(Boolean);
}

async function revisions(query) {
  const { data, next } = await pageOf("/revisions", PAGE, query.get("offset"));
  const heads = [...new Set(data.flatMap((one) => Object.keys(one)))];
  const cell = (value) => (typeof value === "object" && value !== null ? element("code", {}, JSON.stringify(value)) : String(value ?? ""));
  const rows = data.map((one) => [
    ...heads.map((head) => (head === "at" || head.endsWith("_at") ? time(one[head]) : cell(one[head]))),
    element("button", { type: "button", onclick: () => rollBack(one.revision) }, "Roll back to it"),
  ]);
  return [
    element("h1", {}, "Revisions"),
    table("What was changed, the newest first", [...heads, "Action"], rows),
    next ? element("p", {}, link(`#/revisions?offset=${encodeURIComponent(new URLSearchParams(next.split("?")[1]).get("offset"))}`, "Older")) : null,
  ].filter(Boolean);
}

async function rollBack(revision) {
  if (!(await confirm(`Make the configuration what it was at revision ${revision}? That is a new revision.`, "Roll back"))) return;
  await attempt(async () => {
    await call("POST", `/revisions/${revision}/rollback`);
    notice(`Rolled back to revision ${revision}`);
    await show();
  });
}

async function listPage({ kind, name, parent, base }, query) {
  const search = query.get("search");
  const offset = query.get("offset");
  let data = [];
  let next = null;
  if (search) {
    try {
      data = [bare(await read(base + path(search)))];
    } catch (error) {
      if (!(error instanceof Refused) || ![400, 404].includes(error.status)) throw error;
    }
  } else {
    const page = await pageOf(base, PAGE, offset);
    ({ data } = page);
    next = page.offset ?? null;
  }
  const here = `#${base}`;
  const field = element("input", { type: "search", id: "search", value: search ?? "", placeholder: "name or id" });
  const form = element(
    "form",
    {
      className: "bar",
      role: "search",
      onsubmit(event) {
        event.preventDefault();
        location.hash = field.value.trim() ? `${here}?search=${encodeURIComponent(field.value.trim())}` : here;
      },
    },
    element("label", { htmlFor: "search" }, "Find"),
    field,
    element("button", {}, "Find"),
    element("a", { className: "button first", href: `${here}/new` }, `New: ${titled(name)}`),
  );
  const heads = headsOf(kind, data);
  const rows = data.map((record) => [
    link(`${here}/${encodeURIComponent(record.id ?? titleOf(record))}`, titleOf(record)),
    ...heads.map((head) => summary(record[head])),
  ]);
  return [
    element("h1", {}, parent ? `${titled(name)} of ${titled(parent.name)} ${parent.id}` : titled(name)),
    form,
    data.length === 0
      ? element("p", {}, search ? "Nothing has this name or id." : "There is none yet.")
      : table(`${data.length} shown`, ["Name", ...heads], rows),
    next ? element("p", {}, link(`${here}?offset=${encodeURIComponent(next)}`, "Next page")) : null,
  ].filter(Boolean);
}

/** The columns that tell records of a kind apart. */
function headsOf(kind, data) {
  const wanted = ["name", "enabled", "protocol", "host", "port", "path", "hosts", "paths", "methods", "service", "route", "consumer", "custom_id", "weight", "tags"];
  const first = data[0] ?? {};
  return wanted.filter((head) => head in first && !(head === "name" && kind !== "plugins") && data.some((one) => one[head] !== null));
}

function summary(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.map(summary).join(", ");
  if (typeof value === "object") return value.id ?? JSON.stringify(value);
  return String(value);
}

async function recordPage({ kind, name, parent, base, record: id }) {
  const creating = id === "new";
  const record = creating ? undefined : bare(await read(base + path(id)));
  if (kind === "plugins" && creating) return pluginChoice(parent, base);
  return form({ kind, name, parent, base }, record, kind === "plugins" ? record.name : undefined);
}

/** A consumer group comes with its consumers around it. */
const bare = (body) => body.consumer_group ?? body;

function pluginChoice(parent, base) {
  const names = Object.keys(map.about.plugins.available_on_server).sort();
  const select = element("select", { id: "plugin" }, names.map((name) => element("option", {}, name)));
  return [
    element("h1", {}, "New plugin"),
    element(
      "form",
      {
        className: "bar",
        onsubmit(event) {
          event.preventDefault();
          attempt(async () => main.replaceChildren(...(await form({ kind: "plugins", name: "plugins", parent, base }, undefined, select.value))));
        },
      },
      element("label", { htmlFor: "plugin" }, "Plugin"),
      select,
      element("button", { className: "first" }, "Configure"),
    ),
    element("div", { id: "problem" }),
  ];
}

/** The form of a record, new or not. */
async function form({ kind, name: title, parent, base }, record, plugin) {
  const own = await schema(kind);
  const fields = plugin
    ? [...own.filter(([name]) => name !== "config" && name !== "name"), ...(await schema(kind, plugin)).filter(([name]) => name === "config")]
    : own;
  const hidden = parent ? fields.filter(([, field]) => field.type === "foreign" && field.reference === parent.kind).map(([name]) => name) : [];
  const parts = formFor(fields, record, { hidden });
  const initial = parts.value();
  const problem = element("div", { id: "problem" });
  const submit = element("button", { className: "first" }, record ? "Save" : "Create");
  const find = element("input", { type: "search", id: "find", oninput: () => parts.filter(find.value.trim().toLowerCase()) });
  const heading = plugin ? `${plugin}${record ? "" : ": new plugin"}` : record ? titleOf(record) : `New: ${titled(title)}`;
  return [
    element("h1", {}, heading),
    record ? element("p", {}, element("code", {}, record.id), ` · created ${time(record.created_at)}`) : null,
    record ? belowOf(title, record) : null,
    element("p", { className: "bar" }, element("label", { htmlFor: "find" }, "Show fields with"), find),
    problem,
    element(
      "form",
      {
        noValidate: true,
        async onsubmit(event) {
          event.preventDefault();
          submit.disabled = true;
          await save(base, record, plugin, initial, parts, problem);
          submit.disabled = false;
        },
      },
      parts.nodes,
      element("div", { className: "bar" }, submit, record ? deleteButton(base, record) : null),
    ),
  ].filter(Boolean);
}

/** Links to what lies below a record. */
function belowOf(name, record) {
  const children = [...(map.found.get(name)?.below.keys() ?? [])];
  if (children.length === 0) return null;
  const links = children.map((child) => link(`#${path(name, record.id, child)}`, titled(child)));
  return element("p", { className: "bar" }, "Below it:", links);
}

async function save(base, record, plugin, initial, parts, problem) {
  problem.replaceChildren();
  const value = parts.value();
  const changed = difference(initial, value);
  if (plugin && !record) changed.name = plugin;
  try {
    const saved = record ? await call("PATCH", base + path(record.id), changed) : await call("POST", base, changed);
    notice(record ? "Saved" : "Created");
    const { id } = bare(saved);
    const target = id ? `#${base}/${encodeURIComponent(id)}` : `#${base}`;
    if (location.hash === target) await show();
    else location.hash = target;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    parts.show(error.fields);
    const shown = alert(error.message);
    problem.replaceChildren(shown);
    (document.querySelector('[aria-invalid="true"]') ?? problem).scrollIntoView({ block: "center" });
  }
}

/** What differs. Records are merged by the API, field by field; all else is replaced whole. */
function difference(before, after) {
  const changed = {};
  for (const [name, value] of Object.entries(after)) {
    const old = before[name];
    if (JSON.stringify(old) === JSON.stringify(value)) continue;
    const both = isRecord(old) && isRecord(value) && Object.keys(old).length > 1;
    changed[name] = both ? difference(old, value) : value;
  }
  return changed;
}

const isRecord = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function deleteButton(base, record) {
  const remove = async () => {
    if (!(await confirm(`Delete ${titleOf(record)}?`, "Delete"))) return;
    await attempt(async () => {
      await call("DELETE", base + path(record.id));
      notice("Deleted");
      location.hash = `#${base}`;
    });
  };
  return element("button", { type: "button", className: "danger", onclick: remove }, "Delete");
}

async function attempt(work) {
  try {
    await work();
  } catch (error) {
    const place = document.getElementById("problem") ?? main;
    place.prepend(alert(error.message));
  }
}

function tokenPage() {
  const field = element("input", { id: "token", type: "password", autocomplete: "off" });
  return [
    element("h1", {}, "Sign in"),
    element(
      "form",
      {
        className: "bar",
        onsubmit(event) {
          event.preventDefault();
          signIn(field.value);
          show();
        },
      },
      element("label", { htmlFor: "token" }, "Admin token"),
      field,
      element("button", { className: "first" }, "Sign in"),
    ),
  ];
}

const reloadButton = () => element("p", {}, element("button", { type: "button", onclick: show }, "Look again"));

window.addEventListener("hashchange", show);
show();

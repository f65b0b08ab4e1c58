// Forms that follow from a schema: one control per field, and back to a value.

import { nameOf, path, read } from "./api.js";
import { element } from "./elements.js";

let controls = 0;

/** What is long is written in more than one line. */
const LONG = /(^|_)(cert|key|jwk|pem|public_key|private_key|cert_alt|key_alt|expression|config)$/;

/**
 * A form part for `fields`, filled from `record`. `value()` is what the user has entered, `show(errors)` marks
 * what the API has refused.
 */
export function formFor(fields, record, { hidden = [] } = {}) {
  const parts = fields
    .filter(([name, field]) => !field.auto && !hidden.includes(name))
    .map(([name, field]) => [name, part(name, field, record?.[name], record !== undefined)]);
  return {
    nodes: parts.map(([, { node }]) => node),
    value: () => Object.fromEntries(parts.map(([name, { value }]) => [name, value()])),
    show(errors) {
      for (const [name, { show }] of parts) show(errors?.[name]);
    },
    filter(text) {
      let any = false;
      for (const [name, { node, filter }] of parts) {
        const inside = filter?.(text) ?? false;
        const found = inside || name.includes(text);
        node.hidden = !found;
        any ||= found;
      }
      return any;
    },
  };
}

function part(name, field, value, exists) {
  const shown = exists ? value : (value ?? field.default);
  if (field.type === "record" && field.fields) return record(name, field, shown, exists);
  const make = kind(name, field);
  return labelled(name, field, make, shown);
}

function record(name, field, value, exists) {
  const inner = formFor(field.fields.map((one) => Object.entries(one)[0]), exists ? (value ?? {}) : value ?? undefined);
  const wrong = element("p", { className: "wrong", hidden: true });
  const node = element(
    "fieldset",
    {},
    element("legend", {}, name),
    field.description && element("p", { className: "hint" }, field.description),
    wrong,
    inner.nodes,
  );
  return {
    node,
    // A record that may be absent is absent while nothing is in it.
    value() {
      const entered = inner.value();
      const empty = Object.values(entered).every((one) => one === null || one?.length === 0);
      return empty && !field.required && (value ?? null) === null ? null : entered;
    },
    show(errors) {
      const text = typeof errors === "string" ? errors : errors?.["@entity"]?.join("; ");
      wrong.textContent = text ?? "";
      wrong.hidden = !text;
      inner.show(typeof errors === "object" ? errors : undefined);
    },
    filter: inner.filter,
  };
}

function labelled(name, field, make, value) {
  const id = `control-${++controls}`;
  const hint = element("p", { className: "hint", id: `${id}-hint` }, hintOf(field));
  const wrong = element("p", { className: "wrong", id: `${id}-wrong`, hidden: true });
  const control = make(id, value ?? null);
  control.target.setAttribute("aria-describedby", `${hint.id} ${wrong.id}`);
  if (field.required && (field.default ?? null) === null) control.target.setAttribute("aria-required", "true");
  const label = control.group
    ? element("p", { id: `${id}-label`, className: "label" }, element("strong", {}, name))
    : element("label", { htmlFor: id }, name);
  if (control.group) control.target.setAttribute("aria-labelledby", `${id}-label`);
  return {
    node: element("div", { className: "field" }, label, hint, control.node, wrong),
    value: control.value,
    show(errors) {
      const text = textOf(errors);
      wrong.textContent = text;
      wrong.hidden = !text;
      control.target.setAttribute("aria-invalid", text ? "true" : "false");
    },
  };
}

function hintOf(field) {
  const facts = [];
  if (field.description) facts.push(field.description);
  if (field.between) facts.push(`${field.between[0]} to ${field.between[1]}.`);
  if (field.required && (field.default ?? null) === null) facts.push("Required.");
  if ((field.default ?? null) !== null) facts.push(`Default: ${JSON.stringify(field.default)}.`);
  return facts.join(" ");
}

/** Errors of a list are keyed by position. */
function textOf(errors) {
  if (!errors) return "";
  if (typeof errors === "string") return errors;
  return Object.entries(errors).map(([at, error]) => `${at}: ${textOf(error)}`).join("; ");
}

function kind(name, field) {
  if (field.type === "boolean") return truth(field);
  if (field.type === "foreign") return foreign(field);
  if (field.one_of && field.type !== "array" && field.type !== "set") return choice(field);
  if (field.type === "array" || field.type === "set") {
    if (field.elements?.one_of) return choices(field);
    if (field.elements?.type === "string" || field.elements?.type === "integer" || field.elements?.type === "number") {
      return lines(field);
    }
    return data();
  }
  if (field.type === "map" || field.type === "record" || field.type === "any") return data();
  return text(name, field);
}

const number = (text) => (text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text);

function text(name, field) {
  const numeric = field.type === "integer" || field.type === "number";
  return (id, value) => {
    const common = { id, autocomplete: "off", spellcheck: false };
    const target = LONG.test(name) && !numeric && !field.encrypted
      ? element("textarea", { ...common, rows: 4, className: "data" })
      : element("input", { ...common, type: field.encrypted ? "password" : "text", inputMode: numeric ? "decimal" : undefined });
    target.value = value ?? "";
    return {
      node: target,
      target,
      value: () => (target.value === "" ? null : numeric ? number(target.value) : target.value),
    };
  };
}

function truth(field) {
  return (id, value) => {
    // What may be absent is neither on nor off.
    const absent = (field.default ?? null) === null && !field.required;
    const options = [...(absent ? [["", "not set"]] : []), ["true", "on"], ["false", "off"]];
    const target = select(id, options, value === null ? (absent ? "" : "false") : String(value));
    return { node: target, target, value: () => (target.value === "" ? null : target.value === "true") };
  };
}

function choice(field) {
  return (id, value) => {
    const options = field.one_of.map((one) => [String(one), String(one)]);
    if (!field.required || (field.default ?? null) === null) options.unshift(["", "not set"]);
    const target = select(id, options, value === null ? "" : String(value));
    const numeric = field.type === "integer" || field.type === "number";
    return { node: target, target, value: () => (target.value === "" ? null : numeric ? Number(target.value) : target.value) };
  };
}

function select(id, options, chosen) {
  const target = element("select", { id }, options.map(([value, label]) => element("option", { value }, label)));
  target.value = chosen;
  return target;
}

function choices(field) {
  return (id, value) => {
    const boxes = field.elements.one_of.map((one, at) => {
      const box = element("input", { type: "checkbox", id: `${id}-${at}`, value: one });
      box.checked = value?.includes(one) ?? false;
      return box;
    });
    const target = element(
      "div",
      { id, role: "group", className: "choices" },
      boxes.map((box) => element("span", {}, box, " ", element("label", { htmlFor: box.id }, box.value))),
    );
    return {
      node: target,
      target,
      group: true,
      value() {
        const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
        if (chosen.length === 0) return value === null ? null : [];
        // What was there keeps its order.
        const before = (value ?? []).filter((one) => chosen.includes(one));
        return [...before, ...chosen.filter((one) => !before.includes(one))];
      },
    };
  };
}

function lines(field) {
  const numeric = field.elements.type !== "string";
  return (id, value) => {
    const target = element("textarea", { id, spellcheck: false, autocomplete: "off", placeholder: "one per line" });
    target.value = (value ?? []).join("\n");
    target.rows = Math.min(8, Math.max(2, (value ?? []).length + 1));
    return {
      node: target,
      target,
      value() {
        const entered = target.value.split("\n").map((line) => line.trim()).filter((line) => line !== "");
        if (entered.length === 0) return value === null ? null : [];
        return numeric ? entered.map(number) : entered;
      },
    };
  };
}

function data() {
  return (id, value) => {
    const target = element("textarea", { id, rows: 4, spellcheck: false, className: "data", placeholder: "JSON" });
    target.value = value === null ? "" : JSON.stringify(value, null, 2);
    return {
      node: target,
      target,
      value() {
        if (target.value.trim() === "") return null;
        try {
          return JSON.parse(target.value);
        } catch {
          // The API says what it expects instead of a text.
          return target.value;
        }
      },
    };
  };
}

function foreign(field) {
  return (id, value) => {
    const target = element("input", { id, autocomplete: "off", spellcheck: false });
    const list = element("datalist", { id: `${id}-list` });
    target.setAttribute("list", list.id);
    target.placeholder = `id or name of one of ${field.reference}`;
    target.value = value?.id ?? "";
    const known = new Map();
    read(`${path(nameOf(field.reference))}?size=200`).then(
      ({ data }) => {
        for (const one of data) {
          const name = titleOf(one);
          known.set(name, one.id);
          list.append(element("option", { value: one.id }, name));
          if (value?.id === one.id) target.title = name;
        }
      },
      () => undefined,
    );
    return {
      node: element("div", {}, target, list),
      target,
      value() {
        const entered = target.value.trim();
        if (entered === "") return null;
        const found = known.get(entered) ?? entered;
        return /^[0-9a-f-]{36}$/i.test(found) ? { id: found } : { [nameField(field.reference)]: found };
      },
    };
  };
}

const nameField = (kind) => (kind === "consumers" ? "username" : "name");

/** What a record is called. */
export function titleOf(record) {
  for (const field of ["name", "username", "custom_id", "target", "group", "key", "prefix", "kid"]) {
    if (typeof record[field] === "string" && record[field] !== "") {
      // A plugin is known by what it is on, and credentials are not shown.
      if (field === "key" && record.consumer) break;
      return record[field];
    }
  }
  return record.id;
}

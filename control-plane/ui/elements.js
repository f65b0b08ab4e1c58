// Elements without markup: what comes from the API is only ever text.

/** An element with properties, attributes (`aria-…`, `for`, …) and children: elements or texts. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key in made && !key.startsWith("aria")) made[key] = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== undefined && child !== null));
  return made;
}

/** A link to a page of the console. */
export const link = (href, text, properties = {}) => element("a", { href, ...properties }, text);

/** A table with a head; the cells of `rows` are elements or texts. */
export function table(caption, heads, rows) {
  return element(
    "div",
    { className: "scroll" },
    element(
      "table",
      {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, rows.map((cells) => element("tr", {}, cells.map((cell) => element("td", {}, cell))))),
    ),
  );
}

/** What is wrong, read out by screen readers. */
export const alert = (message) => element("p", { role: "alert" }, message);

/** Says for some seconds what was done. */
export function notice(message) {
  const shown = element("p", {}, message);
  document.getElementById("notices").append(shown);
  setTimeout(() => shown.remove(), 6000);
}

/** Asks before something that cannot be undone. */
export function confirm(question, yes) {
  return new Promise((resolve) => {
    const dialog = element("dialog", { "aria-label": question });
    const close = (answer) => () => {
      dialog.close();
      dialog.remove();
      resolve(answer);
    };
    dialog.append(
      element("p", {}, question),
      element(
        "div",
        { className: "bar" },
        element("button", { type: "button", className: "danger", onclick: close(true) }, yes),
        element("button", { type: "button", onclick: close(false) }, "Cancel"),
      ),
    );
    dialog.addEventListener("cancel", close(false));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A time of the API: seconds since 1970. */
export const time = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString() : "never");

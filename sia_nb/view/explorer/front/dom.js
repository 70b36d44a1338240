// Elements, numbers and texts. Whatever a model wrote reaches the page by textContent alone, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `attributes` may hold on<event> functions, `text`, `dataset` and `style` objects; children are nodes or strings. */
export function h(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

/** An SVG element, built as `h` does. */
export function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = visible(value);
    else if (name === "style" || name === "dataset") Object.assign(node[name], value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false) node.append(child);
  return node;
}

/** Replace a node's children. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

/** Control characters as the pictures that Unicode has for them, so that binary text can be seen; tabs and line ends stay. */
export function visible(text) {
  return String(text).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g, (c) =>
    c === "\u007f" ? "\u2421" : String.fromCharCode(0x2400 + c.charCodeAt(0)),
  );
}

const missing = (x) => x === null || x === undefined || x === "" || Number.isNaN(x);

/** A score or reward with four decimals; an en dash where there is none. */
export const score = (x, digits = 4) => (missing(x) ? "–" : typeof x === "number" ? x.toFixed(digits) : String(x));

/** A whole number with thin spaces between thousands. */
export const count = (x) => (missing(x) ? "–" : Math.round(x).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f"));

/** Seconds as people say them. */
export function duration(s) {
  if (missing(s)) return "–";
  if (s < 60) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
  return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
}

/** US dollars; "free" for none. */
export const dollars = (x) => (missing(x) ? "not priced" : x === 0 ? "$0" : `$${x.toFixed(x < 1 ? 4 : 2)}`);

/** Any value as short text: floats with four significant digits, everything else as JSON or itself. */
export function plain(value) {
  if (missing(value)) return "–";
  if (typeof value === "number") return Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(4)));
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** A button that copies what `text()` gives and says so. */
export function copyButton(text, label = "Copy", testid = null) {
  const button = h("button", { class: "sia-button", type: "button", "data-testid": testid, title: "Copy to the clipboard" }, label);
  button.addEventListener("click", async () => {
    const said = (await copy(text())) ? "Copied" : "Copying was refused";
    button.textContent = said;
    setTimeout(() => (button.textContent = label), 1400);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { style: { position: "fixed", opacity: "0" } });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** Let the reader save `text` as a file. */
export function download(name, text, type = "text/plain") {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** A table of rows of cells (strings or nodes); `numeric` holds the columns that are aligned to the right. */
export function table(head, rows, numeric = new Set()) {
  const cell = (tag) => (value, i) =>
    h(tag, { class: numeric.has(i) ? "sia-number" : null, scope: tag === "th" ? "col" : null }, value instanceof Node ? value : visible(value));
  return h(
    "div", { class: "sia-wide" },
    h("table", { class: "sia-table" },
      h("thead", {}, h("tr", {}, head.map(cell("th")))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell("td")))))),
  );
}

/** A coloured word. */
export const chip = (text, kind = "") => h("span", { class: `sia-chip ${kind && `sia-${kind}`}`, text });

/** A message in place of content: why there is nothing, or what went wrong. */
export const message = (text, kind = "empty") => h("p", { class: `sia-message sia-${kind}`, role: kind === "error" ? "alert" : "status", text });

/** A labelled form control. */
export const labelled = (label, control) => h("label", { class: "sia-field" }, h("span", { text: label }), control);

/** A select over [value, label] pairs. */
export function select(pairs, value, onchange, attributes = {}) {
  const node = h("select", { class: "sia-input", ...attributes, onchange: () => onchange(node.value) });
  options(node, pairs, value);
  return node;
}

/** Give a select other options; it keeps `value` where that is among them. */
export function options(node, pairs, value = node.value) {
  fill(node, pairs.map(([v, text]) => h("option", { value: v, text, title: text })));
  node.value = value;
  if (node.selectedIndex < 0) node.selectedIndex = 0;
}

/** Call `f` once the calls have paused for `ms`. */
export function debounce(f, ms) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => f(...values), ms);
  };
}

/** The best score among steps, at least 1: what fills a bar. */
export const highest = (steps) => Math.max(1, ...steps.map((s) => s.score).filter((v) => typeof v === "number"));

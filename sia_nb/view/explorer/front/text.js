// Texts of models and agents: folded where they are long, paged where they were cut, Markdown without markup.

import { count, fill, h, visible } from "./dom.js";

const FOLD = 14; // lines of a text that are shown before it is unfolded
const WIDE = 1800; // characters, likewise

/** A text in a monospaced block, folded if long. `more(offset)` pages on where the text was cut at `total` characters. */
export function block(text, { total = 0, more = null, open = false } = {}) {
  let whole = String(text ?? "");
  const body = h("pre", { class: "sia-text", dir: "auto", tabindex: "0" });
  const bar = h("div", { class: "sia-fold" });
  let unfolded = open;
  const draw = () => {
    const lines = whole.split("\n");
    const long = lines.length > FOLD || whole.length > WIDE;
    const shown = unfolded || !long ? whole : lines.slice(0, FOLD).join("\n").slice(0, WIDE);
    body.textContent = visible(shown);
    body.classList.toggle("sia-folded", long && !unfolded);
    const label = unfolded ? "Fold" : `Show all ${count(lines.length)} lines, ${count(total || whole.length)} characters`;
    const rest = unfolded && more && total > whole.length;
    fill(
      bar,
      long && h("button", { class: "sia-link", type: "button", "aria-expanded": String(unfolded), onclick: toggle }, label),
      rest && h("button", { class: "sia-link", type: "button", onclick: next }, `Load more (${count(whole.length)} of ${count(total)} characters)`),
    );
  };
  const toggle = () => {
    unfolded = !unfolded;
    draw();
    bar.querySelector("button").focus({ preventScroll: true }); // the button that had the focus is gone
  };
  const next = async () => {
    const answer = await more(whole.length);
    if (answer.text) whole += answer.text;
    else total = whole.length;
    draw();
  };
  draw();
  return h("div", { class: "sia-block" }, body, bar);
}

/** A text that is one JSON object is laid out by its fields; any other is shown as it is. */
export function pretty(text) {
  try {
    const value = JSON.parse(text);
    if (value && typeof value === "object" && !Array.isArray(value)) {
      return h("dl", { class: "sia-fields" }, Object.entries(value).map(([k, v]) => [
        h("dt", { text: k }), h("dd", { dir: "auto", text: typeof v === "string" ? v : JSON.stringify(v) }),
      ]));
    }
  } catch { /* a program, or free text */ }
  return block(text);
}

/** The Markdown that reports are written in: headings, lists, bold, code and paragraphs. Anything else stays text. */
export function markdown(source) {
  const out = h("div", { class: "sia-prose", dir: "auto" });
  let list = null, code = null;
  for (const line of String(source ?? "").split("\n")) {
    if (line.startsWith("```")) {
      code = code ? null : out.appendChild(h("pre", { class: "sia-text" }));
    } else if (code) {
      code.append(`${visible(line)}\n`);
    } else if (/^#{1,6} /.test(line)) {
      const level = Math.min(line.indexOf(" ") + 2, 6);
      list = null;
      out.append(h(`h${level}`, {}, inline(line.replace(/^#+ /, ""))));
    } else if (/^\s*([-*]|\d+\.) /.test(line)) {
      list ??= out.appendChild(h(/^\s*\d/.test(line) ? "ol" : "ul"));
      list.append(h("li", {}, inline(line.replace(/^\s*([-*]|\d+\.) /, ""))));
    } else if (line.trim()) {
      list = null;
      out.append(h("p", {}, inline(line)));
    } else {
      list = null;
    }
  }
  return out;
}

function inline(text) {
  return text.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map((part) => {
    if (part.startsWith("**") && part.length > 4) return h("strong", { text: part.slice(2, -2) });
    if (part.startsWith("`") && part.length > 2) return h("code", { text: part.slice(1, -1) });
    return visible(part);
  });
}

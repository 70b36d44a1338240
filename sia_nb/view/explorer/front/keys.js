// The keyboard, and the list of its keys.

import { h } from "./dom.js";

const KEYS = [
  ["/", "search the events"], ["↑ ↓  or  j k", "previous, next row"], ["Enter", "read the chosen row"], ["Esc", "back to the table"],
  ["[ ]", "previous, next step"], ["← →", "likewise, on the timeline"], ["1 … 6", "the tabs"], ["PgUp PgDn Home End", "through the table"],
];

/** Keys that work anywhere in the explorer while no text field has the focus. */
export function listen(root, { search, move, tab, leave }) {
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (event.key === "Escape") leave();
    else if (typing) return;
    else if (event.key === "/") search();
    else if (event.key === "[" || event.key === "]") move(event.key === "[" ? -1 : 1);
    else if (/^[1-6]$/.test(event.key)) tab(Number(event.key) - 1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

/** A button that unfolds the list. */
export function keyHelp() {
  return h("details", { class: "sia-help" }, h("summary", { class: "sia-button", title: "Keys", "aria-label": "keys", text: "⌨" }),
    h("dl", {}, KEYS.map(([key, said]) => [h("dt", {}, h("kbd", { text: key })), h("dd", { text: said })])));
}

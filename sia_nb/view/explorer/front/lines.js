// Two texts line by line: the longest common subsequence, and both sides beside each other.

import { h, visible } from "./dom.js";

const CONTEXT = 3; // equal lines that stay visible around a change

/** Rows {tag, left: [number, text] | null, right: …} of two texts; changed lines stand beside each other as "replace". */
export function lineDiff(before, after) {
  const a = before ? before.replace(/\n$/, "").split("\n") : [];
  const b = after ? after.replace(/\n$/, "").split("\n") : [];
  let start = 0, endA = a.length, endB = b.length;
  while (start < endA && start < endB && a[start] === b[start]) start += 1;
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) [endA, endB] = [endA - 1, endB - 1];
  const width = endB - start + 1;
  const longest = new Uint32Array((endA - start + 1) * width);
  for (let i = endA - 1; i >= start; i -= 1) {
    for (let j = endB - 1; j >= start; j -= 1) {
      const at = (i - start) * width + (j - start);
      longest[at] = a[i] === b[j] ? longest[at + width + 1] + 1 : Math.max(longest[at + width], longest[at + 1]);
    }
  }
  const rows = [];
  let i = 0, j = 0, gone = [], come = [];
  const flush = () => {
    for (let k = 0; k < Math.max(gone.length, come.length); k += 1) {
      const tag = gone[k] && come[k] ? "replace" : gone[k] ? "delete" : "insert";
      rows.push({ tag, left: gone[k] ?? null, right: come[k] ?? null });
    }
    [gone, come] = [[], []];
  };
  const inside = () => i >= start && j >= start && i < endA && j < endB;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      flush();
      rows.push({ tag: "equal", left: [i + 1, a[i++]], right: [j + 1, b[j++]] });
    } else if (j >= endB || (inside() && longest[(i - start + 1) * width + j - start] >= longest[(i - start) * width + j - start + 1])) {
      gone.push([i + 1, a[i++]]);
    } else {
      come.push([j + 1, b[j++]]);
    }
  }
  flush();
  return rows;
}

/** The rows as two columns. Long stretches of equal lines fold into a button that opens them. */
export function diffView(rows, leftName, rightName) {
  const changed = rows.filter((r) => r.tag !== "equal");
  if (!changed.length) return h("p", { class: "sia-message", text: `No line differs between ${leftName} and ${rightName}.` });
  const added = rows.filter((r) => r.tag !== "equal" && r.right).length;
  const removed = rows.filter((r) => r.tag !== "equal" && r.left).length;
  const body = h("tbody");
  for (let at = 0; at < rows.length; ) {
    let end = at;
    while (end < rows.length && rows[end].tag === "equal") end += 1;
    const keepHead = at === 0 ? 0 : CONTEXT, keepTail = end === rows.length ? 0 : CONTEXT;
    if (end - at > keepHead + keepTail + 2) {
      body.append(...rows.slice(at, at + keepHead).map(line));
      body.append(hidden(rows.slice(at + keepHead, end - keepTail)));
      body.append(...rows.slice(end - keepTail, end).map(line));
    } else {
      body.append(...rows.slice(at, end).map(line));
    }
    at = end;
    while (at < rows.length && rows[at].tag !== "equal") body.append(line(rows[at++]));
  }
  return h("div", { class: "sia-diff" },
    h("p", { class: "sia-counts" }, h("span", { class: "sia-added", text: `+${added}` }), " ", h("span", { class: "sia-removed", text: `−${removed}` }), " lines"),
    h("div", { class: "sia-wide", tabindex: "0", role: "region", "aria-label": "difference" },
      h("table", {},
        h("colgroup", {}, ["n", "t", "n", "t"].map((c) => h("col", { class: `sia-col-${c}` }))),
        h("thead", {}, h("tr", {}, h("th", { colspan: "2", scope: "col", text: leftName }), h("th", { colspan: "2", scope: "col", text: rightName }))),
        body)));
}

function hidden(rows) {
  const row = h("tr", { class: "sia-gap" }, h("td", { colspan: "4" },
    h("button", { class: "sia-link", type: "button", onclick: () => row.replaceWith(...rows.map(line)) }, `${rows.length} equal lines`)));
  return row;
}

function line(r) {
  const [leftMark, rightMark] = r.tag === "replace" ? marks(r.left[1], r.right[1]) : [null, null];
  const side = (cell, kind, mark) => [
    h("td", { class: "sia-line-number", text: cell ? cell[0] : "" }),
    h("td", { class: cell ? `sia-code ${kind}` : "sia-code sia-void" }, cell ? (mark ?? visible(cell[1])) : ""),
  ];
  const was = r.tag === "equal" ? "" : "sia-was", now = r.tag === "equal" ? "" : "sia-now";
  return h("tr", {}, side(r.left, was, leftMark), side(r.right, now, rightMark));
}

/** Of two versions of a line, what differs between their common beginning and end stands out. */
function marks(a, b) {
  let head = 0, tail = 0;
  const least = Math.min(a.length, b.length);
  while (head < least && a[head] === b[head]) head += 1;
  while (tail < least - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  if (head + tail < 4) return [visible(a), visible(b)];
  return [a, b].map((s) => [visible(s.slice(0, head)), h("mark", { text: s.slice(head, s.length - tail) }), visible(s.slice(s.length - tail))]);
}

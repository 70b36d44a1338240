// A table of any length of which only the rows in sight are in the page. Rows are asked for in windows and kept for a while.

import { fill, h, message } from "./dom.js";

const ROW = 28; // px
const TALLEST = 8e6; // px; browsers cut taller elements off, so a longer table scrolls in proportion
const WINDOW = 100; // rows asked for at once
const KEPT = 40; // windows that are kept

/**
 * A virtual table.
 *
 * columns: [{label, width (CSS), align, cell(row) -> string | Node, sort, wide}]; `wide` ones are left out of a narrow table
 * ask(offset, limit) -> Promise<{matched, rows} | {error}>
 * select(row, number): a row was chosen; open(row): Enter or a double click
 */
export function grid({ columns, ask, select, open = () => {}, label, testid, sort = null, empty }) {
  const template = (chosen) => chosen.map((c) => c.width).join(" ");
  const sky = h("div", { class: "sia-grid-sky" });
  const body = h("div", { class: "sia-grid-body", role: "rowgroup" });
  const note = h("div", { class: "sia-grid-note" });
  const scroller = h("div", {
    class: "sia-grid-scroll", tabindex: "0", role: "grid", "aria-label": label, "aria-colcount": columns.length, "data-testid": testid,
  }, sky, body);
  const heads = columns.map((c) => head(c));
  const node = h("div", { class: "sia-grid" }, h("div", { class: "sia-grid-head" }, heads), scroller, note);
  node.style.setProperty("--wide", template(columns));
  node.style.setProperty("--narrow", template(columns.filter((c) => !c.wide)));
  let total = 0, at = -1, windows = new Map(), asked = new Map(), version = 0, order = { field: sort?.field ?? "", down: false };
  const id = `sia-grid-${Math.random().toString(36).slice(2, 8)}`;

  function head(c) {
    if (!c.sort) return h("span", { class: looks(c), text: c.label });
    return h("button", {
      class: `sia-sort ${looks(c)}`, type: "button", title: `Sort by ${c.label}`,
      onclick: () => {
        order = order.field !== c.sort ? { field: c.sort, down: c.down ?? false } : { field: c.sort, down: !order.down };
        arrows();
        sort.change(order);
      },
    }, c.label, h("i", { class: "sia-arrow" }));
  }
  const arrows = () => columns.forEach((c, i) => {
    if (c.sort) heads[i].querySelector(".sia-arrow").textContent = order.field === c.sort ? (order.down ? " ↓" : " ↑") : "";
  });

  const height = () => Math.min(total * ROW, TALLEST);
  const inSight = () => Math.ceil(scroller.clientHeight / ROW) + 1;
  const scrollable = () => Math.max(height() - scroller.clientHeight, 1);
  const firstInSight = () => total * ROW <= TALLEST
    ? Math.floor(scroller.scrollTop / ROW)
    : Math.round((scroller.scrollTop / scrollable()) * Math.max(total - inSight() + 1, 0));
  const row = (i) => windows.get(Math.floor(i / WINDOW))?.[i % WINDOW];

  function load(page) {
    if (windows.has(page)) return Promise.resolve();
    if (!asked.has(page)) asked.set(page, fetchWindow(page));
    return asked.get(page);
  }
  async function fetchWindow(page) {
    const mine = version;
    const answer = await ask(page * WINDOW, WINDOW);
    if (mine !== version) return;
    asked.delete(page);
    if (answer.error) return fail(answer.error);
    windows.set(page, answer.rows);
    if (windows.size > KEPT) windows.delete(windows.keys().next().value);
    setTotal(answer.matched);
    draw();
    return answer;
  }
  function fail(text) {
    fill(note, message(text, "error"));
  }
  function setTotal(n) {
    total = n;
    sky.style.height = `${height()}px`;
    scroller.setAttribute("aria-rowcount", n);
    fill(note, n === 0 && message(empty()));
  }

  function draw() {
    const first = Math.max(0, Math.min(firstInSight(), total - 1)), last = Math.min(first + inSight(), total);
    const proportional = total * ROW > TALLEST;
    body.style.transform = `translateY(${proportional ? scroller.scrollTop : first * ROW}px)`;
    const lines = [];
    for (let i = first; i < last; i += 1) lines.push(line(i));
    fill(body, lines);
    scroller.setAttribute("aria-activedescendant", at >= first && at < last ? `${id}-${at}` : "");
    for (const page of new Set([Math.floor(first / WINDOW), Math.floor(Math.max(last - 1, 0) / WINDOW)])) if (total) load(page);
  }
  function line(i) {
    const r = row(i);
    const cells = r ? columns.map((c) => cell(c, r)) : columns.map((c) => h("span", { class: `sia-waiting ${looks(c)}`, role: "gridcell" }));
    const kind = r?.kind ? `sia-kind-${r.kind}` : "";
    return h("div", {
      class: `sia-row ${i % 2 ? "sia-odd" : ""} ${kind} ${i === at ? "sia-selected" : ""}`, role: "row", id: `${id}-${i}`, "aria-rowindex": i + 1,
      "aria-selected": String(i === at), style: { height: `${ROW}px` }, "data-testid": r ? `row-${r.n}` : null,
      onclick: () => go(i), ondblclick: () => r && open(r),
    }, cells);
  }
  function cell(c, r) {
    const value = c.cell(r);
    return value instanceof Node
      ? h("span", { class: looks(c), role: "gridcell" }, value)
      : h("span", { class: `${looks(c)} ${c.class ?? ""}`, role: "gridcell", dir: c.dir, text: value });
  }

  function reveal(i) {
    const first = firstInSight(), fit = Math.floor(scroller.clientHeight / ROW);
    if (i >= first && i < first + fit) return;
    const top = i < first ? i : i - fit + 1;
    scroller.scrollTop = total * ROW <= TALLEST ? top * ROW : (top / Math.max(total - inSight() + 1, 1)) * scrollable();
  }
  async function go(i) {
    if (!total) return;
    at = Math.max(0, Math.min(i, total - 1));
    reveal(at);
    draw();
    const mine = at;
    if (!row(at)) await load(Math.floor(at / WINDOW));
    if (mine === at && row(at)) select(row(at), at);
  }

  let drawing = false;
  scroller.addEventListener("scroll", () => {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => {
      drawing = false;
      draw();
    });
  }, { passive: true });
  scroller.addEventListener("keydown", (event) => {
    const fit = Math.max(1, Math.floor(scroller.clientHeight / ROW) - 1);
    const next = { ArrowDown: at + 1, j: at + 1, ArrowUp: at - 1, k: at - 1, PageDown: at + fit, PageUp: at - fit, Home: 0, End: total - 1 }[event.key];
    if (next !== undefined && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      event.stopPropagation();
      go(next);
    } else if (event.key === "Enter" && row(at)) {
      event.preventDefault();
      open(row(at));
    }
  });
  new ResizeObserver(() => draw()).observe(scroller);

  return {
    node,
    focus: () => scroller.focus({ preventScroll: true }),
    get order() {
      return order;
    },
    get total() {
      return total;
    },
    /** Ask anew, e.g. after a filter changed; `keep` leaves the place, as for rows that were appended. */
    async reload({ keep = false } = {}) {
      version += 1;
      asked = new Map();
      const before = windows;
      windows = new Map();
      if (keep) windows = new Map([...before].filter(([, rows]) => rows.length === WINDOW));
      else {
        at = -1;
        scroller.scrollTop = 0;
      }
      const page = keep ? Math.floor(total / WINDOW) : 0;
      windows.delete(page);
      return load(page);
    },
    go,
    /** The chosen row, once it is there. */
    chosen: () => (at >= 0 ? row(at) : null),
    /** Mark no row. */
    clear() {
      at = -1;
      draw();
    },
  };
}

const looks = (c) => `sia-${c.align ?? "left"}${c.wide ? " sia-wide-only" : ""}`;

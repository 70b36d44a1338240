// How questions reach the run: by messages to the kernel, or from the data that a static page carries.
// Either is an object with ask(request) -> Promise<answer>; an answer with `error` is shown, never thrown.

import { lineDiff } from "./lines.js";

const MARK = "\u0001"; // begins a reference to a string that is kept once
const MISSING = {
  event: "This page holds the first events of each step only, and not this one; the run's folder has them all.",
  save: "Notes are kept beside the run, by the explorer in a notebook; a page alone cannot write there. Copy or Save keeps the event.",
};
const PATIENCE = 15000; // ms after which a kernel that says nothing is reported

/** Questions to the kernel over a widget model's custom messages: {id, request} there, {id, answer} back. */
export function kernelTransport(model) {
  const waiting = new Map();
  let next = 0;
  const receive = (content) => {
    waiting.get(content?.id)?.(content.answer);
    waiting.delete(content?.id);
  };
  model.on("msg:custom", receive);
  return {
    live: true,
    close: () => model.off("msg:custom", receive),
    ask(request) {
      const id = (next += 1);
      return new Promise((resolve) => {
        const late = setTimeout(
          () => resolve({ error: "The kernel has not answered: it is busy with a cell, or gone. This view goes on when it is free.", late: true }),
          PATIENCE,
        );
        waiting.set(id, (answer) => {
          clearTimeout(late);
          resolve(answer);
        });
        model.send({ id, request });
      });
    },
  };
}

/** Questions answered from a page's own data: `packed.answers` by key, their long strings shared in `packed.strings`. */
export function embeddedTransport(packed) {
  const unpack = (value) => {
    if (typeof value === "string") return value.startsWith(MARK) ? packed.strings[Number(value.slice(1))] : value;
    if (Array.isArray(value)) return value.map(unpack);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, unpack(v)]));
  };
  const cache = new Map();
  const stored = (...key) => {
    const name = key.join("/");
    if (!(name in packed.answers)) return null;
    if (!cache.has(name)) cache.set(name, unpack(packed.answers[name]));
    return cache.get(name);
  };
  const source = (run, g) => stored("scaffold", run, g)?.source ?? "";
  const answers = {
    runs: () => stored("runs"),
    steps: ({ run }) => stored("steps", run),
    decision: ({ run, g }) => stored("decision", run, g),
    ledger: ({ run }) => stored("ledger", run),
    event: ({ run, g, n }) => stored("event", run, g, n),
    refresh: () => ({ changed: false }),
    scaffold({ run, g, to }) {
      const own = stored("scaffold", run, g);
      if (!own || to === undefined || to === "parent" || to === own.parent_g) return own;
      const parent_source = source(run, to);
      return { ...own, parent_source, parent_g: to, diff: lineDiff(parent_source, own.source) };
    },
    rollouts({ run, g, sort, when, offset = 0, limit = 2000 }) {
      const all = stored("rollouts", run, g);
      if (!all?.rows) return all;
      const known = all.rows.filter((r) => typeof r.reward === "number"), edge = known.at(when === "after" ? -1 : 0)?.step;
      const rows = !when || when === "all" ? [...all.rows] : known.filter((r) => r.step === edge);
      if (sort && sort !== "id") rows.sort((a, b) => (b[sort] ?? -Infinity) - (a[sort] ?? -Infinity));
      return { ...all, matched: rows.length, rows: rows.slice(offset, offset + limit) };
    },
    compare({ left, right }) {
      const turned = left.g > right.g, [a, b] = turned ? [right, left] : [left, right];
      const told = stored("compare", a.run, a.g, b.g) ?? { metrics: [], instances: [] };
      const turn = (rows) => (turned ? rows.map((r) => ({ ...r, left: r.right, right: r.left })) : rows);
      return {
        metrics: turn(told.metrics ?? []), instances: turn(told.instances ?? []), error: told.error,
        scaffold: lineDiff(source(left.run, left.g), source(right.run, right.g)),
      };
    },
    events(request) {
      const all = stored("events", request.run, request.g);
      if (!all?.rows) return all;
      const rows = filterRows(all.rows, request, (n) => JSON.stringify(stored("event", request.run, request.g, n)?.event ?? ""));
      const offset = request.offset ?? 0;
      return { ...all, matched: rows.length, rows: rows.slice(offset, offset + (request.limit ?? 100)) };
    },
  };
  return {
    live: false,
    close() {},
    async ask(request) {
      const answer = answers[request.do]?.(request);
      return answer ?? { error: MISSING[request.do] ?? `This page holds a part of the run only, and not this (${request.do}).` };
    },
  };
}

/** The rows that pass the filters, in the order asked for; `whole(n)` gives an event's full text for the search. */
export function filterRows(rows, q, whole) {
  const needle = (q.text ?? "").toLowerCase();
  const [low, high] = q.reward ?? [null, null];
  const given = (x) => x !== null && x !== undefined;
  const found = rows.filter((r) =>
    (!q.kinds?.length || q.kinds.includes(r.kind)) &&
    (!q.failure || r.failure === q.failure) &&
    (!q.instance || r.instance === q.instance) &&
    (!given(q.failed) || (r.failed ?? r.valid === false) === q.failed) &&
    (!given(low) || (given(r.reward) && r.reward >= low)) &&
    (!given(high) || (given(r.reward) && r.reward <= high)) &&
    (!needle || whole(r.n).toLowerCase().includes(needle)));
  const field = q.sort && q.sort !== "id" ? q.sort : null;
  if (field) {
    const sign = q.descending ? -1 : 1;
    found.sort((a, b) => (given(b[field]) - given(a[field])) || sign * ((a[field] ?? 0) - (b[field] ?? 0)) || a.n - b.n);
  } else if (q.descending) {
    found.reverse();
  }
  return found;
}

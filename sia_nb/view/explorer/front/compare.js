// Two steps, of one run or of two, side by side: numbers, instances, scaffolds.

import { chip, fill, h, labelled, message, options, plain, score, select, table } from "./dom.js";
import { diffView } from "./lines.js";
import { block } from "./text.js";

const ANSWER = "answer"; // of the metrics, the one that is a text
const WHOLE = "whole"; // in place of a step: the run, by its incumbent

/** The panel; `runs()` gives the names of the runs there are. */
export function comparePanel({ ask, runs }) {
  const body = h("div");
  const sides = ["left", "right"].map((name) => {
    const side = { run: "", g: 0 };
    side.runs = select([], "", async (v) => {
      [side.run, side.byHand] = [v, true];
      await steps(side);
      draw();
    }, { "data-testid": `compare-${name}-run` });
    side.steps = select([], "", (v) => {
      [side.g, side.byHand] = [v === WHOLE ? null : Number(v), true];
      draw();
    }, { "data-testid": `compare-${name}-step` });
    return side;
  });
  const swap = h("button", { class: "sia-button", type: "button", "aria-label": "exchange the sides", text: "⇄", onclick: async () => {
    const [a, b] = sides.map(({ run, g }) => ({ run, g }));
    await set(sides[0], b);
    await set(sides[1], a);
    draw();
  } });
  const node = h("div", { class: "sia-panel" }, h("div", { class: "sia-bar" },
    labelled("left", h("span", { class: "sia-range" }, sides[0].runs, sides[0].steps)), swap,
    labelled("right", h("span", { class: "sia-range" }, sides[1].runs, sides[1].steps))), body);

  async function steps(side) {
    const answer = await ask({ do: "steps", run: side.run });
    const found = answer.steps ?? [];
    const whole = runs().length > 1 ? [[WHOLE, "the whole run"]] : [];
    options(side.steps, [...whole, ...found.map((s) => [String(s.g), `step ${s.g} · ${s.lever === "start" ? "A₁" : s.lever}${s.algorithm ? ` ${s.algorithm}` : ""} · ${score(s.score, 3)}`])], side.g === null ? WHOLE : String(side.g));
    side.g = side.steps.value === WHOLE ? null : Number(side.steps.value);
  }
  async function set(side, { run, g }) {
    options(side.runs, runs().map((r) => [r, r]), run);
    [side.run, side.g] = [side.runs.value, g];
    await steps(side);
  }
  async function draw() {
    const [left, right] = sides.map(({ run, g }) => (g === null ? { run } : { run, g }));
    if (left.g === 0 || right.g === 0) return fill(body, message("One of the runs has no step to compare yet."));
    const answer = await ask({ do: "compare", left, right });
    if (answer.error) return fill(body, message(answer.error, "error"));
    const same = left.run === right.run, name = (s) => (s.g === undefined ? s.run : same ? `step ${s.g}` : `${s.run}, step ${s.g}`);
    fill(body,
      h("div", { class: "sia-columns" },
        h("section", { class: "sia-card" }, h("h3", { text: "Numbers" }), numbers(answer.metrics ?? [], name(left), name(right))),
        answers(answer.metrics ?? [], name(left), name(right)),
        answer.instances?.length ? h("section", { class: "sia-card" }, h("h3", { text: "Instances" }), instances(answer.instances, name(left), name(right))) : null),
      h("section", { class: "sia-card" }, h("h3", { text: "Scaffolds" }), diffView(answer.scaffold ?? [], name(left), name(right))));
  }
  return {
    node,
    async show({ run, g, steps: all }) {
      const at = all.findIndex((s) => s.g === g), before = all[Math.max(at - 1, 0)]?.g ?? g;
      const [left] = sides, kept = left.byHand && (left.run !== run || left.g !== g);
      await set(left, kept ? { run: left.run, g: left.g } : { run, g: before });
      await set(sides[1], { run, g });
      return draw();
    },
  };
}

function numbers(metrics, left, right) {
  const show = (m, v) => (typeof v === "number" && !Number.isInteger(v) ? fine(m, v) : plain(v));
  const rows = metrics.filter((m) => m.name !== ANSWER).map((m) => {
    const both = typeof m.left === "number" && typeof m.right === "number" && m.name !== "step";
    return [m.name, show(m, m.left), show(m, m.right), both ? change(m) : ""];
  });
  return table(["", left, right, "change"], rows, new Set([1, 2, 3]));
}

/** The two answers field by field where both are specs, the fields that differ set off; else one after the other. */
function answers(metrics, left, right) {
  const found = metrics.find((m) => m.name === ANSWER);
  if (!found || !(found.left || found.right)) return null;
  const [a, b] = [found.left, found.right].map(spec), card = (...children) => h("section", { class: "sia-card" }, h("h3", { text: "Answers" }), children);
  if (!a || !b) return card([[left, found.left], [right, found.right]].map(([name, text]) => [h("h4", { text: name }), block(text ?? "–")]));
  const cell = (side, key, differs) => h("span", { class: differs ? "sia-differs" : "sia-quiet", dir: "auto", text: key in side ? plain(side[key]) : "–" });
  return card(table(["field", left, right], [...new Set([...Object.keys(a), ...Object.keys(b)])].map((key) => {
    const differs = JSON.stringify(a[key]) !== JSON.stringify(b[key]);
    return [key, cell(a, key, differs), cell(b, key, differs)];
  })));
}

function spec(text) {
  try {
    const value = JSON.parse(text);
    return value && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null; // a program
  }
}

const fine = (m, v) => (/^seconds/.test(m.name) ? v.toFixed(1) : score(v));

function change(m) {
  const d = m.right - m.left, size = Math.abs(d);
  return h("span", { class: d === 0 ? "sia-quiet" : "", text: d === 0 ? "0" : `${d < 0 ? "−" : "+"}${Number.isInteger(d) ? plain(size) : fine(m, size)}` });
}

function instances(rows, left, right) {
  const best = (side) => side?.best ?? null, of = (side) => (side ? `${side.valid} of ${side.verdicts}` : "–");
  return table(["instance", `best, ${left}`, "valid", `best, ${right}`, "valid", ""], rows.map((r) => {
    const [a, b] = [best(r.left), best(r.right)], differs = a !== null && b !== null && a !== b;
    return [String(r.name), score(a), of(r.left), score(b), of(r.right), differs ? chip(b > a ? "better" : "worse", b > a ? "good" : "bad") : ""];
  }), new Set([1, 2, 3, 4]));
}

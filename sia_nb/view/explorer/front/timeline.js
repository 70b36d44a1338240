// The run as a line of steps, after Figure 2(b): score with its noise, the incumbent, roll-backs, the lever of each step, its cost.

import { count, dollars, duration, fill, h, score, svg } from "./dom.js";
import { scale } from "./scale.js";

const HEIGHT = 240, TOP = 26, BOTTOM = 146, BADGES = 176, COST = 232, LEFT = 62, RIGHT = 24, LEAST = 58;
const COSTS = [["verifier_calls", "verifier calls", count], ["tokens", "tokens", count], ["seconds", "seconds", duration], ["dollars", "dollars", dollars]];
const LETTER = { start: "A₁", H: "H", W: "W" };
const LEVER = { start: "first scaffold", H: "harness update", W: "weight update" };

/** A timeline in `node`; `choose(g)` is called when a step is clicked or reached by the arrow keys. */
export function timeline(node, choose) {
  let steps = [], chosen = null, cost = "verifier_calls", whole = false;
  const scroller = h("div", { class: "sia-timeline-scroll" });
  const legend = h("div", { class: "sia-legend" });
  fill(node, legend, scroller);
  const draw = () => {
    if (!steps.length) return fill(scroller, h("p", { class: "sia-message", role: "status", text: "No step of this run has a scaffold yet." }));
    const width = Math.max(scroller.clientWidth || 900, LEFT + RIGHT + LEAST * steps.length);
    const held = node.contains(document.activeElement) && document.activeElement.dataset?.g;
    const shape = scale(steps.filter((s) => typeof s.score === "number"), TOP, BOTTOM, whole);
    zoom.hidden = !shape.breakable;
    fill(scroller, picture(steps, chosen, cost, width, choose, shape));
    if (held) focusStep(chosen);
  };
  const focusStep = (g) => scroller.querySelector(`[data-g="${g}"]`)?.focus({ preventScroll: true });
  const pick = (label, pairs, change) => h("label", { class: "sia-field sia-inline" }, label, h("select", {
    class: "sia-input sia-small", onchange: (event) => {
      change(event.target.value);
      draw();
    },
  }, pairs.map(([value, text]) => h("option", { value, text }))));
  const zoom = pick("scale", [["", "detail"], ["whole", "linear"]], (v) => (whole = v === "whole"));
  fill(legend, keys(), h("span", { class: "sia-spring" }), zoom, pick("cost", COSTS, (v) => (cost = v)));
  scroller.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1, l: 1, h: -1 }[event.key];
    const edge = { Home: 0, End: steps.length - 1 }[event.key];
    if (move === undefined && edge === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    const at = steps.findIndex((s) => s.g === chosen);
    const next = steps[edge ?? Math.min(Math.max(at + move, 0), steps.length - 1)];
    choose(next.g);
    focusStep(next.g);
  });
  new ResizeObserver(draw).observe(node);
  return {
    update(newSteps, g) {
      [steps, chosen] = [newSteps, g];
      draw();
      const at = scroller.querySelector(`[data-g="${g}"]`)?.getBBox?.();
      if (at && (at.x < scroller.scrollLeft || at.x + at.width > scroller.scrollLeft + scroller.clientWidth)) {
        scroller.scrollLeft = at.x - scroller.clientWidth / 2;
      }
    },
  };
}

function keys() {
  const mark = (kind) => h("i", { class: `sia-key sia-key-${kind}` });
  return h("div", { class: "sia-keys", "aria-hidden": "true" },
    h("span", {}, mark("h"), "harness update"), h("span", {}, mark("w"), "weight update"),
    h("span", {}, mark("best"), "incumbent"), h("span", {}, mark("back"), "rolled back"), h("span", {}, mark("noise"), "± standard error"));
}

function picture(steps, chosen, cost, width, choose, { y, ticks, broken }) {
  const gap = (width - LEFT - RIGHT) / steps.length;
  const x = (i) => LEFT + gap * (i + 0.5);
  const at = new Map(steps.map((s, i) => [s.g, i]));
  const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, class: "sia-timeline-svg", role: "group", "aria-label": "steps of the run" });
  const shade = at.get(chosen);
  if (shade !== undefined) root.append(svg("rect", { class: "sia-shade", x: x(shade) - gap / 2 + 2, y: 2, width: gap - 4, height: HEIGHT - 4, rx: 8 }));
  for (const v of ticks) {
    root.append(svg("line", { class: "sia-rule", x1: LEFT - 6, x2: width - RIGHT / 2, y1: y(v), y2: y(v) }));
    root.append(svg("text", { class: "sia-tick", x: LEFT - 12, y: y(v) + 4, "text-anchor": "end", text: Number(v.toFixed(6)) }));
  }
  if (broken !== null) root.append(svg("path", { class: "sia-break", d: `M${LEFT - 20},${broken + 4}l6,-8l6,8l6,-8` }, svg("title", { text: "The scale is compressed here" })));
  root.append(svg("text", { class: "sia-tick", x: 0, y: 12, text: "dev score" }));
  root.append(svg("text", { class: "sia-tick", x: 0, y: BADGES + 4, text: "lever" }));
  root.append(svg("text", { class: "sia-tick", x: 0, y: COST - 3, text: "cost" }));
  root.append(...incumbent(steps, x, y, gap, width));
  root.append(...segments(steps, at, x, y));
  const most = Math.max(...steps.map((s) => s[cost] || 0), 1e-12);
  const show = COSTS.find(([name]) => name === cost)[2];
  for (const [i, s] of steps.entries()) root.append(step(s, i, { x: x(i), y, gap, chosen, share: (s[cost] || 0) / most, cost: show(s[cost]), choose }));
  return root;
}

/** The best score so far as a step line: it rises where a step became the incumbent. */
function incumbent(steps, x, y, gap, width) {
  let path = "", best = null, last = 0;
  for (const [i, s] of steps.entries()) {
    if (typeof s.best !== "number") continue;
    path += best === null ? `M${x(i)},${y(s.best)}` : `H${x(i)}V${y(s.best)}`;
    [best, last] = [s.best, i];
  }
  if (best === null) return [];
  path += `H${Math.min(x(last) + gap / 2, width - RIGHT / 2)}`;
  return [svg("path", { class: "sia-incumbent", d: path })];
}

/** From the step that a step started at: solid in the lever's colour where it was kept, dashed where it was rolled back. */
function segments(steps, at, x, y) {
  const out = [];
  for (const [i, s] of steps.entries()) {
    const parent = steps[at.get(s.parent)] ?? [...steps.slice(0, i)].reverse().find((p) => p.incumbent || !p.rolled_back);
    if (!parent || s.lever === "start" || typeof s.score !== "number" || typeof parent.score !== "number") continue;
    const line = { x1: x(at.get(parent.g)), y1: y(parent.score), x2: x(i), y2: y(s.score) };
    out.push(svg("line", { class: `sia-segment sia-${s.lever.toLowerCase()} ${s.rolled_back ? "sia-back" : ""}`, ...line }));
  }
  return out;
}

function step(s, i, { x, y, gap, chosen, share, cost, choose }) {
  const lever = s.lever.toLowerCase(), at = typeof s.score === "number" ? y(s.score) : (TOP + BOTTOM) / 2;
  const fate = s.rolled_back ? "rolled back" : s.incumbent ? "became the incumbent" : s.done ? "" : "not finished";
  const said = [`step ${s.g}`, LEVER[s.lever] ?? s.lever, s.algorithm, `score ${score(s.score)}${s.se ? ` ± ${score(s.se)}` : ""}`, fate,
    `${count(s.verifier_calls)} verifier calls, ${count(s.tokens)} tokens, ${duration(s.seconds)}, ${dollars(s.dollars)}`];
  const node = svg("g", {
    class: `sia-step sia-lever-${lever} ${s.rolled_back ? "sia-rolled" : ""} ${s.g === chosen ? "sia-chosen" : ""} ${s.done ? "" : "sia-open"}`,
    role: "button", tabindex: s.g === chosen ? "0" : "-1", "aria-pressed": String(s.g === chosen), "aria-label": said.filter(Boolean).join(", "),
    "data-testid": `step-${s.g}`, "data-g": s.g, onclick: () => choose(s.g),
    onkeydown: (e) => {
      if (e.key === "Enter" || e.key === " ") {
        e.preventDefault();
        choose(s.g);
      }
    },
  }, svg("title", { text: said.filter(Boolean).join("\n") }));
  node.append(svg("rect", { class: "sia-hit", x: x - gap / 2 + 2, y: 2, width: gap - 4, height: HEIGHT - 4, rx: 8 }));
  if (typeof s.score === "number" && s.se) {
    const [a, b] = [y(s.score - s.se), y(s.score + s.se)];
    node.append(svg("path", { class: "sia-noise", d: `M${x},${a}V${b}M${x - 5},${a}h10M${x - 5},${b}h10` }));
  }
  if (typeof s.score === "number") {
    node.append(svg("circle", { class: "sia-dot", cx: x, cy: at, r: 6 }));
    const above = at - 14 > TOP - 8 ? at - 12 - (s.se ? Math.max(0, y(s.score) - y(s.score + s.se) - 6) : 0) : at + 22;
    node.append(svg("text", { class: "sia-value", x, y: above, "text-anchor": "middle", text: score(s.score, 3).replace(/^(-?)0\./, "$1.") }));
  }
  node.append(svg("rect", { class: "sia-badge", x: x - 15, y: BADGES - 12, width: 30, height: 22, rx: 7 }));
  node.append(svg("text", { class: "sia-badge-text", x, y: BADGES + 4, "text-anchor": "middle", text: LETTER[s.lever] ?? s.lever }));
  if (s.rolled_back) node.append(svg("text", { class: "sia-undo", x: x + 19, y: BADGES + 4, text: "↩" }));
  node.append(svg("text", { class: "sia-name", x, y: BADGES + 25, "text-anchor": "middle", text: named(s, gap) }));
  const height = share > 0 ? Math.max(2, share * 20) : 0;
  node.append(svg("rect", { class: "sia-cost", x: x - Math.min(gap / 4, 22), y: COST - height, width: Math.min(gap / 2, 44), height, rx: 2 }));
  node.append(svg("text", { class: "sia-cost-text", x: x + Math.min(gap / 4, 22) + 4, y: COST - 2, text: gap > 92 ? cost : "" }));
  return node;
}

/** A step's name, as much of it as there is room for. */
function named(s, gap) {
  const names = s.algorithm ? [`step ${s.g} · ${s.algorithm}`, `${s.g} · ${s.algorithm}`, `step ${s.g}`] : [`step ${s.g}`];
  return names.find((name) => name.length * 6.4 < gap) ?? String(s.g);
}

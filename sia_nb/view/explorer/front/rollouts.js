// The rollouts of a weight update, sorted by reward or advantage, before and after; and how the rewards moved.

import { chip, copyButton, fill, h, highest, labelled, message, plain, score, select, svg } from "./dom.js";
import { grid } from "./grid.js";
import { block, pretty } from "./text.js";

const MIDDLE = 28; // percent of the cell at which an advantage of 0 stands; its number is to the right

/** The panel. */
export function rolloutsPanel({ ask }) {
  let at = { run: "", g: 0, steps: [] }, sort = "reward", when = "all", most = 1e-9;
  const top = h("div"), detail = h("aside", { class: "sia-detail", tabindex: "-1", "aria-label": "the chosen rollout", "data-testid": "rollout-detail" });
  const bar = h("div", { class: "sia-bar" },
    labelled("sorted by", select([["reward", "reward"], ["advantage", "advantage"], ["id", "order of sampling"]], sort, (v) => {
      sort = v;
      draw();
    }, { "data-testid": "rollout-sort" })),
    labelled("of", select([["all", "all training steps"], ["before", "the first: before training"], ["after", "the last: after training"]], when, (v) => {
      when = v;
      draw();
    }, { "data-testid": "rollout-when" })));
  const list = grid({
    label: "rollouts", testid: "rollouts", empty: () => "No rollout is kept here.",
    columns: [
      { label: "step", width: "48px", align: "right", cell: (r) => String(r.step ?? ""), class: "sia-mono sia-quiet" },
      { label: "reward", width: "90px", align: "right", cell: (r) => (r.reward === null || r.reward === undefined ? "–" : h("span", { class: "sia-reward" },
        h("i", { style: { width: `${Math.max(0, Math.min(1, r.reward / highest(at.steps))) * 100}%` } }), h("b", { text: score(r.reward) }))) },
      { label: "advantage", width: "104px", align: "right", cell: advantage },
      { label: "from", width: "84px", wide: true, cell: (r) => chip(r.source ?? "policy", r.source === "mutation" ? "w" : "") },
      { label: "answer", width: "minmax(140px, 1fr)", cell: (r) => String(r.text ?? r.solution ?? "").replace(/\s+/g, " ").slice(0, 300), class: "sia-mono", dir: "auto" },
    ],
    async ask(offset, limit) {
      const answer = await ask({ do: "rollouts", run: at.run, g: at.g, sort, when, offset, limit });
      if (answer.error) return answer;
      most = Math.max(most, ...answer.rows.map((r) => Math.abs(r.advantage ?? 0)));
      return { matched: answer.matched, rows: answer.rows.map((r) => ({ ...r, n: r.id })) };
    },
    select: (r) => fill(detail, rollout(r)),
    open: () => detail.focus(),
  });
  const split = h("div", { class: "sia-split" }, list.node, detail);
  const node = h("div", { class: "sia-panel" }, top);

  function advantage(r) {
    if (r.advantage === null || r.advantage === undefined) return "–";
    const share = (Math.abs(r.advantage) / most) * MIDDLE;
    return h("span", { class: "sia-advantage" }, h("i", { class: r.advantage < 0 ? "sia-minus" : "sia-plus", style: {
      width: `${share}%`, left: `${r.advantage < 0 ? MIDDLE - share : MIDDLE}%` } }), h("b", { text: `${r.advantage < 0 ? "−" : "+"}${score(Math.abs(r.advantage), 2)}` }));
  }
  async function draw() {
    const { run, g, steps } = at;
    if (steps.find((s) => s.g === g)?.lever !== "W") {
      return fill(node, message("No weight update led to this step, so there are no rollouts. Choose a step with the badge W."));
    }
    const answer = await ask({ do: "rollouts", run, g, sort, when, offset: 0, limit: 1 });
    if (run !== at.run || g !== at.g) return;
    if (answer.error) return fill(node, message(answer.error, "error"));
    const lost = Object.entries(answer.damaged ?? {}).filter(([, lines]) => lines.length);
    fill(top, lost.map(([file, lines]) => message(`${file}: damaged and left out: line ${lines.slice(0, 12).join(", ")}`, "warning")),
      h("div", { class: "sia-top-row" }, summary(answer.result), curve(answer.curve ?? [])));
    fill(node, top, bar, split);
    fill(detail, message("Choose a rollout to read it in full."));
    most = 1e-9;
    await list.reload();
  }
  return {
    node,
    show(state) {
      at = state;
      return draw();
    },
    leave: () => list.focus(),
  };
}

function summary(result) {
  if (!result) return null;
  const mean = (m) => (m ? `${score(m.mean)} ± ${score(m.se)} (n = ${m.n})` : "–");
  return h("div", { class: "sia-facts" },
    fact("algorithm", result.algorithm), fact("training steps", plain(result.steps)), fact("before", mean(result.before)), fact("after", mean(result.after)),
    fact("stopped", result.note || result.stopped));
}

const fact = (name, value) => h("div", { class: "sia-fact" }, h("span", { text: name }), h("b", { text: value ?? "–" }));

/** Mean reward by training step, with the band from the 10th to the 90th percentile and the best. */
function curve(lines) {
  const shown = lines.filter((l) => typeof l.reward_mean === "number");
  if (shown.length < 2) return null;
  const width = 460, height = 130, left = 44, bottom = 106, top = 12;
  const values = shown.flatMap((l) => [l.reward_q10, l.reward_q90, l.reward_max, l.reward_mean]).filter((v) => typeof v === "number");
  const low = Math.min(...values), high = Math.max(...values, low + 1e-9);
  const x = (i) => left + (i / (shown.length - 1)) * (width - left - 16), y = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
  const path = (field) => shown.map((l, i) => `${i ? "L" : "M"}${x(i)},${y(l[field])}`).join("");
  const banded = shown.every((l) => typeof l.reward_q10 === "number" && typeof l.reward_q90 === "number");
  const band = banded && `${path("reward_q90")}L${[...shown.keys()].reverse().map((i) => `${x(i)},${y(shown[i].reward_q10)}`).join("L")}Z`;
  return h("figure", { class: "sia-curve" },
    svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": "mean reward by training step" },
      band && svg("path", { class: "sia-band", d: band }),
      shown.every((l) => typeof l.reward_max === "number") && svg("path", { class: "sia-max", d: path("reward_max") }),
      svg("path", { class: "sia-mean", d: path("reward_mean") }),
      shown.map((l, i) => svg("circle", { class: "sia-mean-dot", cx: x(i), cy: y(l.reward_mean), r: 3 }, svg("title", { text: `step ${l.step}: ${score(l.reward_mean)}` }))),
      [low, high].map((v) => svg("text", { class: "sia-tick", x: left - 8, y: y(v) + 4, "text-anchor": "end", text: score(v, 2) })),
      svg("text", { class: "sia-tick", x: left, y: height - 4, text: `training step ${shown[0].step}` }),
      svg("text", { class: "sia-tick", x: width - 16, y: height - 4, "text-anchor": "end", text: shown.at(-1).step })),
    h("figcaption", { text: "Mean reward of a step's rollouts; band: 10th to 90th percentile; dotted: the best." }));
}

function rollout(r) {
  const skip = new Set(["text", "solution", "n", "id", "reason"]);
  return [
    h("header", { class: "sia-detail-head" }, h("h3", { text: `Rollout ${r.row ?? r.n} of group ${r.group ?? 0}` }), h("span", { class: "sia-spring" }),
      copyButton(() => JSON.stringify(r, null, 1))),
    h("dl", { class: "sia-fields" }, Object.entries(r).filter(([k, v]) => !skip.has(k) && v !== null && v !== "").map(([k, v]) =>
      [h("dt", { text: k.replaceAll("_", " ") }), h("dd", { dir: "auto", text: typeof v === "number" ? plain(v) : plain(String(v)) })])),
    r.reason && h("section", {}, h("h4", { text: "Why it is not valid" }), block(r.reason)),
    h("section", {}, h("h4", { text: "Text" }), block(r.text ?? "")),
    r.solution && h("section", {}, h("h4", { text: "Extracted answer" }), pretty(r.solution)),
  ];
}

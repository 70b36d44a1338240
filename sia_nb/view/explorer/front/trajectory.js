// The trajectory of a step as a table with filters, and beside it the chosen event in full.

import { count, debounce, fill, h, highest, labelled, message, options, score, select } from "./dom.js";
import { detailPane } from "./detail.js";
import { grid } from "./grid.js";

/** The panel; `jump(g, n)` shows an event of a step. */
export function trajectoryPanel({ ask, jump, say }) {
  let at = { run: "", g: 0 }, following = false, last = {}, token = 0, most = 1;
  const changed = debounce(() => reload(), 180);
  const kind = select([["", "all kinds"]], "", changed, { "data-testid": "filter-kind" });
  const failure = select([["", "any outcome"]], "", changed, { "data-testid": "filter-failure" });
  const instance = select([["", "all instances"]], "", changed, { "data-testid": "filter-instance" });
  const text = input("search", "search the events", "filter-text");
  const low = input("number", "from", "filter-reward-low"), high = input("number", "to", "filter-reward-high");
  const matched = h("output", { class: "sia-matched", "data-testid": "matched" });
  const damaged = h("div");
  const follow = h("input", { type: "checkbox", onchange: () => (following = follow.checked), "data-testid": "follow" });
  const clear = h("button", { class: "sia-link", type: "button", onclick: reset }, "clear");

  function input(type, placeholder, testid) {
    return h("input", { class: `sia-input sia-${type}`, type, placeholder, "data-testid": testid, step: "any", oninput: changed, "aria-label": placeholder });
  }

  const filters = () => {
    const q = { sort: table.order.field || "id", descending: table.order.down };
    if (kind.value) q.kinds = [kind.value];
    if (failure.value === "failed" || failure.value === "fine") q.failed = failure.value === "failed";
    else if (failure.value) q.failure = failure.value.slice(1);
    if (instance.value) q.instance = instance.value;
    if (text.value) q.text = text.value;
    const bounds = [low, high].map((i) => (i.value === "" || Number.isNaN(i.valueAsNumber) ? null : i.valueAsNumber));
    if (bounds.some((b) => b !== null)) q.reward = bounds;
    return q;
  };
  const filtered = () => Object.keys(filters()).length > 2;

  const detail = detailPane({ ask, jump, say, leave: () => table.focus() });
  const table = grid({
    label: "events", testid: "table", empty: () => (last.total ? "No event matches these filters." : "No event has been recorded yet."),
    sort: { field: "id", change: () => reload() },
    columns: [
      { label: "#", width: "52px", align: "right", sort: "id", cell: (r) => String(r.id), class: "sia-mono sia-quiet" },
      { label: "time", width: "74px", align: "right", wide: true, sort: "seconds", cell: (r) => `${(r.seconds ?? 0).toFixed(2)} s`, class: "sia-mono sia-quiet" },
      { label: "kind", width: "84px", cell: (r) => h("span", { class: `sia-chip sia-kind-${r.kind}`, text: r.kind }) },
      { label: "what", width: "minmax(120px, 1fr)", cell: (r) => r.summary ?? "", dir: "auto" },
      { label: "reward", width: "84px", align: "right", sort: "reward", down: true, cell: (r) => rewardCell(r, most) },
      { label: "tokens", width: "66px", align: "right", wide: true, sort: "tokens", down: true, cell: (r) => (r.tokens === null || r.tokens === undefined ? "" : count(r.tokens)), class: "sia-mono sia-quiet" },
    ],
    async ask(offset, limit) {
      const answer = await ask({ do: "events", run: at.run, g: at.g, ...filters(), offset, limit });
      if (!answer.error) told(answer);
      return answer;
    },
    select: (row) => detail.show({ ...at, n: row.n }),
    open: () => detail.focus(),
  });

  function told(answer) {
    last = answer;
    const named = (counts) => Object.entries(counts ?? {});
    options(kind, [["", "all kinds"], ...named(answer.kinds).map(([k, n]) => [k, `${k} (${count(n)})`])]);
    options(failure, [["", "any outcome"], ["failed", "failed"], ["fine", "not failed"], ...named(answer.failures).map(([k, n]) => [`=${k}`, `${k} (${count(n)})`])]);
    options(instance, [["", "all instances"], ...named(answer.instances).map(([k, n]) => [k, `${k} (${count(n)})`])]);
    instance.parentElement.hidden = named(answer.instances).length === 0;
    matched.textContent = answer.matched === answer.total ? `${count(answer.total)} events` : `${count(answer.matched)} of ${count(answer.total)} events`;
    clear.hidden = !filtered();
    const lines = answer.damaged ?? [], short = answer.held !== undefined && answer.held < answer.total;
    fill(damaged, answer.note && message(`This trajectory was ${answer.note}.`, "warning"), short && message(`This page holds the first ${count(answer.held)} of this step's ${count(answer.total)} events; the run's folder has them all.`, "warning"),
      lines.length > 0 && message(
      `${lines.length} damaged line${lines.length === 1 ? "" : "s"} of trajectory.jsonl could not be read and ${lines.length === 1 ? "is" : "are"} left out: ${lines.slice(0, 12).join(", ")}${lines.length > 12 ? " …" : ""}`, "warning"));
  }

  async function reload(how = {}) {
    const mine = (token += 1);
    const answer = await table.reload(how);
    if (mine === token && following && how.keep && table.total) table.go(table.total - 1);
    return answer;
  }
  function reset() {
    for (const control of [kind, failure, instance, text, low, high]) control.value = "";
    return reload();
  }

  const node = h("div", { class: "sia-panel sia-trajectory" },
    h("div", { class: "sia-bar sia-filters", role: "search" },
      labelled("text", text), labelled("kind", kind), labelled("outcome", failure), labelled("instance", instance),
      labelled("reward", h("span", { class: "sia-range" }, low, "–", high)), clear, h("span", { class: "sia-spring" }), matched,
      h("label", { class: "sia-field sia-inline sia-live-only", title: "Go to the newest event as events arrive" }, follow, "follow")),
    damaged, h("div", { class: "sia-split" }, table.node, detail.node));
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "ArrowDown") {
      event.preventDefault();
      event.stopPropagation();
      table.focus();
      if (!table.chosen()) table.go(0);
    } else if (event.key === "Escape") {
      event.stopPropagation();
      if (text.value) {
        text.value = "";
        reload();
      } else table.focus();
    }
  });

  return {
    node,
    search: () => text.focus(),
    async show(state) {
      const other = state.run !== at.run || state.g !== at.g;
      at = state;
      most = highest(state.steps);
      if (other) {
        detail.clear();
        await reset();
      }
    },
    /** Rows may have been appended: keep the place. */
    refresh: () => reload({ keep: !filtered() && (table.order.field || "id") === "id" && !table.order.down }),
    /** Show event n of the step in hand: its row if the table has it in plain order, its detail in any case. */
    async reveal(n) {
      if (filtered() || (table.order.field !== "id" && table.order.field) || table.order.down) await reset();
      if (last.total !== undefined && n < table.total) await table.go(n);
      else await detail.show({ ...at, n });
    },
    leave: () => detail.node.contains(document.activeElement) && table.focus(),
  };
}

/** The reward as a bar up to the best of the run, at least 1. */
function rewardCell(r, most) {
  if (r.reward === null || r.reward === undefined) return r.failure ? h("span", { class: "sia-chip sia-bad", text: r.failure.replaceAll("_", " "), title: r.failure }) : "";
  const share = Math.max(0, Math.min(1, r.reward / most));
  return h("span", { class: `sia-reward ${r.valid === false ? "sia-invalid" : ""}`, title: r.failure || `reward ${score(r.reward)}` },
    h("i", { style: { width: `${share * 100}%` } }), h("b", { text: r.valid === false ? (r.failure || "invalid") : score(r.reward) }));
}

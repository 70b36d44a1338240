// What the run spent, by phase: seconds, tokens, verifier calls, dollars.

import { count, dollars, duration, fill, h, message, table } from "./dom.js";

const COLUMNS = [
  ["seconds", "time", duration], ["verifier_calls", "verifier calls", count], ["sampled_tokens", "tokens sampled", count],
  ["input_tokens", "agents' tokens in", count], ["output_tokens", "agents' tokens out", count], ["dollars", "US dollars", dollars],
];

/** The panel. */
export function ledgerPanel({ ask }) {
  const node = h("div", { class: "sia-panel" });
  return {
    node,
    async show({ run }) {
      const answer = await ask({ do: "ledger", run });
      if (answer.error) return fill(node, message(answer.error, "error"));
      if (!answer.phases?.length) return fill(node, message("Nothing has been spent yet."));
      const total = answer.total ?? {};
      const rows = answer.phases.map((p) => [p.phase, ...COLUMNS.map(([name, , show]) => bar(p[name], total[name], show))]);
      rows.push([h("strong", { text: "in all" }), ...COLUMNS.map(([name, , show]) => h("strong", { text: show(total[name]) }))]);
      fill(node, h("section", { class: "sia-card sia-ledger", "data-testid": "ledger" },
        table(["phase", ...COLUMNS.map(([, said]) => said)], rows, new Set([1, 2, 3, 4, 5, 6])),
        total.unpriced > 0 && message(`${count(total.unpriced)} calls have no known price and are not in the sum of dollars.`, "warning")));
    },
  };
}

function bar(value, total, show) {
  const share = total > 0 && value > 0 ? (value / total) * 100 : 0;
  return h("span", { class: "sia-share" }, h("span", { text: show(value) }), h("i", { style: { width: `${share}%` } }));
}

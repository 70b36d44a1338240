// What the Feedback-Agent chose after a step, why, and the events it cites; and its report.

import { chip, fill, h, message, plain, table } from "./dom.js";
import { markdown } from "./text.js";

const ACTION = { harness: ["H", "harness update"], weights: ["W", "weight update"], stop: ["–", "stop"] };

/** The panel; `jump(g, event)` shows an event of a step. */
export function decisionPanel({ ask, jump }) {
  const node = h("div", { class: "sia-panel" });
  return {
    node,
    async show({ run, g, steps }) {
      const before = steps[steps.findIndex((s) => s.g === g) - 1];
      const [led, answer] = await Promise.all([before && ask({ do: "decision", run, g: before.g }), ask({ do: "decision", run, g })]);
      if (answer.error) return fill(node, message(answer.error, "error"));
      const origin = steps.find((s) => s.g === g) ?? {};
      fill(
        node,
        led?.decision ? decision(led.decision, `How step ${g} came about`, before.g, jump) : made(origin),
        answer.decision
          ? decision(answer.decision, `What was decided after step ${g}`, g, jump)
          : message("No decision follows this step: it is the run's last, or the decision has not been taken yet."),
        answer.improvement && h("section", { class: "sia-card" }, h("h3", { text: `The report on step ${g}` }), markdown(answer.improvement)),
      );
    },
  };
}

/** Of the first step, who wrote it. */
function made({ lever, author }) {
  return lever === "start" && h("section", { class: "sia-card" }, h("h3", {}, h("span", { class: "sia-letter", text: "A₁" }), "The first scaffold"),
    h("p", { class: "sia-lead", text: `The Meta-Agent${author ? ` (${author})` : ""} wrote it from the task's specification and reference.` }));
}

function decision(d, title, g, jump) {
  const [letter, said] = ACTION[d.action] ?? ["?", d.action];
  const hyper = Object.entries(d.hyperparameters ?? {});
  return h("section", { class: "sia-card" },
    h("h3", {}, h("span", { class: `sia-letter sia-letter-${letter.toLowerCase()}`, text: letter }), `${title}: ${said}`, d.algorithm && chip(d.algorithm, "w")),
    h("p", { class: "sia-lead", dir: "auto", text: d.rationale || "No rationale was recorded." }),
    d.rule && h("p", { class: "sia-quiet" }, "Rule: ", h("code", { text: d.rule })),
    hyper.length > 0 && table(["hyperparameter", "value"], hyper.map(([k, v]) => [k, plain(v)]), new Set([1])),
    evidence(d.evidence ?? [], g, jump));
}

function evidence(cited, g, jump) {
  if (!cited.length) return h("p", { class: "sia-quiet", text: "It cites no event." });
  return [
    h("h4", { text: `Evidence: ${cited.length} event${cited.length === 1 ? "" : "s"}` }),
    h("ul", { class: "sia-evidence" }, cited.map((e) => {
      const found = e.n !== null && e.kind;
      return h("li", {}, h("button", {
        class: "sia-cite", type: "button", "data-testid": `evidence-${e.event}`, disabled: !found, onclick: () => jump(e.g ?? g, e.n ?? e.event),
      }, h("b", { text: `#${e.event}` }), found ? chip(e.kind, `kind-${e.kind}`) : chip("not found", "bad"), h("span", { dir: "auto", text: e.text ?? "" })));
    })),
  ];
}

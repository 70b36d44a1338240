// A scaffold's source, and what differs between it and its parent or any other step's.

import { copyButton, download, fill, h, labelled, message, options, select, visible } from "./dom.js";
import { diffView } from "./lines.js";

/** The panel. */
export function scaffoldPanel({ ask }) {
  let at = { run: "", g: 0, steps: [] }, to = "parent", source = "";
  const body = h("div"), views = ["difference", "source"];
  let view = views[0];
  const other = select([["parent", "its parent"]], "parent", (v) => {
    to = v;
    draw();
  }, { "data-testid": "diff-to" });
  const mode = h("div", { class: "sia-segments", role: "group", "aria-label": "what to show" }, views.map((v) => h("button", {
    type: "button", text: v, "data-testid": `scaffold-${v}`, "aria-pressed": String(v === view), onclick: () => {
      view = v;
      for (const [i, b] of [...mode.children].entries()) b.setAttribute("aria-pressed", String(views[i] === v));
      draw();
    },
  })));
  const node = h("div", { class: "sia-panel" },
    h("div", { class: "sia-bar" }, mode, labelled("against", other), h("span", { class: "sia-spring" }),
      copyButton(() => source, "Copy source"), h("button", { class: "sia-button", type: "button", onclick: () => download(`agent_step_${at.g}.py`, source) }, "Save")),
    body);

  async function draw() {
    const { run, g } = at;
    const answer = await ask({ do: "scaffold", run, g, to: to === "parent" ? "parent" : Number(to) });
    if (run !== at.run || g !== at.g) return;
    if (answer.error) return fill(body, message(answer.error, "error"));
    source = answer.source ?? "";
    if (view === "source") return fill(body, listing(source));
    if (!answer.parent_g) {
      return fill(body, message("This is the first scaffold; it has no parent. Choose another step to compare it with."), listing(source));
    }
    fill(body, diffView(answer.diff, `step ${answer.parent_g}`, `step ${g}`));
  }
  return {
    node,
    show(state) {
      at = state;
      const others = state.steps.filter((s) => s.g !== state.g).map((s) => [String(s.g), `step ${s.g}`]);
      options(other, [["parent", "its parent"], ...others], to);
      to = other.value;
      return draw();
    },
  };
}

function listing(source) {
  return h("div", { class: "sia-diff" }, h("div", { class: "sia-wide", tabindex: "0", role: "region", "aria-label": "source" },
    h("table", {}, h("colgroup", {}, h("col", { class: "sia-col-n" }), h("col")), h("tbody", {}, source.replace(/\n$/, "").split("\n").map((text, i) =>
      h("tr", {}, h("td", { class: "sia-line-number", text: i + 1 }), h("td", { class: "sia-code" }, visible(text))))))));
}

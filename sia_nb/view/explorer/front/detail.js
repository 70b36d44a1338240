// One event in full: prompt, response, tool calls, the extracted answer, the verdict, what it is linked with, a note.

import { chip, copyButton, count, download, fill, h, message, plain, score, table } from "./dom.js";
import { block, pretty } from "./text.js";

const SHOWN = new Set(["messages", "text", "solution", "metrics"]); // parts of an event's data that have a section of their own

/** The pane; `leave()` gives the focus back to the table. */
export function detailPane({ ask, jump, leave }) {
  const node = h("aside", { class: "sia-detail", "data-testid": "detail", tabindex: "-1", "aria-label": "the chosen event" });
  let token = 0;
  const clear = () => fill(node, message("Choose an event to read it in full. ↑ ↓ or j k move, / searches, Enter reads, Escape comes back."));
  node.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      leave();
    }
  });
  clear();
  return {
    node,
    clear,
    focus: () => node.focus({ preventScroll: true }),
    async show({ run, g, n }) {
      const mine = (token += 1);
      const answer = await ask({ do: "event", run, g, n });
      if (mine !== token) return;
      if (answer.error) return fill(node, message(answer.error, "error"));
      fill(node, contents(answer, { run, g, n }, ask, jump));
      node.scrollTop = 0;
    },
  };
}

function contents(answer, { run, g, n }, ask, jump) {
  const e = answer.event, data = e.data ?? {};
  const text = (field, value, options = {}) => block(value, {
    total: answer.cut?.[field] ?? 0, more: (offset) => ask({ do: "text", run, g, n, field, offset }), ...options,
  });
  const rest = Object.entries(data).filter(([k, v]) => !SHOWN.has(k) && v !== "" && v !== null);
  const calls = answer.tool_calls ?? [];
  return [
    h("header", { class: "sia-detail-head" },
      h("h3", {}, `#${e.id} `, chip(e.kind, `kind-${e.kind}`)),
      h("span", { class: "sia-quiet", text: `${(e.seconds ?? 0).toFixed(3)} s` }),
      h("span", { class: "sia-spring" }),
      copyButton(() => JSON.stringify(e, null, 1), "Copy", "copy"),
      h("button", { class: "sia-button", type: "button", title: "Save the event as a file", onclick: () => download(`step_${g}_event_${e.id}.json`, JSON.stringify(answer, null, 1), "application/json") }, "Save")),
    rest.length > 0 && h("dl", { class: "sia-fields" }, rest.map(([k, v]) => [h("dt", { text: k.replaceAll("_", " ") }), h("dd", { dir: "auto" }, value(v))])),
    answer.verdict && section("Verdict", verdict(answer.verdict)),
    answer.prompt?.length && section("Prompt", answer.prompt.map((m, i) => h("div", { class: `sia-message-box sia-role-${roleOf(m)}` },
      h("b", { class: "sia-role", text: roleOf(m, true) }), text(`prompt.${i}.content`, said(m.content))))),
    answer.response !== null && answer.response !== undefined && section("Response", text("response", answer.response)),
    calls.length > 0 && section("Tool calls", calls.map((c) => call(c))),
    answer.answer && answer.answer !== answer.response && section("Extracted answer", pretty(answer.answer)),
    answer.answer && answer.answer === answer.response && section("Extracted answer", h("p", { class: "sia-quiet", text: "The whole response is the answer:" }), pretty(answer.answer)),
    answer.linked?.length && section("Linked events", h("div", { class: "sia-links" }, answer.linked.map((l) =>
      h("button", { class: "sia-cite", type: "button", "data-testid": `linked-${l.n}`, onclick: () => jump(g, l.n) }, h("b", { text: `#${l.id}` }), chip(l.kind, `kind-${l.kind}`))))),
    section("Note", noteForm(answer, { run, g, n }, ask)),
    h("details", { class: "sia-raw" }, h("summary", { text: "Raw event" }), block(JSON.stringify(e, null, 1))),
  ];
}

const section = (title, ...children) => h("section", {}, h("h4", { text: title }), children);
const said = (content) => (typeof content === "string" ? content : JSON.stringify(content, null, 1));

function roleOf(m, full = false) {
  const role = String(m.role ?? "unknown");
  return full || /^(system|user|assistant|tool)$/.test(role) ? role : "other";
}

function value(v) {
  if (typeof v === "string" && v.length > 120) return block(v);
  return typeof v === "object" ? h("code", { text: JSON.stringify(v) }) : plain(v);
}

function call(c) {
  const name = c.name ?? c.kind ?? c.do ?? "call";
  const argument = c.arguments ?? c.input ?? c.solution ?? null, result = c.result ?? c.verdict ?? null;
  return h("div", { class: "sia-call" }, h("code", { class: "sia-call-name", text: name }),
    argument !== null && (typeof argument === "string" ? pretty(argument) : pretty(JSON.stringify(argument))),
    result !== null && [h("span", { class: "sia-quiet", text: "gave" }), pretty(typeof result === "string" ? result : JSON.stringify(result))]);
}

function verdict(v) {
  const metrics = Object.entries(v.metrics ?? {});
  const marks = [v.valid ? chip("valid", "good") : chip(v.failure || "invalid", "bad"), v.repeat && chip("repeat"), v.cached && chip("cached")];
  return [
    h("p", { class: "sia-verdict" }, h("strong", { text: score(v.score) }), " ", marks),
    v.reason && block(v.reason),
    metrics.length > 0 && table(["metric", "value"], metrics.map(([k, x]) => [k, typeof x === "number" ? score(x, 5) : plain(x)]), new Set([1])),
  ];
}

function noteForm(answer, where, ask) {
  const note = h("textarea", { class: "sia-input", rows: "2", placeholder: "What is worth remembering here?", "aria-label": "note", "data-testid": "note" });
  note.value = answer.note ?? "";
  const tags = h("input", { class: "sia-input", placeholder: "tags, with commas", "aria-label": "tags", "data-testid": "tags" });
  tags.value = (answer.tags ?? []).join(", ");
  const status = h("span", { class: "sia-quiet", role: "status", text: answer.notes_error ?? "" });
  const save = async () => {
    const words = tags.value.split(",").map((t) => t.trim()).filter(Boolean);
    const told = await ask({ do: "save", ...where, note: note.value, tags: words });
    status.textContent = told.error ?? (told.saved ? `Saved in ${told.saved}` : "Saved");
  };
  return h("div", { class: "sia-note" }, note, h("div", { class: "sia-bar" }, tags,
    h("button", { class: "sia-button sia-primary", type: "button", "data-testid": "save-note", onclick: save }, "Save note"), status));
}

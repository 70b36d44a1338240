// The explorer: a run's timeline and, for the chosen step, its decision, scaffold, trajectory and rollouts; two steps beside
// each other; the ledger. `mount` builds it on a transport: `render` on a notebook's widget, `mountEmbedded` on a page's own data.

import { comparePanel } from "./compare.js";
import { decisionPanel } from "./decision.js";
import { chip, count, dollars, duration, fill, h, message, options, score, select } from "./dom.js";
import { keyHelp, listen } from "./keys.js";
import { ledgerPanel } from "./ledger.js";
import { rolloutsPanel } from "./rollouts.js";
import { scaffoldPanel } from "./scaffold.js";
import { followTheme } from "./theme.js";
import { timeline } from "./timeline.js";
import { trajectoryPanel } from "./trajectory.js";
import { embeddedTransport, kernelTransport } from "./transport.js";

const POLL = 2000; // ms between looks at a run that goes on
const TABS = [
  ["decision", "Decision", decisionPanel], ["scaffold", "Scaffold", scaffoldPanel], ["trajectory", "Trajectory", trajectoryPanel],
  ["rollouts", "Rollouts", rolloutsPanel], ["compare", "Compare", comparePanel], ["ledger", "Ledger", ledgerPanel],
];

/** Build an explorer in `el`; `first` may name the run, step and tab to begin with. Returns a function that takes it down. */
export function mount(el, transport, first = {}) {
  const state = { run: "", g: 0, tab: first.tab ?? "trajectory", steps: [], runs: [], live: false };
  const ask = async (request) => {
    const answer = await transport.ask(request);
    if (answer.late) fill(notice, message(answer.error, "warning"));
    return answer;
  };
  const notice = h("div", { class: "sia-notice" }), facts = h("div", { class: "sia-facts" });
  const status = h("span", { class: "sia-status", role: "status", "aria-live": "polite", "data-testid": "status" });
  const progress = h("span", { class: "sia-quiet" });
  const picker = select([], "", (v) => openRun(v), { "data-testid": "run-picker", class: "sia-input sia-run" });
  const stepName = h("h2", { class: "sia-step-name", "data-testid": "step-name" });
  const root = h("div", { class: "sia-explorer", "data-testid": "explorer", "data-lm-suppress-shortcuts": "true", "data-static": transport.live ? null : "" });
  const theme = followTheme(root);
  const line = h("div", { class: "sia-timeline", "data-testid": "timeline" });
  const steps = timeline(line, (g) => choose(g));
  const jump = (g, n) => open("trajectory", g, n);
  const context = { ask, jump, runs: () => state.runs.map((r) => r.name) };
  const panels = Object.fromEntries(TABS.map(([name, , make]) => [name, make(context)]));
  const tabs = TABS.map(([name, label]) => h("button", {
    class: "sia-tab", type: "button", role: "tab", id: `sia-tab-${name}`, "data-testid": `tab-${name}`, text: label, onclick: () => open(name),
  }));
  const tablist = h("div", { class: "sia-tabs", role: "tablist", "aria-label": "parts of the step", onkeydown: turn }, tabs);
  const panel = h("div", { class: "sia-body", role: "tabpanel" });
  const arrow = (by, text, name) => h("button", { class: "sia-button sia-arrow-button", type: "button", "aria-label": name, title: name, onclick: () => move(by), text });

  fill(root,
    h("header", { class: "sia-top" },
      h("span", { class: "sia-brand" }, h("i", { class: "sia-logo", "aria-hidden": "true" }), "Run explorer"),
      h("label", { class: "sia-field sia-inline sia-run-field" }, h("span", { text: "run" }), picker), status, progress, h("span", { class: "sia-spring" }), keyHelp(), theme.button),
    notice, facts, line,
    h("div", { class: "sia-step-bar" }, arrow(-1, "←", "previous step  ["), arrow(1, "→", "next step  ]"), stepName, tablist),
    panel);
  fill(el, root);
  listen(root, { search, move, tab: (i) => TABS[i] && open(TABS[i][0]), leave: () => panels[state.tab].leave?.() });

  async function search() {
    if (state.tab !== "trajectory") await open("trajectory");
    panels.trajectory.search();
  }
  function turn(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const at = (TABS.findIndex(([name]) => name === state.tab) + by + TABS.length) % TABS.length;
    open(TABS[at][0]);
    tabs[at].focus();
  }
  function move(by) {
    const at = state.steps.findIndex((s) => s.g === state.g);
    const next = state.steps[Math.min(Math.max(at + by, 0), state.steps.length - 1)];
    if (next && next.g !== state.g) choose(next.g);
  }

  async function start() {
    fill(panel, message("Opening …"));
    const answer = await ask({ do: "runs" });
    if (answer.error) return fill(panel, message(answer.error, "error"));
    state.runs = answer.runs ?? [];
    if (!state.runs.length) return fill(panel, message("No run was given, or there is none yet: python -m sia_nb run makes one."));
    options(picker, state.runs.map((r) => [r.name, runLabel(r)]), first.run ?? state.runs[0].name);
    picker.disabled = state.runs.length < 2;
    await openRun(picker.value, first.g);
  }
  async function openRun(name, g = null) {
    state.run = name;
    picker.value = name;
    fill(notice);
    const answer = await ask({ do: "steps", run: name });
    if (answer.error) {
      state.steps = [];
      steps.update([], null);
      fill(facts);
      return fill(panel, message(answer.error, "error"));
    }
    take(answer);
    const held = state.steps.find((s) => s.g === g) ?? best(state.steps);
    await choose(held?.g ?? 0);
  }
  function take(answer) {
    state.steps = answer.steps ?? [];
    state.live = Boolean(answer.live);
    root.toggleAttribute("data-live", state.live);
    const run = state.runs.find((r) => r.name === state.run) ?? {};
    fill(status, chip(state.live ? "running" : (run.state ?? ""), state.live ? "live" : run.state === "damaged" ? "bad" : run.state === "finished" ? "good" : ""));
    const damaged = (answer.damaged ?? []).map((d) => (d.g ? `Step ${d.g}: ${d.message}` : d.message));
    fill(notice, run.note && message(run.note, "warning"), damaged.map((text) => message(text, "warning")));
    fill(facts, summary(run, state.steps, answer.report));
  }
  async function choose(g) {
    state.g = g;
    steps.update(state.steps, g);
    name();
    await show();
  }
  function name() {
    const s = state.steps.find((x) => x.g === state.g);
    const fate = !s ? "" : s.rolled_back ? chip("rolled back", "bad") : s.incumbent ? chip("kept", "good") : s.done ? null : chip("not finished");
    fill(stepName, s ? [`Step ${s.g} `, h("span", { class: `sia-letter sia-letter-${s.lever.toLowerCase()}`, text: s.lever === "start" ? "A₁" : s.lever }),
      s.algorithm && chip(s.algorithm, "w"), fate] : "");
    panels.rollouts.node.dataset.lever = s?.lever ?? "";
  }
  async function show() {
    for (const [i, [tab]] of TABS.entries()) {
      tabs[i].setAttribute("aria-selected", String(tab === state.tab));
      tabs[i].tabIndex = tab === state.tab ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `sia-tab-${state.tab}`);
    const part = panels[state.tab];
    if (panel.firstChild !== part.node) fill(panel, part.node);
    if (!state.g && state.tab !== "ledger") return fill(panel, message("This run has no step to look at yet. It appears here as soon as there is one."));
    await part.show({ run: state.run, g: state.g, steps: state.steps });
  }
  async function open(tab, g = state.g, n = null) {
    state.tab = tab;
    if (g !== state.g) await choose(g);
    else await show();
    if (n !== null) await panels.trajectory.reveal(n);
  }

  let seen = true, busy = false;
  const watch = new IntersectionObserver(([entry]) => (seen = entry.isIntersecting));
  watch.observe(root);
  const timer = setInterval(async () => {
    if (!state.live || !seen || document.hidden || busy || !root.isConnected) return;
    busy = true;
    try {
      const mine = state.run, answer = await ask({ do: "refresh", run: mine });
      if (answer.error || mine !== state.run) return;
      fill(progress, answer.live === false ? "" : going(answer.progress));
      if (!answer.changed && answer.live !== false) return;
      const fresh = await ask({ do: "steps", run: mine });
      if (fresh.error || mine !== state.run) return;
      const before = JSON.stringify(state.steps.find((s) => s.g === state.g) ?? null);
      take(fresh);
      if (!state.g && state.steps.length) return await choose(state.steps[0].g);
      steps.update(state.steps, state.g);
      name();
      if (state.tab === "trajectory") await panels.trajectory.refresh();
      else if (state.tab === "ledger" || before !== JSON.stringify(state.steps.find((s) => s.g === state.g) ?? null)) await show();
    } finally {
      busy = false;
    }
  }, POLL);

  start();
  return () => {
    clearInterval(timer);
    watch.disconnect();
    theme.stop();
    transport.close();
  };
}

const going = (p) => (p?.what ? `${p.what}${p.total ? ` ${count(p.done)} of ${count(p.total)}` : ""}` : "");
const best = (steps) => [...steps].reverse().find((s) => s.incumbent) ?? steps.at(-1);
const runLabel = (r) => [r.name, r.state, typeof r.score === "number" ? `score ${score(r.score, 3)}` : "", `${r.steps} step${r.steps === 1 ? "" : "s"}`].filter(Boolean).join(" · ");

/** The run in a line: levers pulled and kept, best dev score, sealed test, what it spent. */
function summary(run, steps, report) {
  const done = steps.filter((s) => s.done), sum = (field) => done.reduce((all, s) => all + (s[field] || 0), 0);
  const pulled = (lever) => done.filter((s) => s.lever === lever), kept = (list) => list.filter((s) => !s.rolled_back).length;
  const fact = (name, value, more = "") => h("div", { class: "sia-fact" }, h("span", { text: name }), h("b", { text: value }), more && h("small", { text: more }));
  const top = done.map((s) => s.best).filter((b) => typeof b === "number").at(-1);
  const sealed = Object.entries(report?.arms ?? {}).map(([arm, r]) => fact(`sealed test, ${arm}`, score(r.test?.[report.metric]), report.metric));
  return [
    fact("steps", String(done.length), ["H", "W"].filter((l) => pulled(l).length).map((l) => `${l} ${kept(pulled(l))} of ${pulled(l).length} kept`).join(" · ")),
    top !== undefined && fact("best on dev", score(top)), sealed,
    fact("spent", `${count(sum("verifier_calls"))} verifier calls`, `${count(sum("tokens"))} tokens · ${duration(sum("seconds"))} · ${dollars(sum("dollars"))}`),
    run.arm && fact("setting", `${run.arm} · seed ${run.seed}`, run.agent ?? ""),
  ];
}

/** Mount on the JSON that a static page carries in the element `id`. */
export function mountEmbedded(id = "sia-data") {
  const packed = JSON.parse(document.getElementById(id).textContent);
  mount(document.getElementById("sia-explorer"), embeddedTransport(packed), packed.first ?? {});
}

/** Mount as the view of a notebook's widget. */
export function render({ model, el }) {
  // The static copy stands for this view only where there is no kernel. Its output is drawn after this one, on a busy machine long after.
  const fold = () => {
    const copy = document.querySelector(`[data-sia-static="${model.get("copy_id")}"]`);
    if (!copy) return;
    copy.removeAttribute("open");
    arriving.disconnect(); // from here on it is the reader's to unfold
  };
  const arriving = new MutationObserver(fold);
  arriving.observe(document.body, { childList: true, subtree: true });
  setTimeout(fold);
  return mount(el, kernelTransport(model), model.get("first") ?? {});
}

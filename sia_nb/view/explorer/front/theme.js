// Light or dark: as JupyterLab, VS Code or the system has it, unless the reader says otherwise.

import { h } from "./dom.js";

const ORDER = ["auto", "light", "dark"];
const SIGN = { auto: "◐", light: "☀", dark: "☾" };

/** Keep `data-theme` of the root at light or dark; returns the button that changes it, and how to stop. */
export function followTheme(root) {
  let chosen = "auto";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const around = () => {
    const { body } = document;
    if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false" ? "dark" : "light";
    if (body.dataset.vscodeThemeKind) return /dark|high-contrast$/.test(body.dataset.vscodeThemeKind) ? "dark" : "light";
    return system.matches ? "dark" : "light";
  };
  const button = h("button", { class: "sia-button", type: "button", "data-testid": "theme", onclick: () => {
    chosen = ORDER[(ORDER.indexOf(chosen) + 1) % ORDER.length];
    apply();
  } });
  const apply = () => {
    root.dataset.theme = chosen === "auto" ? around() : chosen;
    document.querySelector("[data-sia-page]")?.setAttribute("data-theme", root.dataset.theme); // a page of the explorer's own
    button.textContent = SIGN[chosen];
    button.title = `Theme: ${chosen === "auto" ? "as around it" : chosen}`;
    button.setAttribute("aria-label", button.title);
  };
  const observer = new MutationObserver(apply);
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-vscode-theme-kind"] });
  system.addEventListener("change", apply);
  apply();
  return {
    button,
    stop() {
      observer.disconnect();
      system.removeEventListener("change", apply);
    },
  };
}

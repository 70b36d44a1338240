"""How soon the trajectory explorer is there in a browser: as a page that is one file, and in JupyterLab.

For the page, from the navigation to the first contentful paint (the browser's own measure) and to the frame in which the
steps and what the page begins with are drawn. In JupyterLab, from pressing Shift+Enter on the cell that shows the explorer, its
package already imported, to the frame in which the same is drawn: the kernel opens the run, sends the view, the view asks for
steps and the rows of the last that was kept. Each is the median of several, in a fresh page or cell each time; the first one is kept apart.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import ROOT, commit, hardware, versions, write

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "browser")]
RUNS = 7
RUN = "lawbench-W+H-cpu-playbook-s0"
DRAWN = """(root) => new Promise((done, fail) => {
    setTimeout(() => fail(new Error('the explorer was not drawn within 60 s')), 60000);
    const look = () => {
        const there = [...root.querySelectorAll('[data-testid=explorer]')].at(-1);
        const step = there?.querySelector('[data-testid=step-1]'), part = there?.querySelector('[role=tabpanel]');
        if (step && part?.innerText.length > 200) requestAnimationFrame(() => done(performance.now()));
        else requestAnimationFrame(look);
    };
    look();
})"""


def first_paint() -> dict[str, Any]:
    """Measure, and write ``results/reference/bench/explorer_paint.json``. Returns what was written.

    Raises:
        RuntimeError: there is no Chromium here, or JupyterLab did not start.
    """
    from browser_lab import REFERENCE, Lab
    from browsers import MISSING, find_browser
    from playwright.sync_api import sync_playwright

    if not (path := find_browser()):
        raise RuntimeError(MISSING)
    run = next(p.parent for p in sorted(REFERENCE.glob(f"*/*/{RUN}*/run.json")))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=60_000)
        paint, drawn, size = of_page(browser, run, Path(folder))
        lab = Lab(Path(folder))
        try:
            first, shown = in_jupyterlab(browser, lab, run)
        finally:
            lab.stop()
        version = browser.version
        browser.close()
    fields = {
        "what": "explorer of a run of 8 steps, steps and first rows drawn after Shift+Enter in JupyterLab; median of "
        f"{len(shown)}; peers: the first display in a kernel, and the same run as one HTML file, from navigation",
        "unit": "s",
        "ours": round(statistics.median(shown), 3),
        "peers": {
            "limit": 2.0,
            "JupyterLab, first display": round(first, 3),
            "page, first contentful paint": round(statistics.median(paint), 3),
            "page, steps and first part drawn": round(statistics.median(drawn), 3),
        },
        "ratio": round(statistics.median(shown) / 2.0, 3),
        "page_bytes": size,
        "hardware": hardware(),
        "versions": {**versions("jupyterlab", "ipywidgets", "anywidget", "playwright"), "chromium": version},
        "commit": commit(),
        "command": "python benchmarks/explorer_paint.py",
    }
    write("explorer_paint", **fields)
    return fields


def of_page(browser: Any, run: Path, folder: Path) -> tuple[list[float], list[float], int]:
    """Seconds to the first contentful paint and to the drawn table, once a navigation; and the file's size in bytes."""
    from sia_nb.view.explorer.page import page

    file = page(run, folder / "report.html")
    paint, drawn = [], []
    for _ in range(RUNS):
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.goto(file.as_uri(), wait_until="commit", timeout=30_000)
        drawn.append(opened.evaluate(DRAWN, opened.query_selector("body")) / 1000)
        paint.append(opened.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000)
        opened.close()
    return paint, drawn, file.stat().st_size


def in_jupyterlab(browser: Any, lab: Any, run: Path) -> tuple[float, list[float]]:
    """Seconds of the first display and of those after it, in one kernel."""
    import nbformat
    from browser_lab import Sheet

    cell = nbformat.v4.new_code_cell
    sources = ["from sia_nb.view.explorer.widget import explore", *[f"explore({str(run)!r})"] * (RUNS + 1)]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell(s) for s in sources], metadata=metadata), lab.notebooks / "paint.ipynb")
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    sheet = Sheet(page, lab, "paint")
    seconds = []
    for number in range(len(sources)):
        shown = sheet.notebook.locator(".jp-Cell").nth(number)
        shown.locator(".cm-content").click()
        start = page.evaluate("performance.now()")
        page.keyboard.press("Shift+Enter")
        if number:
            seconds.append((shown.evaluate(DRAWN) - start) / 1000)
        shown.locator(".jp-InputPrompt", has_text=str(number + 1)).wait_for()
        time.sleep(0.5)
    sheet.close()
    context.close()
    return seconds[0], seconds[1:]


def main() -> None:
    try:
        fields = first_paint()
    except RuntimeError as error:
        return print(f"not measured: {error}")
    print(f"JupyterLab: {fields['ours']:.2f} s; {fields['peers']}")


if __name__ == "__main__":
    main()

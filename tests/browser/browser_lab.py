"""JupyterLab as a person has it, for tests: a server of its own, and a notebook in it driven through Chromium.

``Lab`` starts the server on a free port, with a token, offline (no news, no update checks), on a copy of ``notebooks/`` and of
the committed runs, so that nothing in the project is written to; ``Sheet`` is one notebook open in the browser. Nothing here
waits without a time-out, and what was started is ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from sia_nb import notebooks
from sia_nb.store import ROOT, data_dir

SCREENSHOTS = ROOT / "build" / "screenshots"
REFERENCE = ROOT / "results" / "reference"
WIDGET = "application/vnd.jupyter.widget-view+json"
LONGEST = 8000  # pixels of a screenshot
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}


class Lab:
    """A JupyterLab server in ``folder``: ``notebooks/`` is what it shows, ``results/`` what its kernels write to.

    Raises:
        RuntimeError: it did not answer within a minute; the message holds the end of its log.
    """

    def __init__(self, folder: Path):
        self.notebooks, self.results, self.log = folder / "notebooks", folder / "results", folder / "lab.log"
        shutil.copytree(notebooks.NOTEBOOKS, self.notebooks, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        for name in ("lawbench", "denoising", "transfer", "controls", "lessons"):
            shutil.copytree(REFERENCE / name, self.results / "reference" / name)
        self._settings(folder / "settings")
        self.token = secrets.token_hex(16)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        options = {
            "ServerApp.root_dir": self.notebooks,
            "ServerApp.port": self.port,
            "ServerApp.port_retries": 0,
            "ServerApp.ip": "127.0.0.1",
            "IdentityProvider.token": self.token,
            "ServerApp.terminals_enabled": False,
            "LabApp.news_url": "None",
            "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            "LabApp.extension_manager": "readonly",
        }
        private = {
            "JUPYTER_CONFIG_DIR": folder / "config",
            "JUPYTER_DATA_DIR": folder / "data",
            "JUPYTER_RUNTIME_DIR": folder / "runtime",
            "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
            "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
            "IPYTHONDIR": folder / "ipython",
            "SIA_RESULTS": self.results,
            "SIA_DATA": data_dir(),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", *(f"--{k}={v}" for k, v in options.items())]
        self._out = open(self.log, "w")
        self.process = subprocess.Popen(
            [*command, "--allow-root"] if os.geteuid() == 0 else command,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **{k: str(v) for k, v in private.items()}},
            start_new_session=True,
            preexec_fn=notebooks._die_with_parent,
        )
        try:
            self._await(60)
        except BaseException:
            self.stop()
            raise

    def _settings(self, folder: Path) -> None:
        for name, values in SETTINGS.items():
            file = folder / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))

    def _await(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.api("status")
                return
            time.sleep(0.1)
        raise RuntimeError(f"JupyterLab did not start in {seconds:.0f} s:\n{self.log.read_text()[-2000:]}")

    def api(self, path: str, method: str = "GET") -> Any:
        """What the server's REST interface answers to ``/api/<path>``."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.url}/api/{path}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def parameterise(self, name: str, values: dict[str, Any]) -> str:
        """Give a notebook's copy other parameters, checked as the loop checks them; ``name`` without ``.ipynb``. Returns it."""
        import nbformat
        from papermill.iorw import load_notebook_node
        from papermill.parameterize import parameterize_notebook

        path = self.notebooks / f"{name}.ipynb"
        notebooks.check_parameters(path, values)
        nbformat.write(parameterize_notebook(load_notebook_node(str(path)), values), path)
        return name

    def reference_run(self, words: str) -> Path:
        """The copy of the committed run whose name starts with ``words``."""
        return next(p.parent for p in sorted(self.results.glob(f"reference/lessons/*/{words}*/run.json")))

    def stop(self) -> None:
        """End the server, its kernels and all that they started."""
        started = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        with contextlib.suppress(OSError, urllib.error.URLError):
            for kernel in self.api("kernels"):
                self.api(f"kernels/{kernel['id']}", "DELETE")
        for signum, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 10)):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, signum)
                self.process.wait(patience)
        for child in psutil.wait_procs(started, timeout=5)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._out.close()


class Sheet:
    """The notebook ``name`` (a path under ``notebooks/``, without ``.ipynb``) open in JupyterLab in the browser."""

    def __init__(self, page: Any, lab: Lab, name: str):
        self.page, self.lab, self.name = page, lab, name
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(f"script error: {error}"))
        page.on("request", self._stays_here)
        page.goto(f"{lab.url}/lab/tree/{name}.ipynb?reset&token={lab.token}", timeout=60_000)
        self.notebook = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
        self.notebook.locator(".jp-Cell").first.wait_for(timeout=60_000)
        page.locator(".jp-Toolbar-kernelName", has_text="Python 3").first.wait_for(timeout=60_000)
        page.locator('.jp-NotebookPanel-toolbar [data-status="idle"]').first.wait_for(timeout=60_000)

    def _stays_here(self, request: Any) -> None:
        if not request.url.startswith((self.lab.url, self.lab.url.replace("http", "ws"), "data:", "blob:", "about:")):
            self.problems.append(f"asks the network for {request.url[:200]}")

    def menu(self, menu: str, command: str) -> None:
        """Choose the entry of the command in the menu bar."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text=menu).first.click()
        self.page.locator(f'.lm-Menu-item[data-command="{command}"]').click()

    def theme(self, name: str) -> None:
        """Choose a theme in the menu bar, e.g. JupyterLab Dark."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text="Settings").click()
        self.page.locator(".lm-Menu-item", has_text="Theme").first.hover()
        self.page.locator('.lm-Menu-item[data-command="apputils:change-theme"]', has_text=re.compile(f"^{name}$")).click()

    def run_all(self, seconds: float = 60) -> list[dict[str, Any]]:
        """Run all cells, wait for the end, check that each did well and is drawn. Returns the cells as saved.

        Raises:
            AssertionError: a cell ended in an error, did not run or is not drawn, or the page asked for something elsewhere.
            playwright's TimeoutError: the kernel was still busy after ``seconds``.
        """
        self.menu("Run", "runmenu:run-all")
        self.page.wait_for_function(
            """() => {
                const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.textContent);
                const dead = document.querySelector('.jp-Dialog');
                const idle = document.querySelector('.jp-NotebookPanel-toolbar [data-status="idle"]');
                return dead || (idle && prompts.some(p => /\\d/.test(p)) && !prompts.some(p => p.includes('*')));
            }""",
            timeout=1000 * seconds,
            polling=200,
        )
        assert not self.page.locator(".jp-Dialog").count(), self.page.locator(".jp-Dialog").inner_text()
        cells = self.save()
        for number, cell in enumerate(cells):
            for out in cell["outputs"] if cell["cell_type"] == "code" else ():
                told = f"{out.get('ename')}: {out.get('evalue')}"
                assert out["output_type"] != "error", f"{self.name}, cell {number}: {told}\n{self.lab.log.read_text()[-500:]}"
        ran = [c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).strip()]
        assert all(c["execution_count"] for c in ran), f"{self.name}: a cell did not run"
        self.check_drawn(cells)
        assert not self.problems, f"{self.name}: {self.problems}"
        return cells

    def save(self) -> list[dict[str, Any]]:
        """Save by the menu; returns the cells of the file."""
        file = self.lab.notebooks / f"{self.name}.ipynb"
        before = file.stat().st_mtime_ns
        self.menu("File", "docmanager:save")
        end = time.monotonic() + 20
        while file.stat().st_mtime_ns == before:
            assert time.monotonic() < end, f"{self.name} was not saved within 20 s"
            self.page.wait_for_timeout(50)
        self.page.locator(".jp-NotebookPanel.jp-mod-dirty, .lm-TabBar-tab.jp-mod-dirty").first.wait_for(state="detached")
        return json.loads(file.read_text(encoding="utf-8"))["cells"]

    def check_drawn(self, cells: list[dict[str, Any]]) -> None:
        """Each output of the saved cells is there in the page with a size, images are decoded, widgets are live."""
        check_outputs(self.notebook.locator(".jp-Cell"), cells, self.name, live=True)

    def cell(self, words: str) -> Any:
        """The locator of the code cell whose source holds these words, brought into view."""
        cells = json.loads((self.lab.notebooks / f"{self.name}.ipynb").read_text(encoding="utf-8"))["cells"]
        number = next(n for n, c in enumerate(cells) if c["cell_type"] == "code" and words in "".join(c["source"]))
        found = self.notebook.locator(".jp-Cell").nth(number)
        found.scroll_into_view_if_needed()
        return found

    def shoot(self, name: str, *, whole: bool = False, top: Any = None) -> Path:
        """A screenshot of the window, from the element ``top`` on, or of the whole notebook: ``build/screenshots/<name>.png``."""
        path = SCREENSHOTS / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        usual, files = self.page.viewport_size, self.page.locator('.jp-SideBar .lm-TabBar-tab[data-id="filebrowser"]')
        if whole:
            height = self.notebook.locator(".jp-WindowedPanel-outer").evaluate("e => e.scrollHeight")
            self.page.set_viewport_size({"width": usual["width"], "height": min(height + 150, LONGEST)})
            self.notebook.locator(".jp-Cell").first.scroll_into_view_if_needed()
        elif top:
            self.page.set_viewport_size({"width": 1440, "height": 1240})
            files.click()  # folds the list of files away
            top.evaluate("e => e.scrollIntoView()")
            self.page.wait_for_timeout(300)  # what follows the width is drawn anew
        self.page.screenshot(path=path, timeout=30_000)
        if top:
            files.click()
        self.page.set_viewport_size(usual)
        return path

    def close(self) -> None:
        """End the kernel."""
        for session in self.lab.api("sessions"):
            self.lab.api(f"sessions/{session['id']}", "DELETE")


def check_outputs(shown: Any, cells: list[dict[str, Any]], name: str, *, live: bool) -> None:
    """Each output of the saved ``cells`` can be seen among the cells ``shown`` (a locator), in JupyterLab or in exported HTML.

    ``live``: a widget must be one; otherwise, where no kernel is, its still picture must stand in for it.
    """
    assert shown.count() == len(cells), f"{name}: {shown.count()} of {len(cells)} cells are shown"
    for number, cell in enumerate(cells):
        visible = [o for o in cell.get("outputs", ()) if o.get("data") != {}]
        if not visible:
            continue
        there, told = shown.nth(number), f"{name}, cell {number}"
        there.scroll_into_view_if_needed()
        outputs = there.locator(".jp-OutputArea-output")
        outputs.first.wait_for()
        sizes = outputs.evaluate_all("all => all.map(o => o.getBoundingClientRect()).map(r => [r.width, r.height])")
        assert sizes and all(min(size) > 1 for size in sizes), f"{told}: an output is drawn with the sizes {sizes}"
        pictures = there.locator(".jp-RenderedImage img, .jp-RenderedSVG img, .jp-RenderedSVG svg")
        for picture in there.locator(".jp-RenderedImage img").all():
            assert picture.evaluate("i => i.decode().then(() => i.naturalWidth)") > 50, f"{told}: a picture is not drawn"
        expected = sum(any(k.startswith("image/") for k in o.get("data", {})) for o in visible)
        assert pictures.count() == expected, f"{told}: {pictures.count()} of {expected} pictures are there"
        widgets = [o for o in visible if WIDGET in o.get("data", {})]
        if widgets and live:
            views = there.locator(".jp-OutputArea-output:not([data-mime-type])")  # the widgets' renderer names no type
            assert views.count() == len(widgets), f"{told}: {views.count()} of {len(widgets)} widgets are there"
            for view in views.all():
                view.locator("> *").first.wait_for()
                assert view.bounding_box()["height"] > 30, f"{told}: a widget is not drawn"
        elif widgets:
            still = there.locator(".jp-RenderedHTML")
            assert still.count() >= len(widgets) and len(still.first.inner_text()) > 100, (
                f"{told}: nothing stands in for a widget"
            )
        text = there.text_content()
        for bad in ("Error displaying widget", "Loading widget", "Error creating widget", "Javascript Error"):
            assert bad not in text, f"{told}: {bad}"

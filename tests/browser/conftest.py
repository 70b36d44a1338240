"""One JupyterLab and one Chromium for the tests of a file in this folder, which are skipped, with what to install, where there is no browser.

With ``SIA_NEEDS_BROWSER`` set, as by ``make browser``, a missing browser is an error.
"""

import os

import pytest
from browser_lab import SCREENSHOTS, Lab, Sheet
from browsers import MISSING, find_browser
from playwright.sync_api import expect, sync_playwright

expect.set_options(timeout=30_000)  # a busy machine draws late


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium that cannot reach beyond this machine."""
    path = find_browser()
    if not path:
        (pytest.fail if os.environ.get("SIA_NEEDS_BROWSER") else pytest.skip)(MISSING)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=60_000)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    """JupyterLab on a copy of the notebooks."""
    running = Lab(tmp_path_factory.mktemp("lab"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def context(chromium):
    """One cache for all pages, so that JupyterLab is fetched once."""
    opened = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(60_000)
    yield opened
    opened.close()


@pytest.fixture
def page(context):
    """A fresh page of 1280 × 900."""
    opened = context.new_page()
    yield opened
    opened.close()


@pytest.fixture
def still(chromium, tmp_path):
    """Opens a notebook's file as HTML by nbconvert, without a server, a kernel or a network."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    context.set_default_timeout(60_000)

    def open_(path):
        from nbconvert import HTMLExporter

        html, _ = HTMLExporter().from_filename(str(path))
        file = tmp_path / f"{path.stem}.html"
        file.write_text(html, encoding="utf-8")
        opened = context.new_page()
        opened.goto(file.as_uri(), wait_until="domcontentloaded", timeout=30_000)
        return opened

    yield open_
    context.close()


@pytest.fixture
def sheet(lab, page):
    """Opens a notebook by name, with other parameters where given; ends its kernel afterwards."""
    opened = []

    def open_(name, **values):
        if values:
            lab.parameterise(name, values)
        opened.append(Sheet(page, lab, name))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Where a test fails, keep a picture of what it saw."""
    outcome = yield
    seen = getattr(item, "funcargs", {}).get("page")
    if call.when == "call" and outcome.get_result().failed and seen and not seen.is_closed():
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        seen.screenshot(path=SCREENSHOTS / f"failed_{item.name.replace('/', '_')}.png")

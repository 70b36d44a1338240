"""A quick handful of notebooks in JupyterLab in a real browser: they run, they are drawn, and their widgets react to clicks."""

import json


def words(locator):
    return " ".join(locator.inner_text().split())


def test_the_meta_agents_notebook_runs_and_shows_what_it_wrote(sheet):
    page = sheet("01_init_scaffold")
    page.run_all()
    written = page.cell(10)
    assert "def build_prompt" in written.inner_text() and "def extract" in written.inner_text()
    assert written.locator(".highlight span").count() > 100  # coloured, not a grey block
    page.shoot("01_init_scaffold", written)

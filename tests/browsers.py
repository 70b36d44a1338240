"""Which Chromium the tests drive."""

import os
import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "there is no Chromium: install one (apt-get install chromium), or name it in SIA_CHROMIUM"


def find_browser() -> str:
    """The path of a Chromium, from ``$SIA_CHROMIUM`` or the search path; empty where there is none."""
    asked = os.environ.get("SIA_CHROMIUM", "")
    return asked or next(filter(None, map(shutil.which, BROWSERS)), "")

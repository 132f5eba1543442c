"""Find a real browser for the tests of the console."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
REQUIRED = os.environ.get("BROWSER_TESTS") == "required"  # where `.ci/run` has installed one
REASON = "a browser is needed: pip install -e '.[browser]', and Debian's chromium-headless-shell"


def browser_path() -> str | None:
    """Return the program of a browser, or None where it or its driver is not installed."""
    if find_spec("playwright") is None or find_spec("axe_playwright_python") is None:
        return None
    return next(filter(None, map(shutil.which, NAMES)), None)

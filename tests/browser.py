"""Debian's Chromium for tests that look at pages: nothing is downloaded, nothing goes outside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

REQUIRED = "ASCEND_MATRIX_BROWSER"
"""Environment variable: `required` makes a missing browser an error, as `CI` does."""

NAMES = ("chromium", "chromium-browser", "google-chrome")

_OPTIONS = (
    "--no-sandbox",  # the tests may be run by root, and open only pages of their own
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


class Missing(Exception):
    """There is no browser here."""


def required() -> bool:
    """Return whether tests must not be skipped for want of a browser."""
    return os.environ.get(REQUIRED) == "required" or bool(os.environ.get("CI"))


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser and end it.

    Raises:
        Missing: none is installed.
    """
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise Missing(f"none of {', '.join(NAMES)} is installed; `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_OPTIONS))
        yield browser
        browser.close()

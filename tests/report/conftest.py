"""What the tests of the report share: one small comparison, with two host states and a page size that does not fit."""

import shutil

import pytest
from playwright.sync_api import sync_playwright

import oracle
from twofold.study import Outcome, compare, make_scenario

SMALL = {
    "host": {"size": "1GiB", "free": 0.9, "fragmentation": 0.3},
    "guest": {"memory": "128MiB"},
    "accesses": 2000,
    "executed": 50,
    "repeat": 2,
    "workloads": ["gups", "stream"],
    "guest_pages": ["4K", "2M", "1G"],
}


@pytest.fixture(scope="session")
def outcome() -> Outcome:
    """A comparison that takes a few seconds; 1G guest pages are not available in it."""
    return compare(make_scenario(SMALL))


@pytest.fixture(scope="session")
def browser():
    """Chromium, started once: that takes as long as drawing a page."""
    chromium = shutil.which("chromium")
    oracle.require("chromium is not installed" if chromium is None else None)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()

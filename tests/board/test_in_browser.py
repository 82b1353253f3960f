"""The board in a real headless browser: load, live update, a query, a refused card, phone width, keyboard alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import study_tools
from playwright.sync_api import Page, expect, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """The board of a home, as its command serves it."""
    command = [sys.executable, "-c", "from automc.cli.main import main; main()", "board", "--no-open", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr is not None
    said = process.stderr.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", said)
    assert found, said + process.stderr.read()
    yield found[0]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert "Traceback" not in process.stderr.read()


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        said = f"the board was looked at by no browser: none of {', '.join(BROWSERS)} is here"
        warnings.warn(f"NOT RUN: {said}", stacklevel=1)
        pytest.skip(said)
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    """A page that must neither say an error nor load anything from elsewhere."""
    opened = browser.new_page(base_url=address)
    opened.set_default_timeout(PATIENCE_MS)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda line: problems.append(line.text) if "400" not in line.text else None)
    opened.on("request", lambda r: None if r.url.startswith((address, "data:")) else problems.append(r.url))
    yield opened
    opened.close()
    assert problems == []


def test_a_study_is_live_while_it_runs(page: Page, home: Path) -> None:
    study = study_tools.create(home, "4steps")
    page.goto("/")
    page.get_by_role("link", name=study.spec.id).click()
    page.evaluate("window.sameDocument = true")
    assert page.locator("#table-trials tbody tr").count() == 0
    search = threading.Thread(target=study_tools.run, args=(study,))
    search.start()
    try:
        expect(page.locator("#table-trials tbody tr")).to_have_count(4, timeout=PATIENCE_MS)
        expect(page.get_by_role("heading", name="What it found")).to_be_visible(timeout=PATIENCE_MS)
    finally:
        search.join()
    assert page.evaluate("window.sameDocument"), "the page was not loaded again"
    assert page.locator("svg circle").count() >= 1
    page.get_by_role("button", name="accuracy").last.click()
    assert page.locator("#table-trials th[aria-sort]").count() == 1
    page.get_by_label("status").select_option("crashed")
    assert page.locator("#table-trials tbody tr:visible").count() == 0


def test_a_query_and_a_refused_card(page: Page) -> None:
    page.goto("/query")
    page.get_by_label("Cypher").fill("MATCH (m:Method {id: 'NS'}) RETURN m.title AS title, 1 AS n")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("cell", name="Network Slimming")).to_be_visible(timeout=PATIENCE_MS)
    page.goto("/write/card?as=text")
    page.get_by_label("as YAML").fill("format: 1\nmethod: Mine\n")
    page.get_by_role("button", name="Check").click()
    assert "title: Field required" in page.get_by_role("alert").inner_text()
    assert page.get_by_label("as YAML").input_value() == "format: 1\nmethod: Mine\n"
    assert page.get_by_role("button", name="Write this").count() == 0
    page.get_by_role("button", name="Edit as fields").click()
    assert page.get_by_label("Name").input_value() == "Mine"


def test_a_card_is_filled_in_by_keyboard_on_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto("/write/card")
    page.get_by_label("Name").focus()
    page.keyboard.type("Typed")
    page.keyboard.press("Enter")
    page.wait_for_selector("[aria-invalid]")
    page.wait_for_load_state()  # the browser moves the focus once it has read the page
    page.wait_for_selector("#title:focus", timeout=5000)
    assert page.evaluate("document.activeElement.id") == "title", "the first field that is wrong"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.keyboard.type("What it does")
    page.keyboard.press("Tab")
    page.keyboard.type("A. Author. A title. 2026.")
    while page.evaluate("document.activeElement.id") != "techniques.0.id":
        page.keyboard.press("Tab")
    page.keyboard.type("TE3")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="What it would change")).to_be_visible(timeout=PATIENCE_MS)
    assert page.locator("[aria-invalid]").count() == 0
    page.get_by_role("button", name="Write this").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").last).to_contain_text("Written to the graph", timeout=PATIENCE_MS)


def test_nothing_is_wider_than_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    for address in ("/", "/study/digits-digits-1", "/study/digits-digits-1/trial/1", "/graph", "/graph/Method?id=NS",
                    "/query?saved=families", "/write/card", "/write/results", "/write/results?as=text",
                    "/compare?left=digits-digits-1&right=digits-digits-1"):  # fmt: skip
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, address


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    def focused() -> str:
        return str(page.evaluate("document.activeElement.innerText || document.activeElement.id"))

    def tab_to(wanted: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", focused()
            if focused().startswith(wanted):
                return
        raise AssertionError(f"{wanted} cannot be reached")

    page.goto("/")
    page.keyboard.press("Tab")
    assert focused() == "Skip to the content"
    tab_to("digits-digits-1")
    page.keyboard.press("Enter")
    page.wait_for_url("**/study/digits-digits-1")
    tab_to("scheme")
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("scheme")
    page.goto("/query")
    tab_to("text")
    page.keyboard.press("Control+A")
    page.keyboard.type("MATCH (m:Method {id: 'NS'}) RETURN m.title AS title")
    tab_to("Run")
    page.keyboard.press("Enter")
    expect(page.get_by_role("cell", name="Network Slimming")).to_be_visible(timeout=PATIENCE_MS)

"""Both pages in a real headless browser: no errors, nothing wider than a phone, and the graph can be searched."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

from automc import knowledge
from automc.report import graph_page
from automc.report.page import page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTHS = (390, 1280)

WATCH = """<script>
window.problems = [];
addEventListener("error", event => problems.push(event.message));
console.error = console.warn = (...said) => problems.push(said.join(" "));
</script>"""

# Every page at every width in a frame of its own; what was seen is written into the outer page.
LOOK = """<script>
onload = () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, window = frame.contentWindow, root = page.documentElement;
    const told = {page: frame.title, width: window.innerWidth, needs: root.scrollWidth};
    told.text = page.body.innerText.length;
    const search = page.getElementById("search");
    if (search) {
      search.value = "network SLIMMING"; search.dispatchEvent(new window.Event("input"));
      told.found = [...page.querySelectorAll("g.on")].map(g => g.dataset.name);
      told.listed = page.querySelector("#details button").innerText;
      page.querySelector("#details button").click();
      told.shown = page.getElementById("details").innerText;
      search.value = ""; search.dispatchEvent(new window.Event("input"));
      told.dim = page.querySelectorAll("g.dim").length;
    }
    told.problems = window.problems;
    return told;
  });
  document.getElementById("seen").textContent = JSON.stringify(seen);
};
</script>"""


@pytest.fixture
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        said = f"the pages were looked at by no browser: none of {', '.join(BROWSERS)} is here"
        warnings.warn(f"NOT RUN: {said}", stacklevel=1)
        pytest.skip(said)
    return found


def test_both_pages_in_a_browser(browser: str, searched_once: Path, automc_home: Path, tmp_path: Path) -> None:
    shutil.copytree(searched_once, automc_home)
    with knowledge.graph() as store:
        store.write("MATCH (m:Method {id: 'NS'}) SET m.document = 'format: 1'")
    pages = {"report": page("digits-digits-1"), "graph": graph_page.page(*knowledge.contents())}
    frames = [
        f'<iframe title="{name}" width="{width}" height="800" style="border: 0" '
        f'srcdoc="{html.escape(text.replace("<head>", "<head>" + WATCH, 1))}"></iframe>'
        for name, text in pages.items()
        for width in WIDTHS
    ]
    file = tmp_path / "all.html"
    file.write_text(f'<!doctype html><meta charset="utf-8"><pre id="seen"></pre>{"".join(frames)}{LOOK}')
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=10000", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.S)
    assert told, done.stderr[-2000:]
    seen = json.loads(html.unescape(told[1]))
    assert [(s["page"], s["width"]) for s in seen] == [(name, width) for name in pages for width in WIDTHS]
    for look in seen:
        assert look["problems"] == [], look
        assert look["needs"] <= look["width"], look
        assert look["text"] > 500
    for look in seen[2:]:
        assert look["found"] == ["Method:NS"]
        assert look["listed"] == "Method NS"
        assert "Strategies (50)" in look["shown"]
        assert "Network Slimming" in look["shown"]
        assert "format: 1" not in look["shown"]
        assert look["dim"] == 0

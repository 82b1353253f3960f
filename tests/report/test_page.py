"""The report of a real study on digits."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

import study_tools

from automc import knowledge
from automc.report import page as report
from automc.report.page import command, page, widths
from automc.study import Budget
from automc.study.place import folder
from kg import studies


class Reader(HTMLParser):
    """Checks that tags are closed in order; collects text and what is loaded from elsewhere."""

    void = frozenset({"meta", "br", "wbr", "link", "img", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.loads: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def reported_once(prepared_home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported") / "home"
    shutil.copytree(prepared_home, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOMC_HOME", str(folder))
        patch.delenv("AUTOMC_GRAPH", raising=False)
        study = study_tools.create(folder, "5steps", final=True)
        return folder, study.spec, study_tools.run(study)


@pytest.fixture
def reported(reported_once, automc_home):
    """A study that is done, in a home of this test alone."""
    folder, spec, result = reported_once
    shutil.copytree(folder, automc_home, dirs_exist_ok=True)
    return spec, result


def test_the_page_says_what_the_graph_says(reported):
    spec, result = reported
    # A failure with a reason that must not become markup.
    with knowledge.graph() as store:
        row = {**result.trials[-1].as_row(), "ordinal": 99, "status": "crashed", "reason": "<b>out</b> of range",
               "accuracy": None, "params": None, "flops": None, "ar": None, "pr": None, "fr": None,
               "scheme": "NS[HP1=0.1,HP2=0.04,HP6=0.7]"}  # fmt: skip
        studies.save_trial(store, spec.id, row)
    html = page(spec.id)
    reader = Reader()
    reader.feed(html)
    assert reader.open == [], "every tag is closed"
    assert reader.loads == [], "nothing is loaded from anywhere"
    assert "<script" not in html
    assert "&lt;b&gt;out&lt;/b&gt; of range" in html
    assert "crashed" in reader.text
    for trial in result.trials:
        assert trial.scheme.id in reader.text
    for trial in result.front:
        assert f"{trial.accuracy:.2%}" in reader.text
        assert f"{trial.params:,}" in reader.text
    drawn = re.findall(r'<circle class="(\w+)"', html)
    assert len(drawn) == sum(t.status == "ok" for t in result.trials)
    assert drawn.count("chosen") == (result.recommendation is not None)
    if result.final:
        assert str(result.final["path"]) in reader.text
        for line in result.headline.lines():
            assert line in reader.text
        assert reader.text.index("Test accuracy") < reader.text.index("Recommended")


def test_the_page_of_a_longer_study_shows_a_part_and_says_so(reported, monkeypatch):
    spec, result = reported
    whole = page(spec.id)
    monkeypatch.setattr(report, "WHOLE", 2)
    monkeypatch.setattr(report, "LAST", {"trials": 2, "failed": 1, "missed": 1})
    html, n = page(spec.id), len(result.trials)
    assert f"The last 2 of {n} trials" in html
    assert f"{n - 2} earlier ones are left out here: <code>automc show {spec.id} --trials --format csv</code>" in html
    assert "left out" not in whole
    rows = re.findall(r'<tr><td class="n">(\d+)</td><td class="n">\d+</td>', html)
    assert rows == [str(trial.ordinal) for trial in result.trials[-2:]]
    # What was found is there all the same, and how the search went.
    reader = Reader()
    reader.feed(html)
    for trial in result.front:
        assert trial.scheme.id in reader.text
    lines = [re.findall(r'<polyline class="\w+" points="[^"]+"', text) for text in (whole, html)]
    assert lines[0] == lines[1]


def test_layers_are_compared_by_name(reported):
    spec, result = reported
    found = {w.name: w for w in widths(folder(spec.id))}
    if result.final is None:
        pytest.skip("this small budget met no target")
    assert "layer1.0.conv1" in found
    assert all(0 < w.left <= 1.5 for w in found.values())
    assert any(w.left < 1 for w in found.values())
    (folder(spec.id) / "final.am").unlink()
    assert widths(folder(spec.id)) == []
    assert spec.id in page(spec.id), "a page without the saved model"


def test_reading_needs_no_torch(reported, tmp_path):
    spec, _ = reported
    commands = [
        ["show", spec.id], ["show", spec.id, "--trials", "--format", "csv"], ["show", spec.id, "--format", "json"],
        ["show", spec.id, "--why", "1"], ["report", spec.id, "--html", str(tmp_path / "page.html")],
        ["kg", "status"], ["kg", "query", "MATCH (n) RETURN count(n) AS n"], ["study", "list"],
    ]  # fmt: skip
    code = (
        "import sys\n"
        "from automc.cli.main import app\n"
        f"for words in {commands!r}:\n"
        "    try:\n"
        "        app(words)\n"
        "    except SystemExit as leaving:\n"
        "        assert not leaving.code, (words, leaving.code)\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").is_file()


def test_the_command_starts_the_same_study(reported):
    import shlex

    import typer

    from automc.cli.main import app

    spec, _ = reported
    words = shlex.split(command(spec))
    assert words[:2] == ["automc", "search"]
    assert Budget.parse(words[words.index("--budget") + 1]) == spec.budget
    options = {name for name in words if name.startswith("--")}
    command_line = typer.main.get_command(app).commands["search"]
    known = {name for option in command_line.params for name in (*option.opts, *option.secondary_opts)}
    assert options <= known, "every option exists"


def test_the_command_line_writes_it(reported, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from automc.cli import main

    spec, _ = reported
    out = tmp_path / "deep" / "page.html"
    done = CliRunner().invoke(main.app, ["report", spec.id, "--html", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text().startswith("<!doctype html>")
    (tmp_path / "file").write_text("")
    failed = CliRunner().invoke(main.app, ["report", spec.id, "--html", str(tmp_path / "file" / "page.html")])
    assert failed.exit_code == 2
    missing = CliRunner().invoke(main.app, ["report", "no-such-study"])
    assert missing.exit_code == 2

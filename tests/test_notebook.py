"""What docs/python.md shows: its script, and the notebook, cell by cell, in what a notebook is: no file."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "examples" / "digits.ipynb"


def run(session: types.ModuleType, source: str) -> Any:
    """Run a cell and return the value of its last line, which a notebook shows."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "<cell>", "exec"), vars(session))
    return None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), vars(session))


@pytest.mark.parametrize("tagged", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_notebook_runs(
    tagged: bool, full_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    session = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", session)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells), "it is kept without outputs"
    shown = []
    for cell in cells:
        if tagged or "slow" not in cell["metadata"].get("tags", ()):
            shown.append(run(session, "".join(cell["source"])))
    tables = [value._repr_html_() for value in shown if hasattr(value, "_repr_html_")]
    assert len(tables) == 2 + tagged
    assert all(table.count("<tr>") > 2 and "%" in table for table in tables)
    small = vars(session)["small"]
    assert small.after.params < 0.65 * small.before.params
    assert small.test_after > 0.8
    assert not tagged or len(vars(session)["seen"]) == 4


@pytest.mark.slow
def test_the_script_of_the_page_runs() -> None:
    words = [sys.executable, str(ROOT / "tests" / "readme.py"), str(ROOT / "docs" / "python.md")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Test balanced_accuracy" in done.stdout

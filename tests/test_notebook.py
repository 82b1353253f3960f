"""The notebook of docs/examples, cell by cell, in what a notebook is: a `__main__` without a file."""

from __future__ import annotations

import ast
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "examples" / "digits.ipynb"


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

"""The house: imports point down, files stay short, one vocabulary."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from kg.schema import LABELS, RELATIONSHIPS

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p for top in ("automc", "kg") for p in (ROOT / top).rglob("*.py"))

# A layer may import the layers to its right; names are longest-prefix matched.
ALLOWED = {
    "automc.__main__": {"automc.cli"},
    "automc.cli": {"automc", "kg"},
    "automc.compressing": {"automc.given", "automc.study", "automc.knowledge", "automc.execution", "automc.training",
                           "automc.models", "automc.files", "kg.schema"},
    "automc.api": {"automc.compressing", "automc.given", "automc.study", "automc.execution", "automc.methods",
                   "automc.training", "automc.surgery", "automc.models", "automc.datasets", "automc.home",
                   "automc.files", "kg.schema"},
    "automc.board": {"automc.report", "automc.study", "automc.knowledge", "automc.home", "automc.cli.figures", "kg"},
    "automc.report": {"automc.study", "automc.knowledge", "automc.search", "automc.models", "automc.home", "kg"},
    "automc.study": {"automc.knowledge", "automc.search", "automc.execution", "automc.latency", "automc.methods",
                     "automc.training", "automc.surgery", "automc.models", "automc.datasets", "automc.home",
                     "automc.files", "kg"},
    "automc.knowledge": {"automc.methods", "automc.models", "automc.home", "kg"},
    "automc.search": {"kg.schema"},
    "automc.execution": {"automc.methods", "automc.latency", "automc.training", "automc.surgery", "automc.models",
                         "automc.datasets", "kg.schema"},
    "automc.methods": {"automc.training", "automc.surgery", "automc.models", "automc.datasets", "kg.schema"},
    "automc.training": {"automc.surgery", "automc.models", "automc.datasets", "automc.places", "automc.userfiles",
                        "kg.schema"},
    "automc.surgery": {"automc.models"},
    "automc.latency": {"automc.models", "automc.files"},
    "automc.given": {"automc.models", "automc.datasets", "automc.home", "automc.userfiles"},
    "automc.models": {"automc.files", "automc.userfiles", "automc.places", "kg.schema"},
    "automc.datasets": {"automc.userfiles", "kg.schema"},
    "automc.home": set(),
    "automc.files": set(),
    "automc.temporary": set(),
    "automc.places": {"automc.userfiles"},
    "automc.lazily": set(),
    "automc.userfiles": set(),
    "automc.errors": set(),
    "automc.bounds": set(),
    "automc": {"automc.api", "automc.given", "automc.search", "automc.datasets", "automc.study"},
    "kg": set(),
}  # fmt: skip
EVERYWHERE = {"automc.errors", "automc.lazily", "automc.temporary", "automc.bounds", "kg.errors", "kg.adam"}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def _imports(path: Path) -> tuple[tuple[str, int], ...]:
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if _exists(full) else node.module), node.lineno


@functools.cache
def _exists(module: str) -> bool:
    base = ROOT / Path(*module.split("."))
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


def _within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_imports_point_down(path: Path) -> None:
    module = _module(path)
    layer = max((name for name in ALLOWED if _within(module, name)), key=len)
    for name, line in _imports(path):
        if name.split(".")[0] not in ("automc", "kg"):
            continue
        fine = _within(name, layer) if layer != "automc" else False
        fine = fine or any(_within(name, prefix) for prefix in ALLOWED[layer] | EVERYWHERE)
        assert fine, f"{path}:{line}: {layer} must not import {name}"


def test_no_imports_go_round_in_a_circle() -> None:
    known = {_module(path) for path in SOURCES}
    graph = {_module(path): {name for name, _ in _imports(path)} & known - {_module(path)} for path in SOURCES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_one_method_file_never_imports_another() -> None:
    from automc import methods

    assert {name for name, method in methods.registered().items() if type(method).__module__.startswith("automc.")} == {
        *methods.BUILT_IN
    }, "each can be executed, and is known by its name before it is loaded"
    files = {
        m for m in (type(method).__module__ for method in methods.registered().values()) if m.startswith("automc.")
    }
    assert len(files) == len(methods.BUILT_IN)
    for module in files:
        path = ROOT / Path(*module.split(".")).with_suffix(".py")
        others = {name for name, _ in _imports(path)} & (files - {module})
        assert not others, f"{path} imports {others}"


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert path.read_text().count("\n") <= 400


def test_labels_and_types_share_a_namespace_without_clash() -> None:
    assert len({name.lower() for name in LABELS + RELATIONSHIPS}) == len(LABELS) + len(RELATIONSHIPS)
    assert all(name[0].isupper() and not name.isupper() for name in LABELS)
    assert all(name.isupper() for name in RELATIONSHIPS)

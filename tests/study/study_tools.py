"""Small real studies on digits: steps of one or two iterations."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from inline import Inline

from automc import knowledge
from automc.datasets import DataRef
from automc.execution.jobs import ProbeReport, probe_with
from automc.execution.setup import Setup
from automc.study import Budget, Listener, Study, machine
from automc.study import stored as studies
from automc.study import study as study_module
from automc.study.study import Result
from automc.study.trial import Trial
from automc.training.recipe import Recipe
from kg.embedding.vectors import Vectors
from kg.schema import Strategy

RECIPE = Recipe(unit_epochs=0.05, fraction=0.2)
QUICK = ("NS", "LeGR")
"""Methods whose steps take the least time: a study's laws hold whichever they are."""


@contextmanager
def copied(home: Path, folder: Path) -> Iterator[Path]:
    """A copy of a home, which is the home of whatever runs inside."""
    shutil.copytree(home, folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AUTOMC_HOME", str(folder))
        patched.delenv("AUTOMC_GRAPH", raising=False)
        yield folder


def create(home: Path, budget: str = "6steps", methods: Container[str] = QUICK, **options: Any) -> Study:
    """A study of the home's small network and some methods, on the home's vectors: its graph is known to be in step.

    Nobody asks how far each method gets; `create_fully` does.
    """
    with known(home, methods), patch.object(study_module, "insist_possible"):
        return create_fully(home, budget, **options)


@contextmanager
def known(home: Path, methods: Container[str] = QUICK) -> Any:
    """Studies that are made inside search these methods, on the vectors that the home has."""
    (file,) = (home / "vectors").glob("*.safetensors")
    with patch.object(study_module, "vectors_for", lambda *_: of_methods(Vectors.load(file), methods)):
        yield


def of_methods(vectors: Vectors, methods: Container[str]) -> Vectors:
    """Vectors without the strategies of all other methods."""
    left_out = {id for id in vectors.strategies if Strategy.parse(id).method not in methods}
    kept = [i for i, id in enumerate(vectors.entities) if id not in left_out]
    return replace(
        vectors, strategies=tuple(id for id in vectors.strategies if id not in left_out),
        entities=tuple(vectors.entities[i] for i in kept), entity_vectors=vectors.entity_vectors[kept],
    )  # fmt: skip


def create_fully(home: Path, budget: str = "6steps", **options: Any) -> Study:
    """A study of the home's small network, after bringing graph and vectors up to date."""
    chosen: dict[str, Any] = {
        "gamma": 0.3,
        "recipe": RECIPE,
        "precision": "float32",
        "device": "cpu",
        "workers": 2,
        "learn_from_trials": False,
        "final": False,
        **options,
    }
    return Study.create(str(home / "digits.am"), DataRef("digits"), budget=Budget.parse(budget), **chosen)


@contextmanager
def in_process(workers: list[Inline] | None = None) -> Any:
    """Studies inside use workers in this process; those that were made are added to `workers`."""

    def made(setup: Setup, count: int) -> Inline:
        one = Inline(setup, count)
        if workers is not None:
            workers.append(one)
        return one

    with patch.object(machine, "local_workers", made):
        yield


_PROBED: dict[Any, ProbeReport] = {}


def probed_once(workers: Inline, strategies: Any, widest: Any = None) -> ProbeReport:
    """What trying each method once tells of a model under a recipe: asked once in this process."""
    setup = workers.setup
    key = (setup.base.read_bytes(), setup.recipe, setup.keep, setup.still, *strategies.items(), *(widest or {}).items())
    if key not in _PROBED:
        _PROBED[key] = probe_with(workers, strategies, widest)
    return _PROBED[key]


def run(study: Study, listener: Listener | None = None, workers: list[Inline] | None = None) -> Result:
    """Run a study in this process."""
    with in_process(workers), patch.object(study_module, "probe_with", probed_once):
        return study.run(listener)


def same(trials: Any, *, but: tuple[str, ...] = ("seconds", "cached")) -> list[dict[str, Any]]:
    """Everything about trials that must not depend on when, where and how often a study was stopped."""
    return [{k: v for k, v in t.as_row().items() if k not in but} for t in trials]


def stored(study: Study | str) -> list[Trial]:
    """The trials that the graph holds."""
    return studies.load_trials(study if isinstance(study, str) else study.spec.id)


def counts() -> Counter[str]:
    """Nodes by label and relationships by type."""
    with knowledge.graph() as store:
        nodes = store.read("MATCH (n) RETURN labels(n)[0] AS name, count(n) AS n").rows
        rels = store.read("MATCH ()-[r]->() RETURN type(r) AS name, count(r) AS n").rows
    return Counter(dict([*nodes, *rels]))


class Interrupt(Listener):
    """Presses Ctrl-C after some trials; `stop_after` counts those of this run."""

    def __init__(self, stop_after: int) -> None:
        self.left = stop_after

    def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

"""The contenders of `pays`: each makes a smaller network within its seconds, counted from the process's start.

All have the same images, precision and teacher, and all end with the same recovery. What they differ in is how the network
is cut: by a search, by one method of ours, or by torch-pruning.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

from benchmarks.pays_tasks import Given

GAMMA = 0.7
"""Share of the parameters that goes, where nothing else is asked for."""
METHODS = ("TRP", "LFB", "HOS", "LMA", "SFP", "NS", "LeGR")
LIBRARY = ("TP-L1", "TP-group")
"""torch-pruning: the same share of every layer by the L1 norm, and group norms over the whole network."""
SEARCHES = {"search": {}, "TPE": {"searcher": "optuna-tpe"}, "old": {}}
"""What `api.search` is given besides; `TPE` has the same ending and the grid alone, `old` is another checkout's."""
OLD_SEARCH = 0.65
"""Share of the time that commit 7c01063 is given to search: the rest goes to its final run, which its budget leaves out."""
E0 = 4.0
"""Unit epochs of searches; 10, the default, for the methods alone."""


def inline() -> type:
    """Workers in this process, so that its clock counts what they do."""
    from automc.execution.jobs import run_job
    from automc.execution.monitor import Monitor
    from automc.execution.workers import Workers

    class Inline(Workers):
        """Runs one job in each `collect`, in the order of `submit`."""

        def __init__(self, setup: Any, count: int | None = None) -> None:
            self._setup, self._queue, self._tickets = setup, list[tuple[int, Any]](), 0

        def start(self) -> None:
            self._bench = self._setup.open()

        def submit(self, job: Any, timeout: float | None = None) -> int:
            self._tickets += 1
            self._queue.append((self._tickets, job))
            return self._tickets

        def collect(self, timeout: float | None = None) -> list[Any]:
            if not self._queue:
                return []
            ticket, job = self._queue.pop(0)
            return [(ticket, run_job(self._bench, job, Monitor()))]

        def stop(self) -> None:
            self._queue.clear()

        def running(self) -> list[Any]:
            return []

        @property
        def count(self) -> int:
            return 1

    return Inline


def search(task: Given, gamma: float, seed: int, seconds: float, given: dict[str, Any]) -> dict[str, Any]:
    """`automc search`; what a process needs before its first step is part of its time."""
    from automc import api
    from automc.study import study
    from automc.training.recipe import Recipe

    is_old = hasattr(study, "local_workers")
    place = study if is_old else importlib.import_module("automc.study.machine")
    place.local_workers = inline()  # type: ignore[attr-defined]
    if "searcher" in given:
        from automc.search import register
        from benchmarks.tab.optuna_searchers import OptunaTPE

        register(OptunaTPE)
    left = (seconds - time.process_time()) * (OLD_SEARCH if is_old else 1)
    done = api.search(
        task.model, task.data, gamma=gamma, budget=f"{left:.0f}s", weights=task.weights, recipe=Recipe(unit_epochs=E0), precision="float32",
        device="cpu", workers=1, seed=seed, run_seed=seed, learn_from_trials=False, **given,
    )  # fmt: skip
    if done.final is None:
        return {"what": f"{len(done.trials)} steps; none at the target"}
    return {
        "removed": 1 - done.final["params"] / done.base.params, "validation": done.final["accuracy"],
        "test": done.final["test_accuracy"], "test_before": done.final["base_test_accuracy"],
        "what": f"{len(done.trials)} steps; {done.final['scheme']}",
    }  # fmt: skip


def alone(method: str, task: Given, gamma: float, seed: int, seconds: float) -> dict[str, Any]:
    """One method straight to the target, and recovery for the rest of the time."""
    from automc import api
    from automc.execution.jobs import final, recover_saved
    from automc.models import structure
    from automc.study.closing import straight
    from automc.study.doctor import scratch
    from automc.study.reach import grids
    from automc.study.task import open_figures, open_subject
    from automc.training.recipe import Recipe
    from automc.training.recover import Extent

    subject = open_subject(task.model, api.data_ref(task.data), weights=task.weights, device="cpu")
    with scratch(subject, Recipe(), seed, subject.hold()) as setup:
        saved = setup.base.with_name("out.am")
        if method in LIBRARY:
            what = method
            bench = setup.open()
            structure.save(
                saved, by_library(method, subject, gamma), bench.source, metadata={}, shape=bench.example.shape[1:]
            )
        else:
            (scheme,) = straight(grids((method,))[method], gamma, {}, lambda _: 0.0)
            done = final(setup, scheme, saved)
            assert done.status == "ok", done.reason
            what = scheme.id
        recovery = recover_saved(setup, saved, Extent(seconds=max(1.0, seconds - time.process_time())))
        model = structure.read(saved).model
    figures = open_figures(model, subject)
    return {
        "removed": 1 - figures.params / subject.params, "validation": figures.accuracy,
        "test": subject.test_accuracy(model), "test_before": subject.test_accuracy(),
        "what": f"{what}; {recovery.iterations} iterations of recovery",
    }  # fmt: skip


def by_library(method: str, subject: Any, gamma: float) -> Any:
    """A copy of the model, pruned by torch-pruning until the target is met, not trained."""
    import copy

    import torch_pruning
    from torch import nn

    from benchmarks.torch_pruners import PRUNERS

    model = copy.deepcopy(subject.model)
    heads = [m for m in model.modules() if isinstance(m, nn.Linear)]
    whole = method == "TP-group"
    magnitude = torch_pruning.importance.MagnitudeImportance(p=1)
    kind = torch_pruning.pruner.GroupNormPruner if whole else torch_pruning.pruner.BasePruner
    pruner = kind(
        model, subject.example, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2) if whole else magnitude,
        global_pruning=whole, pruning_ratio=0.99, iterative_steps=200, ignored_layers=heads[-1:],
        customized_pruners={layer: rule() for layer, rule in PRUNERS.items()},
    )  # fmt: skip
    for _ in range(200):
        if sum(p.numel() for p in model.parameters()) <= (1 - gamma) * subject.params:
            break
        pruner.step()
    return model.eval()

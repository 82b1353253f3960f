"""The work of the paper's experiments: networks trained, searched, and compressed, each in parts that can be stopped."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from automc import api, methods
from automc.datasets.splits import content_hash
from automc.errors import MethodError
from automc.models import structure
from automc.study import Budget, Listener, Study
from automc.study.stored import load_record, load_trials
from automc.study.task import Subject, open_subject
from automc.study.trial import Trial
from automc.training import evaluate
from automc.training.loop import fit
from automc.training.recipe import Recipe
from automc.training.state import FitState
from benchmarks.resumable import append, rows
from benchmarks.single_methods import SCHEMES
from kg.schema import Scheme

METHODS = ("LMA", "LeGR", "NS", "SFP", "HOS", "LFB")
SEARCHERS = {"AutoMC": "progressive", "Evolution": "evolution", "RL": "reinforce", "Random": "random"}
"""By what the paper calls them."""
GAMMA, LENGTH, SHARE = 0.3, 5, 0.1
"""Of the paper's searches: least share of parameters to remove, most steps of a scheme, share of the images."""
NEAR = (-0.02, 0.1)
"""A searcher's scheme of about 40% removes between 38 and 50%."""
COLUMNS = (
    "network", "found_on", "who", "wanted", "scheme", "pr", "fr", "test_before", "test_after", "validation_after",
    "paper_top1", "reason", "seconds", "device", "torch",
)  # fmt: skip
KEY = COLUMNS[:4]


@dataclass(frozen=True)
class Net:
    """A network with its data."""

    network: str
    data: str


@dataclass(frozen=True)
class Job:
    """A part of an experiment."""

    name: str
    seconds: float
    """That are left of it, by what this device does."""
    done: bool
    run: Callable[[float], bool]
    """Works until about a time of the monotonic clock; tells whether all is done."""
    whole: bool = False
    """Whether it cannot be stopped on its way: it is begun only with enough time left."""


def base(net: Net, options: argparse.Namespace) -> Path:
    """Where a trained network lies."""
    return Path(options.work) / f"{net.network}.am"


def training(net: Net, pace: float, n: int, options: argparse.Namespace) -> Job:
    """Train the network that is compressed: one cosine over all epochs, saved after each.

    Args:
        pace: images that this device trains a second.
        n: training images.
    """
    part = base(net, options).with_suffix(".part")
    behind = int(load_file(part)["epochs"]) if part.exists() else 0
    left = 0.0 if (done := base(net, options).exists()) else (options.epochs - behind) * n / pace
    return Job(
        f"train {net.network}, {options.epochs} epochs", left, done, lambda until: _train(net, part, until, options)
    )


def _train(net: Net, part: Path, until: float, options: argparse.Namespace) -> bool:
    subject = open_subject(net.network, api.data_ref(net.data), device=options.device)
    model, recipe, state, behind = subject.model, Recipe(batch=options.batch), FitState(), 0
    if part.exists():
        kept = load_file(part)
        model.load_state_dict({name[2:]: tensor for name, tensor in kept.items() if name.startswith("m/")})
        state = FitState.of({name[2:]: tensor for name, tensor in kept.items() if name.startswith("s/")})
        behind = int(kept["epochs"])
    data = subject.dataset.data(subject.splits.rest, subject.device)
    length = max(1, data.n // recipe.batch_size(data.n))
    for epoch in range(behind, options.epochs):
        share = (epoch / options.epochs, (epoch + 1) / options.epochs)
        warmup = length // 2 if epoch == 0 else 0
        fit(model, data, iterations=length, recipe=recipe, seed=0, lr=0.1, warmup=warmup, part=share, state=state)
        kept = {f"m/{name}": t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
        kept |= {f"s/{name}": tensor for name, tensor in state.tensors().items()}
        save_file({**kept, "epochs": torch.tensor(epoch + 1)}, part)
        if epoch + 1 < options.epochs and time.monotonic() > until:
            return False
    _save(subject, base(net, options), options)
    part.unlink()
    return True


def _save(subject: Subject, file: Path, options: argparse.Namespace) -> None:
    validation = subject.dataset.data(subject.splits.validation, subject.device)
    about = {
        "trained": {"epochs": options.epochs, "lr": 0.1, "batch": options.batch, "seed": 0, "precision": "float32"},
        "left_out": content_hash(subject.splits.validation), "data": subject.data.as_dict(),
        "image_shape": list(subject.dataset.train.shape),
        "validation_accuracy": evaluate.accuracy(subject.model, validation),
    }  # fmt: skip
    normalisation = (subject.dataset.mean, subject.dataset.std)
    structure.save(
        file, subject.model, subject.source, metadata=about, normalisation=normalisation, shape=subject.example.shape[1:]
    )  # fmt: skip


class _Until(Listener):
    """Stops a study at a time, as Ctrl-C does."""

    def __init__(self, until: float) -> None:
        self._until = until

    def running(self, spent_steps: float, spent_seconds: float) -> None:
        if time.monotonic() > self._until:
            raise KeyboardInterrupt


def searching(net: Net, who: str, pace: float, n: int, options: argparse.Namespace) -> Job:
    """Search a network: the paper's grid and settings, nothing but published experience; Ctrl-C ends each part."""
    studies, name = Path(options.work) / "studies.json", f"{net.network} {who}"
    known = json.loads(studies.read_text()) if studies.exists() else {}
    record = load_record(known[name]) if name in known else {}
    made = len(load_trials(known[name])) if name in known else 0
    done = record.get("status") in ("done", "unmet")
    step = 0.9 * options.unit_epochs * SHARE * n / pace
    left = 0.0 if done else max(1, options.steps - made) * step / options.workers

    def run(until: float) -> bool:
        if name in known:
            study = Study.open(known[name], workers=options.workers)
        else:
            study = Study.create(
                str(base(net, options)), api.data_ref(net.data), gamma=GAMMA, budget=Budget(steps=options.steps),
                recipe=Recipe(unit_epochs=options.unit_epochs, fraction=SHARE, batch=options.batch),
                searcher=SEARCHERS[who], max_length=LENGTH, grid_only=True, learn_from_trials=False, final=False,
                recover="none", device=options.device, workers=options.workers, precision=options.precision,
                only=tuple(options.methods),
            )  # fmt: skip
            studies.write_text(json.dumps({**known, name: study.spec.id}, indent=1))
        try:
            study.run(_Until(until))
        except KeyboardInterrupt:
            return False
        return True

    return Job(f"search {net.network} by {who}, {options.steps} steps", left, done, run)


def near(trials: Sequence[Trial], wanted: float) -> Trial | None:
    """Return the most accurate trial that removes about as much, None without one."""
    low, high = (wanted + by for by in NEAR)
    found = [t for t in trials if t.status == "ok" and t.pr is not None and low <= t.pr <= high]
    return max(found, key=lambda t: (t.accuracy or 0.0, -t.ordinal)) if found else None


def compressing(
    net: Net, found_on: Net, who: str, wanted: float, paper: float | None, pace: float, n: int,
    options: argparse.Namespace,
) -> Job:  # fmt: skip
    """Run a method, or the scheme that a searcher found on a network, on all training images; one row.

    Args:
        paper: accuracy in the paper's table, in per cent.
    """
    key = (net.network, found_on.network, who, f"{wanted:g}")
    done = any(tuple(row[name] for name in KEY) == key for row in rows(options.out))
    single = Scheme.parse(SCHEMES[who].format(wanted=wanted)) if who in SCHEMES else None
    cost = sum(methods.get(s.method).relative_cost(s) for s in single.steps) if single else 0.9
    seconds = 0.0 if done else cost * options.unit_epochs * n / pace

    def run(until: float) -> bool:
        studies = Path(options.work) / "studies.json"
        line: dict[str, Any] = dict(zip(KEY, key, strict=True)) | {
            "paper_top1": paper, "device": options.device, "torch": torch.__version__,
        }  # fmt: skip
        scheme = single
        if scheme is None:
            trial = near(load_trials(json.loads(studies.read_text())[f"{found_on.network} {who}"]), wanted)
            if trial is None:
                append(options.out, COLUMNS, {**line, "reason": f"no scheme removes about {wanted:.0%}"})
                return True
            scheme = trial.scheme
        append(options.out, COLUMNS, {**line, **_compressed(net, scheme, options)})
        return True

    return Job(f"{who} at {wanted:.0%} on {net.network}", seconds, done, run, whole=True)


def _compressed(net: Net, scheme: Scheme, options: argparse.Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    recipe = Recipe(unit_epochs=options.unit_epochs, batch=options.batch)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = api.compress(
                str(base(net, options)), net.data, scheme.full, out=Path(folder) / "out.am", recipe=recipe,
                precision=options.precision, device=options.device,
            )  # fmt: skip
        except MethodError as error:
            return {"scheme": scheme.id, "reason": str(error), "seconds": time.perf_counter() - began}
    before, after = found.before, found.after
    return {
        "scheme": scheme.id, "pr": 1 - after.params / before.params, "fr": 1 - after.flops / before.flops,
        "test_before": found.test_before, "test_after": found.test_after, "validation_after": after.accuracy,
        "seconds": time.perf_counter() - began,
    }  # fmt: skip

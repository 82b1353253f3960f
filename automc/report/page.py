"""A study as one HTML page that needs nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from automc.bounds import size_text
from automc.knowledge.words import in_words
from automc.models.description import layer_shapes
from automc.report.plot import Line, Mark, svg
from automc.search.pareto import hypervolume
from automc.study.headline import headline, slower
from automc.study.limits import drop_text
from automc.study.place import folder
from automc.study.protocol import Protocol, highest, settled
from automc.study.spec import StudySpec
from automc.study.stored import load_record, load_trials
from automc.study.trial import Trial
from kg.schema import Scheme


@dataclass(frozen=True, slots=True)
class Width:
    """One layer before and after: shapes of its weights, and how much of its parameters is left."""

    name: str
    before: str
    after: str
    left: float


def page(study: str) -> str:
    """Return a study's report as HTML: no network, no script; what it needs comes from the graph and its folder.

    Raises:
        StudyError: there is no such study.
        NotInGraph: there is no graph.
    """
    record, trials = load_record(study), load_trials(study)
    spec = StudySpec.from_dict(record["spec"])
    protocol = Protocol.of(spec, record)
    choice = settled(record, protocol, trials)
    chosen = choice.trial if choice else None
    done = [t for t in trials if t.status == "ok"]
    by_scheme = {t.scheme: t for t in trials}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("automc.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["percent"] = lambda value: "" if value is None else f"{value:.2%}"
    environment.filters["breakable"] = _breakable
    environment.filters["words"] = in_words
    environment.filters["thousands"] = lambda value: "" if value is None else f"{value:,.0f}"
    final = record.get("final")
    first = headline(trials, chosen, final, protocol.base["accuracy"], protocol.validation_images, protocol.measure)
    return environment.get_template("page.html.j2").render(
        first=first.lines() if first else [], slower=slower(final),
        study=study, record=record, spec=spec, trials=trials, chosen=chosen, why=choice.why if choice else "",
        protocol=protocol, front=protocol.front(trials), nearest=protocol.nearest_text(trials),
        failed=[t for t in trials if t.status != "ok"],
        steps=_steps(chosen, by_scheme) if chosen else [],
        final=final, widths=widths(folder(study)), command=command(spec),
        infeasible=(record.get("probe") or {}).get("infeasible", {}),
        missed=[t for t in done if t.reached is False],
        front_plot=front_plot(trials, protocol, chosen) if done else "",
        volume_plots=volume_plots(trials, protocol) if done else [],
    )  # fmt: skip


def _breakable(scheme: str) -> Markup:
    """A scheme's id with a strategy a line, each of which may be broken after a comma."""
    return Markup(str(escape(scheme)).replace(",", ",<wbr>").replace(" -&gt; ", " -&gt; <br>"))


def front_plot(trials: Sequence[Trial], protocol: Protocol, chosen: Trial | None) -> str:
    """Every ok trial by parameters removed and validation accuracy, with the front and what is asked for as lines."""
    gamma, least, base = protocol.gamma, protocol.least_accuracy, protocol.base["accuracy"]
    done = highest([t for t in trials if t.size is not None and t.accuracy is not None])
    noun = "bits" if any(t.quantised for t in done) else "parameters"
    best = protocol.front(trials)
    kinds = {t.ordinal: "front" for t in best}
    if chosen:
        kinds[chosen.ordinal] = "chosen"
    marks = [
        Mark(
            100 * t.removed, 100 * (t.accuracy or 0), kinds.get(t.ordinal, "dot"),
            f"{t.ordinal}: {in_words(t.scheme)}\naccuracy {t.accuracy:.2%}, {t.removed:.2%} removed",
        )
        for t in sorted(done, key=lambda t: kinds.get(t.ordinal, ""))
    ]  # fmt: skip
    low, high = min(m.y for m in marks), 100 * base
    end = max([*(m.x for m in marks), 100 * (gamma or 0.0)])
    lines: list[Line] = [
        ("front", [(100 * t.removed, 100 * (t.accuracy or 0)) for t in best]),
        ("base", [(0, 100 * base), (end, 100 * base)]),
    ]
    lines += [] if gamma is None else [("target", [(100 * gamma, low), (100 * gamma, high)])]
    lines += [] if least is None else [("target", [(0, 100 * least), (end, 100 * least)])]
    axes = {"x": f"{noun} removed, %", "y": f"validation {protocol.measure}, %"}
    return svg(marks, **axes, title=f"Accuracy against {noun} removed", lines=lines)


def volume_plots(trials: Sequence[Trial], protocol: Protocol) -> list[str]:
    """Hypervolume of what meets the target beyond (half the base accuracy, γ), over steps and over charged minutes.

    As a share of the whole.
    """
    gamma, base = protocol.gamma or 0.0, protocol.base["accuracy"]
    whole = 0.5 * base * (1 - gamma)
    best, volume, values = np.zeros((0, 2)), 0.0, []
    compared = {t.ordinal for t in highest([t for t in trials if protocol.feasible(t)])}
    for trial in trials:
        if whole and trial.accuracy is not None and trial.size is not None and trial.ordinal in compared:
            point = np.array([trial.accuracy, trial.size])
            if not (best >= point).all(1).any():
                best = np.vstack([best[~(best <= point).all(1)], point])
                volume = hypervolume(best, (0.5 * base, gamma)) / whole
        values.append(volume)
    minutes = [s / 60 for s in accumulate(t.seconds for t in trials)]
    plots = []
    for x, positions in (("executed steps", range(1, len(trials) + 1)), ("minutes of executed steps", minutes)):
        line = _corners(list(zip(map(float, positions), values, strict=True)))
        plots.append(svg([], x=x, y="hypervolume", title=f"Hypervolume over {x}", lines=[("front", line)]))
    return plots


def _corners(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A line without the points at which its height is that of both neighbours: it looks the same."""
    inner = (b for a, b, c in zip(line, line[1:], line[2:], strict=False) if not a[1] == b[1] == c[1])
    return [*line[:1], *inner, *line[1:][-1:]]


def _steps(chosen: Trial, by_scheme: dict[Scheme, Trial]) -> list[Trial]:
    """The trials of a scheme's prefixes, in order; a prefix that the study never recorded is left out."""
    return [by_scheme[prefix] for prefix in chosen.scheme.beginnings if prefix in by_scheme]


def widths(place: Path) -> list[Width]:
    """Compare the layers of a study's model with those of the saved one; nothing where one of them is gone."""
    files = place / "base.am", place / "final.am"
    if not all(file.is_file() for file in files):
        return []
    before, after = map(layer_shapes, files)
    found = []
    for name, shape in before.items():
        # A factored layer lives on as its parts: conv1 becomes conv1.0 and conv1.1.
        parts = [v for n, v in after.items() if n == name or n.startswith(f"{name}.")]
        told = ["×".join(map(str, part)) for part in (shape, *parts)]
        found.append(Width(name, told[0], " · ".join(told[1:]), sum(map(prod, parts)) / prod(shape)))
    return found


def command(spec: StudySpec) -> str:
    """Return the command that starts the same study again; options at their defaults are left out."""
    recipe, data = spec.recipe, spec.data
    budget = f"{spec.budget.steps}steps" if spec.budget.steps is not None else f"{spec.budget.seconds or 0:g}s"
    words: list[Any] = ["automc", "search", spec.model, "--data", data.spec, "--budget", budget]
    options = (
        ("--gamma", spec.gamma, None), ("--gamma-of", spec.gamma_of, "params"),
        *((limit.kind.option, limit, None) for limit in spec.limits),
        ("--max-drop", None if spec.max_drop is None else drop_text(spec.max_drop), None),
        ("--searcher", spec.searcher, "progressive"), ("--max-length", spec.max_length, 5), ("--seed", spec.seed, 0),
        ("--run-seed", spec.run_seed, 0), ("--fraction", recipe.fraction, 1.0),
        ("--unit-epochs", recipe.unit_epochs, 10.0), ("--batch", recipe.batch, 128), ("--lr", recipe.lr, 0.01),
        ("--teacher", recipe.teacher, 0.0), ("--recalibrate", recipe.recalibration_images, 2000),
        ("--loss", recipe.loss and recipe.loss.place, None), ("--metric", recipe.metric and recipe.metric.place, None),
        ("--teacher-model", spec.teacher_model, ""),
        ("--round-to", recipe.round_to, 1), ("--sparsity", recipe.sparsity, 0.0), ("--precision", recipe.precision, ""),
        ("--root", data.root, None), ("--size", size_text(data.size), None), ("--augment", data.augment, None),
        ("--val", data.val, None), ("--device", spec.device, "cpu"), ("--workers", spec.workers, None),
        ("--runtime", spec.runtime, "torch"), ("--final", "full" if spec.final else "none", "full"),
        ("--recover", spec.recover, "auto"), ("--front", spec.front, 0.5),
    )  # fmt: skip
    for flag, value, default in options:
        if value != default:
            words += [flag, value]
    for flag, used in (
        ("--no-graph", spec.use_graph), ("--no-experience", spec.use_experience),
        ("--no-own-experience", spec.own_experience),
    ):  # fmt: skip
        words += [] if used else [flag]
    for method in spec.only:
        words += ["--only", method]
    for option, patterns in (("--keep", spec.keep), ("--keep-shape", spec.keep_shape)):
        for pattern in patterns:
            words += [option, pattern]
    words += ["--train-frozen"] if spec.train_frozen else []
    words += ["--grid-only"] if spec.grid_only else []
    return shlex.join(str(word) for word in words)

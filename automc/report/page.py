"""A study as one HTML page that needs nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from automc.bounds import size_text
from automc.knowledge import graph
from automc.knowledge.words import in_words
from automc.models.description import layer_shapes
from automc.report.plot import Line, Mark, apart, svg
from automc.search.pareto import hypervolume
from automc.study.headline import headline, slower
from automc.study.limits import drop_text
from automc.study.outline import Outline
from automc.study.place import folder
from automc.study.protocol import Protocol, settled
from automc.study.spec import StudySpec
from automc.study.stored import load_best, load_some
from automc.study.trial import Trial
from kg.schema import Scheme

WHOLE = 1000
"""Trials of which a page shows each one; of more it shows a part, and says so."""
LAST = {"trials": 500, "failed": 100, "missed": 100}
"""Rows of a longer study's tables, the last ones."""
GRID = 64, 36
"""Columns and rows of the places on which a longer study's trials are drawn."""


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
    with graph(create=False):  # opened once for all that is read
        record, protocol, best, outline = load_best(study)
        choice = settled(record, protocol, best, len(outline))
        chosen = choice.trial if choice else None
        shown = _shown(outline)
        looked_at = {trial.ordinal for trial in best}.union(*shown.values())
        trials = load_some(study, looked_at, *(chosen.scheme.beginnings if chosen else ()))
    spec = StudySpec.from_dict(record["spec"])
    by_scheme = {t.scheme: t for t in trials}
    rows = {name: [t for t in trials if t.ordinal in ordinals] for name, ordinals in shown.items()}
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
    measured = bool(outline.measured.any())
    return environment.get_template("page.html.j2").render(
        first=first.lines() if first else [], slower=slower(final),
        study=study, record=record, spec=spec, total=len(outline), chosen=chosen, why=choice.why if choice else "",
        protocol=protocol, front=protocol.front(trials), nearest=protocol.nearest_text(best), **rows,
        left_out={name: int(outline.which(name).sum()) - len(found) for name, found in rows.items()},
        steps=_steps(chosen, by_scheme) if chosen else [],
        final=final, widths=widths(folder(study)), command=command(spec),
        infeasible=(record.get("probe") or {}).get("infeasible", {}),
        front_plot=front_plot(outline, trials, protocol, chosen) if measured else "",
        volume_plots=volume_plots(outline, protocol) if measured else [],
    )  # fmt: skip


def _shown(outline: Outline) -> dict[str, set[int]]:
    """Ordinals of the trials that each table shows: of a longer study the last ones."""
    found = {name: outline.ordinals[outline.which(name)].tolist() for name in LAST}
    return {
        name: set(ordinals if len(outline) <= WHOLE else ordinals[-LAST[name] :]) for name, ordinals in found.items()
    }


def _breakable(scheme: str) -> Markup:
    """A scheme's id with a strategy a line, each of which may be broken after a comma."""
    return Markup(str(escape(scheme)).replace(",", ",<wbr>").replace(" -&gt; ", " -&gt; <br>"))


def front_plot(outline: Outline, trials: Sequence[Trial], protocol: Protocol, chosen: Trial | None) -> str:
    """The ok trials by parameters removed and validation accuracy, with the front and what is asked for as lines.

    Args:
        outline: of all, of which at least one is measured; of many, those that fall on one place are drawn once.
        trials: those that are known whole: at least the front.
    """
    gamma, least, base = protocol.gamma, protocol.least_accuracy, protocol.base["accuracy"]
    done = outline.highest(outline.measured)
    noun = "bits" if outline.quantised[done].any() else "parameters"
    best = protocol.front(trials)
    kinds = {t.ordinal: "front" for t in best}
    if chosen:
        kinds[chosen.ordinal] = "chosen"
    words = {t.ordinal: in_words(t.scheme) for t in trials}
    marks = [
        Mark(
            100 * removed, 100 * accuracy, kinds.get(ordinal, "dot"),
            f"{ordinal}: {words.get(ordinal, '')}\naccuracy {accuracy:.2%}, {removed:.2%} removed",
        )
        for ordinal, removed, accuracy in _drawn(outline, done, kinds)
    ]  # fmt: skip
    marks.sort(key=lambda mark: mark.kind if mark.kind != "dot" else "")
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


def _drawn(
    outline: Outline, done: npt.NDArray[np.bool_], always: Collection[int]
) -> Iterator[tuple[int, float, float]]:
    """Yield ordinal, size removed and accuracy of what is drawn of the measured trials."""
    columns = outline.ordinals[done], outline.size[done], outline.accuracy[done]
    kept = np.ones(len(columns[0]), dtype=bool)
    if len(kept) > WHOLE:
        kept[:] = False
        kept[apart(columns[1], columns[2], *GRID)] = True
        kept |= np.isin(columns[0], list(always))
    yield from zip(*(column[kept].tolist() for column in columns), strict=True)


def volume_plots(outline: Outline, protocol: Protocol) -> list[str]:
    """Hypervolume of what meets the target beyond (half the base accuracy, γ), over steps and over charged minutes.

    As a share of the whole.
    """
    gamma, base = protocol.gamma or 0.0, protocol.base["accuracy"]
    whole, values = 0.5 * base * (1 - gamma), np.zeros(len(outline))
    best = np.zeros((0, 2))
    for row in outline.better(protocol) if whole else ():
        point = np.array([outline.accuracy[row], outline.size[row]])
        best = np.vstack([best[~(best <= point).all(1)], point])
        values[row:] = hypervolume(best, (0.5 * base, gamma)) / whole
    minutes = np.cumsum(np.nan_to_num(outline.array("seconds"))) / 60
    corners = np.ones(len(values), dtype=bool)
    # A point at whose height the line comes and goes is not seen.
    corners[1:-1] = (values[1:-1] != values[:-2]) | (values[1:-1] != values[2:])
    plots = []
    for x, at in (("executed steps", np.arange(1.0, len(values) + 1)), ("minutes of executed steps", minutes)):
        line = list(zip(at[corners].tolist(), values[corners].tolist(), strict=True))
        plots.append(svg([], x=x, y="hypervolume", title=f"Hypervolume over {x}", lines=[("front", line)]))
    return plots


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

"""The page and the plots of a comparison of searchers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import false_discovery_control, wilcoxon

from automc.search.base import FloatArray
from benchmarks.tab.measures import ENOUGH, KNOWING, Run

PROTOTYPE = {
    # name here: (prototype's name, mean hypervolume after 25, 50 and 100 steps)
    "random": ("random", 0.836, 0.901, 0.939),
    "evolution": ("NSGA-II, Optuna's", 0.844, 0.902, 0.959),
    "optuna-nsga2": ("NSGA-II, Optuna's", 0.844, 0.902, 0.959),
    "optuna-tpe": ("TPE, Optuna's", 0.846, 0.912, 0.962),
    "progressive-blind": ("progressive, no model", 0.873, 0.933, 0.966),
    "progressive-mean": ("progressive, per-strategy mean", 0.919, 0.963, 0.985),
    "progressive-mean-own-size": ("progressive, per-strategy mean", 0.919, 0.963, 0.985),
    "progressive-net": ("progressive, F_mo", 0.891, 0.957, 0.984),
    "progressive-own-size": ("progressive, F_mo", 0.891, 0.957, 0.984),
}
"""What a prototype reached on the same tree: 30 seeds, budget 100, γ 0.3."""
CLOSE = 0.02
"""A difference from the prototype's mean after 50 steps that is not explained."""
WHAT = {
    "progressive": "Algorithm 2 with F_mo (a Bayesian linear model, and a recurrent network once it predicts better)",
    "progressive-knowing": "the same, told beforehand what the shipped experience says of each method's accuracy by size",
    "progressive-net": "Algorithm 2 with the recurrent network alone, trained online as Eq. 5 has it; sizes as in progressive",
    "progressive-own-size": "the same, the size predicted by the network too",
    "progressive-mean": "Algorithm 2 with the mean of what each strategy did so far in place of F_mo",
    "progressive-mean-own-size": "the same, with the strategy's mean size too",
    "progressive-blind": "a random new step on a scheme of the frontier; no model",
    "evolution": "NSGA-II (pymoo) on schemes, PR ≥ γ as a constraint",
    "reinforce": "a recurrent controller that writes whole schemes, trained by REINFORCE",
    "optuna-tpe": "Optuna's multi-objective TPE, a length and one category per position",
    "optuna-nsga2": "Optuna's NSGA-II on the same",
    "random": "a random length, then random strategies",
}
READING = (
    "`evolution` is no replica of the prototype's NSGA-II: it varies and crosses whole schemes of any length and holds γ as a "
    "constraint, where Optuna's draws a length and unrelated categories. `optuna-nsga2` and `optuna-tpe` are the prototype's "
    "samplers behind our contract: rounds of four, parents executed first and told as trials of their own, and a suggestion that "
    "was executed already costs no step but another suggestion, which may be what lifts them.",
    "**What the page shows.** `progressive` has 95% of the front after about a third of the steps and of the seconds that TPE and NSGA-II "
    "need, with F_mo's expected gain, sizes that notice that this tree's plans are shares of the input, and no network: within a hundred steps "
    "the network predicts no better than the linear model and is not followed. The mean of each strategy, with the same choice and the "
    "same sizes, is as good here in hypervolume (a little ahead at 95%), though it predicts worse: eight strategies are soon all known. F_mo is ahead of it in the "
    "accuracy of what would be recommended after 25 steps of the tree, and in hypervolume at γ = 0.6 and on digits; behind it in accuracy on digits (`choices.md`). Half of the mean's steps is not reached.",
    "`progressive` gives half of its weight to the best accuracy at γ, which this page does not reward; with all weight on the "
    "front it is faster in hypervolume (`choices.md`).",
    "Best accuracy at PR ≥ γ after all steps tells nothing apart: nearly every run finds the best scheme. RL has two dozen rounds to "
    "learn a policy from, too few.",
    "One small network, one seed a step, and a tree that our constants were looked at on: evidence that the searchers work, "
    "none of how they rank on a real model. The recorded seconds are of a shared core, so seconds say less than steps. "
    "The network alone (`progressive-net`, `progressive-own-size`) was not run for this page.",
)
"""How the page of the first table is to be read; checked against its figures when it was written."""
RIVALS = ("random", "progressive")
EARLY = (10, 25, 50)
"""Steps after which knowledge is looked at."""

Runs = dict[str, list[Run]]


def write_page(runs: Sequence[Run], about: dict[str, Any]) -> str:
    """Return the page, in Markdown."""
    by_name = grouped(runs)
    budget = len(runs[0].volumes)
    seeds = len(next(iter(by_name.values())))
    horizon = min(run.seconds[-1] for run in runs)
    lines = [
        "# Searchers on executed steps",
        "",
        "Written by `python -m benchmarks.tab.compare`; one row per run in `runs.csv`.",
        "",
        f"- Table: {about['table']}; {about['table_seeds']} seed(s) a step; base accuracy {about['base']:.3f}, γ = {about['gamma']:g}.",
        f"- Every searcher: {seeds} seeds, {budget} executed steps, four schemes asked in a round; parents are executed and",
        "  counted too, nothing is executed twice. Only one that is called knowing knows of a strategy before its first step.",
        "- Hypervolume of (accuracy, PR) beyond (half of the base accuracy, γ), as a share of the true front's, which is",
        f"  {about['front']:.4f} of the whole rectangle. Seconds are the recorded cost of the steps, one after another;",
        f"  they are compared up to {horizon:.0f} s, which every run spent. Medians, quartiles in brackets.",
        f"- {about['device']}; {about['versions']}; {about['jobs']} processes, {about['minutes']:.1f} min in all,",
        f"  {about['cpu_minutes']:.1f} min of processor time. The overhead is processor time of the searcher alone.",
        "",
        *(f"- `{name}`: {said}." for name, said in WHAT.items() if name in by_name),
        "",
        *results(by_name, horizon),
        "",
        *ahead(by_name),
        "",
        *knowledge(by_name),
        "![Hypervolume against executed steps](hypervolume-steps.png)",
        "![Hypervolume against seconds](hypervolume-seconds.png)",
        "",
        "## Paired tests",
        "",
        "Median difference of hypervolume, paired by seed, and p of the two-sided Wilcoxon signed-rank test, corrected for",
        "all tests of this page (Benjamini and Hochberg).",
        "",
        *paired_tests(by_name),
        "",
        "## How well steps were predicted",
        "",
        "Spearman's correlation of predicted and real step rates, on the steps that were chosen and on as many random",
        "admissible ones, from 8 measured steps on. What is chosen is alike, so its correlation is biased downwards or",
        "upwards; the random column says what the model knows. Medians over seeds. The searchers without `own-size` take",
        "only the AR from the model; they plan the size and correct the plan by what it missed.",
        "",
        *qualities(by_name),
        "",
        "What the last steps of schemes remove on this table, and what their plan says:",
        "",
        *sizes(about["sizes"]),
    ]
    if about["is_tree"] and budget == 100:
        lines += ["", "## Beside the prototype", "", *beside_prototype(by_name), "", *notes(by_name)]
    return "\n".join(lines) + "\n"


def grouped(runs: Sequence[Run]) -> Runs:
    """Return the runs by searcher, best median area first, each by seed."""
    by_name: Runs = {}
    for run in sorted(runs, key=lambda run: run.seed):
        by_name.setdefault(run.searcher, []).append(run)
    return dict(sorted(by_name.items(), key=lambda item: -float(np.median([run.area() for run in item[1]]))))


def marks(budget: int) -> tuple[int, int, int]:
    """Return the steps at which runs are compared: a quarter, half and all of the budget."""
    return round(0.25 * budget), round(0.5 * budget), budget


def at(steps: int) -> Callable[[Run], float]:
    """Return what reads a run's volume after so many steps."""
    return lambda run: float(run.volumes[steps - 1])


def results(by_name: Runs, horizon: float) -> list[str]:
    """Return the main table."""
    budget = len(next(iter(by_name.values()))[0].volumes)
    early, half, full = marks(budget)
    columns: dict[str, Callable[[Run], float]] = {
        f"{early} steps": at(early),
        f"{half} steps": at(half),
        f"{full} steps": at(full),
        "area, steps": Run.area,
        f"{horizon / 2:.0f} s": lambda run: float(run.volume_at(horizon / 2)),
        "area, seconds": lambda run: run.area(horizon),
        f"steps to {ENOUGH:.0%}": lambda run: run.steps_to(ENOUGH),
        "best accuracy, PR ≥ γ": lambda run: run.best_accuracy,
    }
    lines = [
        f"| searcher | {' | '.join(columns)} | overhead, s a run |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name, own in by_name.items():
        cells = [spread([read(run) for run in own], budget) for read in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {np.median([run.overhead for run in own]):.2f} |")
    return lines


def spread(values: Sequence[float], budget: int) -> str:
    """Return median and quartiles; what is infinite was not reached within the budget."""
    # Values that occurred, so that an infinite one stays one.
    low, middle, high = (sorted(values)[round(share * (len(values) - 1))] for share in (0.25, 0.5, 0.75))

    def shown(value: float) -> str:
        return f"> {budget}" if math.isinf(value) else f"{value:.0f}" if value > 1 else f"{value:.3f}"

    return f"{shown(middle)} [{shown(low)}, {shown(high)}]"


def paired_tests(by_name: Runs) -> list[str]:
    """Return the table of paired tests."""
    early, half, full = marks(len(next(iter(by_name.values()))[0].volumes))
    reads: dict[str, Callable[[Run], float]] = {
        f"{early} steps": at(early), f"{half} steps": at(half), f"{full} steps": at(full), "area": Run.area,
    }  # fmt: skip
    against = [rival for rival in RIVALS if rival in by_name]
    found = {
        (name, rival, column): paired([read(run) for run in own], [read(run) for run in by_name[rival]])
        for name, own in by_name.items()
        for rival in against
        if name != rival
        for column, read in reads.items()
    }
    corrected = dict(zip(found, false_discovery_control([p for _, p in found.values()]), strict=True))
    heads = [f"{column}, − {rival}" for rival in against for column in reads]
    lines = [f"| searcher | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in by_name:
        keys = [(name, rival, column) for rival in against for column in reads]
        cells = [f"{found[k][0]:+.3f} (p {small(corrected[k])})" if k in found else "" for k in keys]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def paired(own: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Return the median difference and Wilcoxon's p; 1 where there is no difference at all."""
    difference: FloatArray = np.array(own) - np.array(other)
    p = float(wilcoxon(difference).pvalue) if difference.any() else 1.0
    return float(np.median(difference)), p


def small(p: float) -> str:
    """Return a p as people read it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def qualities(by_name: Runs) -> list[str]:
    """Return the table of rank correlations."""
    lines = [
        "| searcher | AR, chosen | AR, random | PR, chosen | PR, random |",
        "|---|---|---|---|---|",
    ]
    for name, own in by_name.items():
        columns = ("chosen ar", "random ar", "chosen pr", "random pr")
        known = [[run.spearman[c] for run in own if not math.isnan(run.spearman.get(c, math.nan))] for c in columns]
        if any(known):
            cells = [f"{np.median(values):.2f}" if values else "" for values in known]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def beside_prototype(by_name: Runs) -> list[str]:
    """Return our means beside those of the prototype."""
    lines = [
        "Means, as the prototype reported; ours − prototype's in brackets.",
        "",
        "| searcher | prototype's | 25 steps | 50 steps | 100 steps |",
        "|---|---|---|---|---|",
    ]
    for name, (theirs, *volumes) in PROTOTYPE.items():
        if name in by_name:
            own = [np.mean([at(steps)(run) for run in by_name[name]]) for steps in (25, 50, 100)]
            cells = [f"{mean:.3f} ({mean - known:+.3f})" for mean, known in zip(own, volumes, strict=True)]
            lines.append(f"| {name} | {theirs} | {' | '.join(cells)} |")
    return lines


def sizes(rows: Sequence[tuple[int, float, float, float, float]]) -> list[str]:
    """Return the table of `size_misses`."""
    lines = [
        "| steps | removed, share of the original | removed, share of its input | planned share of its input | mean error |",
        "|---|---|---|---|---|",
    ]
    return lines + [f"| {length} | {' | '.join(f'{value:.3f}' for value in row)} |" for length, *row in rows]


def mean_at_half(by_name: Runs, name: str) -> float:
    """Return the mean volume after 50 steps."""
    return float(np.mean([at(50)(run) for run in by_name[name]]))


def ahead(by_name: Runs) -> list[str]:
    """Return how soon each searcher has most of the front, in the median, and what part of that `progressive` needs."""
    if "progressive" not in by_name:
        return []
    found = {n: [float(np.median([to(r) for r in runs])) for to in (_steps, _seconds)] for n, runs in by_name.items()}
    lines = [
        f"| searcher | steps to {ENOUGH:.0%} | seconds to {ENOUGH:.0%} | `progressive` needs of them |",
        "|---|---|---|---|",
    ]
    ours = found["progressive"]
    for name, (steps, seconds) in sorted(found.items(), key=lambda item: item[1]):
        parts = ", ".join(f"{own / other:.0%}" for own, other in zip(ours, (steps, seconds), strict=True))
        over = math.isinf(steps)
        lines.append(
            f"| {name} | {'> budget' if over else f'{steps:.0f}'} | {'' if over else f'{seconds:.0f}'} | {'' if over else parts} |"
        )
    return lines


def knowledge(by_name: Runs) -> list[str]:
    """Return what knowing something beforehand is worth, after 10, 25 and 50 steps."""
    if not {"progressive", KNOWING} <= by_name.keys():
        return []
    lines = ["| after | knowing | not knowing | median difference (p) |", "|---|---|---|---|"]
    for steps in EARLY:
        own, other = ([at(steps)(run) for run in by_name[name]] for name in (KNOWING, "progressive"))
        difference, p = paired(own, other)
        lines.append(
            f"| {steps} steps | {np.median(own):.3f} | {np.median(other):.3f} | {difference:+.3f} (p {small(p)}) |"
        )
    return [*lines, ""]


def _steps(run: Run) -> float:
    return run.steps_to(ENOUGH)


def _seconds(run: Run) -> float:
    return run.seconds_to(ENOUGH)


def notes(by_name: Runs) -> list[str]:
    """Return what a reader should take from the page, and why ours differs from the prototype where it does."""
    differs = {
        name: mean_at_half(by_name, name) - volumes[1] for name, (_, *volumes) in PROTOTYPE.items() if name in by_name
    }
    far = {name: value for name, value in differs.items() if abs(value) > CLOSE}
    listed = ", ".join(f"`{name}` ({value:+.4f})" for name, value in far.items()) or "none"
    lines = [f"After 50 steps the means that differ from the prototype's by more than {CLOSE:g}: {listed}.", ""]
    return [*lines, *(line for text in READING for line in bullet(text))]


def bullet(text: str) -> list[str]:
    """Return a text as the wrapped lines of a list item."""
    return textwrap.wrap(f"- {text}", 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def plot(runs: Sequence[Run], out: Path) -> None:
    """Draw median hypervolume with quartiles against steps and against seconds, one image each."""
    by_name = grouped(runs)
    seconds = np.linspace(0, min(run.seconds[-1] for run in runs), 200)
    steps: FloatArray = np.arange(1.0, len(runs[0].volumes) + 1)
    curves: tuple[tuple[str, FloatArray, Callable[[Run], FloatArray]], ...] = (
        ("steps", steps, lambda run: run.volumes),
        ("seconds", seconds, lambda run: run.volume_at(seconds)),
    )
    for name, x, read in curves:
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for number, (searcher, own) in enumerate(by_name.items()):
            low, middle, high = np.quantile([read(run) for run in own], (0.25, 0.5, 0.75), axis=0)
            (line,) = axes.plot(x, middle, label=searcher, linestyle=("-", "--")[number // 10])
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        axes.set(xlabel=f"executed {name}", ylabel="hypervolume / true front's", ylim=(0.5, 1.0))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        figure.savefig(out / f"hypervolume-{name}.png", dpi=110, metadata={"Software": None})

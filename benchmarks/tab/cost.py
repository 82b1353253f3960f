"""What a generated table holds and what its steps cost; and from that, how long a bigger one will take.

    python -m benchmarks.tab.cost --table benchmarks/tab/digits-k8.json --out docs/results/step-table \
        --trials docs/results/resnet20-cifar10/*.csv --images 50000 --fraction 0.1 1 --k 16 --depth 3

Seconds per iteration of a method come from the `--trials` of studies on the bigger network and data. What a method
costs that they lack is its cost on the table, relative to the methods that both have.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median

import numpy as np

from automc import methods
from automc.datasets import DataRef
from automc.datasets.opening import open_data
from automc.datasets.splits import split
from automc.search.pareto import non_dominated
from automc.training.recipe import Recipe
from benchmarks.tab.compare import machine
from benchmarks.tab.generate import choose, schemes
from benchmarks.tab.table import Table, read_rows
from kg.schema import Scheme, Strategy

Paces = dict[str, float]
"""Seconds per training iteration, by method; all that a step takes is in them."""


def iterations(strategy: Strategy, recipe: Recipe, images: int) -> int:
    """Return the training iterations of a step on so many images."""
    return methods.get(strategy.method).iterations(strategy, recipe, images)


def table_paces(steps: Sequence[tuple[Strategy, float]], recipe: Recipe, images: int) -> Paces:
    """Return the median pace of each method over executed steps and their seconds."""
    found: dict[str, list[float]] = {}
    for strategy, seconds in steps:
        found.setdefault(strategy.method, []).append(seconds / iterations(strategy, recipe, images))
    return {method: median(values) for method, values in found.items()}


def trial_paces(files: Sequence[Path]) -> tuple[Paces, int]:
    """Return the median pace of each method over the trials of studies that were not cached, and their number."""
    found: dict[str, list[float]] = {}
    for file in files:
        for row in csv.DictReader(file.open()):
            if row["status"] == "ok" and row["cached"] == "False":
                method = Scheme.parse(row["scheme"]).steps[-1].method
                found.setdefault(method, []).append(float(row["seconds"]) / int(row["iterations"]))
    return {method: median(values) for method, values in found.items()}, sum(map(len, found.values()))


def carried_over(here: Mapping[str, float], there: Mapping[str, float]) -> Paces:
    """Return paces `there` for all methods known here: measured, or scaled by what the methods of both cost.

    Raises:
        SystemExit: no method is in both.
    """
    both = sorted(here.keys() & there.keys())
    if not both:
        raise SystemExit("No method of the table occurs in the trials: nothing can be carried over.")
    scale = float(np.exp(mean(np.log(there[m] / here[m]) for m in both)))
    return {method: there.get(method, scale * pace) for method, pace in here.items()}


def about_table(path: Path, table: Table, note: str) -> list[str]:
    """Return the head of the page."""
    about, rows = json.loads(path.read_text()), list(read_rows(path))
    statuses = ", ".join(f"{sum(r['status'] == s for r in rows)} {s}" for s in dict.fromkeys(r["status"] for r in rows))
    recipe = about["recipe"]
    return [
        f"# A table of executed steps: {about['title']}",
        "",
        f"Written by `python -m benchmarks.tab.cost`; the table is `benchmarks/tab/{path.name}`, made by `benchmarks/tab/generate.py`.",
        "",
        f"- Base: accuracy {table.base_accuracy:.4f} on validation, {about['base']['params']:,} parameters. Recipe: E0 = "
        f"{recipe['unit_epochs']:g} epochs, batch {recipe['batch']}, lr {recipe['lr']:g}, {recipe['precision']}, fraction {recipe['fraction']:g}.",
        f"- {len(rows)} steps ({statuses}), {len(table.seeds)} seed; {sum(r['t'] for r in rows):.0f} s of steps in all, "
        f"on {about['device']}: {machine()['device']}; "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        + ".",
        *([f"- {note}"] if note else []),
        "",
    ]  # fmt: skip


def strategies_of(table: Table) -> list[str]:
    """Return what each strategy did first, and after another: rates relative to its input model."""
    lines = [
        "| | strategy | first step: AR, PR, s | as second step: AR (least to most), PR, s | n |",
        "|---|---|---|---|---|",
    ]
    for i, name in enumerate(table.space.strategies):
        first = table.outcome((i,), 0)
        later = [table.outcome(s, 0) for s in table.mean if len(s) == 2 and s[1] == i]
        alone = (
            f"{first.step_ar:+.3f}, {first.step_pr:.3f}, {first.seconds:.1f}" if first.status == "ok" else first.status
        )
        ars = [o.step_ar or 0.0 for o in later]
        after = (
            f"{mean(ars):+.3f} ({min(ars):+.3f} to {max(ars):+.3f}), {mean(o.step_pr or 0.0 for o in later):.3f}, "
            f"{mean(o.seconds for o in later):.1f}"
            if later
            else ""
        )
        lines.append(f"| {i} | `{name}` | {alone} | {after} | {len(later)} |")
    return lines


def front_of(table: Table) -> list[str]:
    """Return the non-dominated schemes, START left out."""
    known = list(table.mean)
    points = np.array([table.mean[s] for s in known])
    chosen = sorted((known[i] for i in np.flatnonzero(non_dominated(points))), key=lambda s: table.mean[s][1])
    lines = ["| scheme, by number | accuracy | removed |", "|---|---|---|"]
    return lines + [f"| {' → '.join(map(str, s))} | {table.mean[s][0]:.4f} | {table.mean[s][1]:.1%} |" for s in chosen]


def order(table: Table) -> str:
    """Return what the order of two steps is worth."""
    pairs = [s for s in table.mean if len(s) == 2 and s[0] < s[1] and s[::-1] in table.mean]
    gaps = [abs(table.mean[s][0] - table.mean[s[::-1]][0]) for s in pairs]
    return (
        f"Order matters: the two orders of a pair differ by {median(gaps):.3f} accuracy in the median and {max(gaps):.3f} at most "
        f"(n = {len(gaps)} pairs)."
    )  # fmt: skip


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--data", default="digits", help="the table's data, by name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=Path, nargs="+", required=True, help="CSVs of automc show --trials")
    parser.add_argument("--images", type=int, default=50000, help="training images of the bigger data")
    parser.add_argument("--fraction", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--note", default="", help="what a reader must know of the table's run")
    options = parser.parse_args()
    table = Table.load(options.table)
    lines = about_table(options.table, table, options.note)
    lines += [*strategies_of(table), "", order(table), "", "## Front", "", *front_of(table), ""]
    lines += bigger(options, table)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "README.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def bigger(options: argparse.Namespace, table: Table) -> list[str]:
    """Return how long the bigger table will take, and how far such a sum can be trusted."""
    recipe = Recipe(**json.loads(options.table.read_text())["recipe"])
    images = split(open_data(DataRef(options.data)), recipe.fraction).train.n
    steps = {s: (Strategy.parse(table.space.strategies[s[-1]]), table.outcome(s, 0).seconds) for s in table.mean}
    first = table_paces([step for s, step in steps.items() if len(s) == 1], recipe, images)
    later = [step for s, step in steps.items() if len(s) > 1]
    told = sum(first[strategy.method] * iterations(strategy, recipe, images) for strategy, _ in later)
    taken = sum(seconds for _, seconds in later)
    here = table_paces(list(steps.values()), recipe, images)
    there, n = trial_paces(options.trials)
    paces = carried_over(here, there)
    chosen = choose(options.k)
    every = schemes(chosen, options.depth)
    lines = [
        f"## How long {options.k} strategies to depth {options.depth} on {options.images:,} images take",
        "",
        f"`choose({options.k})` gives {len(every):,} schemes within ΣHP2 ≤ 0.85, each one step; that many if none fails. Its cost is the sum of",
        f"iterations × the method's median seconds per iteration in {n} trials of ResNet-20 on CIFAR-10 ({', '.join(f'`{file.name}`' for file in options.trials)}; an idle CPU,",
        "one thread a worker, two workers). Methods that did not occur there are scaled by what they cost here, relative to",
        f"those of both. How far such a sum can be trusted: the same sum from this table's first steps says {told:.0f} s for its",
        f"later steps, which took {taken:.0f} s.",
        "",
        "| method | s an iteration here | s an iteration of ResNet-20 on CIFAR-10 | from |",
        "|---|---|---|---|",
        *(f"| {m} | {here[m]:.4f} | {paces[m]:.3f} | {'trials' if m in there else 'scaled'} |" for m in here),
        "",
        "| share of the images a step trains on | hours of one CPU worker | with 2 workers | with 16 |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for fraction in options.fraction:
        few = round(min(fraction, 0.9) * options.images)
        of = {s.id: paces[s.method] * iterations(s, Recipe(fraction=fraction), few) for s in chosen}
        hours = sum(of[chosen[scheme[-1]].id] for scheme in every) / 3600
        lines.append(f"| {fraction:.0%} | {hours:,.0f} | {hours / 2:,.0f} | {hours / 16:,.0f} |")
    return [
        *lines, "",
        "Steps here have tens of iterations on a tiny network, so what a step does besides training weighs more than it will",
        "there: what is scaled is rather too much. Deeper steps work on smaller networks, of which the trials hold some; they",
        "are not discounted further. On a GPU: not derived, because no step was measured on one;",
        "`generate.py … --device cuda:0 --plan` measures it there in a minute.",
    ]  # fmt: skip


if __name__ == "__main__":
    main()

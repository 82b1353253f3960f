"""How busy workers are: steps as long as those of real studies, under the real schedule, on a clock of its own.

    python -m benchmarks.workers [--studies 10] [--out docs/results/workers.md]

Beside windows of several sizes: rounds of four that are told together, as studies had them once.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from automc.search.base import Outcome, Reason, SchemeIndices, Searcher
from automc.study.schedule import Schedule
from automc.study.spec import window_for
from automc.study.trial import Trial
from kg.schema import Scheme, Strategy

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
WORKERS = (1, 2, 3, 4, 8, 16, 32)
WINDOWS = (1.0, 1.5, 2.0, 3.0)
"""Asks under way for each worker."""
ASKS = 40
"""Asks of a study for each worker."""


def chains(path: Path) -> list[list[float]]:
    """Return the seconds of the steps that each ask of a recorded study took: a scheme after its missing parents."""
    found: list[list[float]] = []
    before = ""
    for row in csv.DictReader(path.open()):
        if found and row["scheme"].rpartition(" -> ")[0] == before:
            found[-1].append(float(row["seconds"]))
        else:
            found.append([float(row["seconds"])])
        before = row["scheme"]
    return found


class Steps:
    """A space of one strategy for each ask, so that every scheme is new."""

    def __init__(self, count: int) -> None:
        self._strategies = [Strategy("NS", (("HP2", i),)) for i in range(count)]

    def scheme(self, indices: SchemeIndices, *_: float) -> Scheme:
        """Return the scheme behind indices."""
        return Scheme(tuple(self._strategies[i] for i in indices))

    def indices(self, scheme: Scheme) -> SchemeIndices:
        """Return the indices of a scheme."""
        return tuple(int(step.number("HP2")) for step in scheme.steps)

    def outcome(self, trial: Trial) -> Outcome:
        """Return what a searcher is told."""
        return trial.outcome(self.indices(trial.scheme))

    def expected(self, _: Reason | None, *__: float) -> dict[str, object]:
        """Return nothing: nothing is predicted."""
        return {}


class Recorded(Searcher):
    """Asks for schemes of given lengths, one after another."""

    name: ClassVar[str] = "recorded"

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = lengths
        self._told = 0

    def ask(self, k: int, pending: Sequence[SchemeIndices] = ()) -> list[SchemeIndices]:
        """Return the next schemes: a strategy of its own each, repeated."""
        number = self._told + len({scheme[0] for scheme in pending})
        return [(n,) * self._lengths[n] for n in range(number, min(number + k, len(self._lengths)))]

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Count the asks that were told."""
        self._told += 1


def busy(asks: Sequence[Sequence[float]], workers: int, window: int, parent: float = 0.0) -> tuple[float, int]:
    """Return the share of their time that workers work while there is something to ask, and the most steps at once.

    `parent`: seconds that the process which searches takes for each outcome, one after another.
    """
    trials: dict[Scheme, Trial] = {}
    space = Steps(len(asks))
    schedule = Schedule(Recorded([len(chain) for chain in asks]), space, trials, window, None)  # type: ignore[arg-type]
    running: list[tuple[float, Scheme]] = []
    clock = work = 0.0
    most = 0
    while True:
        schedule.advance(may_ask=True)
        begun = {scheme for _, scheme in running}
        for scheme, of_round in schedule.waiting():
            if scheme not in begun and len(running) < workers:
                seconds = asks[of_round.number - 1][len(scheme) - 1]
                running.append((clock + seconds, scheme))
                work += seconds
        most = max(most, len(running))
        if len(running) < workers and len(trials) + len(running) == sum(map(len, asks)):
            # The end, where there is less to do than workers, is every schedule's.
            unfinished = sum(max(0.0, end - clock) for end, _ in running)
            return (work - unfinished) / (workers * clock), most
        running.sort(key=lambda one: one[0])
        end, scheme = running.pop(0)
        clock = max(clock, end) + parent
        trials[scheme] = Trial(len(trials) + 1, space.indices(scheme)[0] + 1, scheme, "ok", accuracy=0.5, pr=0.5)


def in_rounds(asks: Sequence[Sequence[float]], workers: int, size: int = 4) -> float:
    """Return the same share where `size` asks are made together, and told before the next ones."""
    total = sum(map(sum, asks))
    clock = 0.0
    for start in range(0, len(asks), size):
        free = [clock] * workers
        ready = [(clock, chain) for chain in asks[start : start + size]]
        while ready:
            ready.sort(key=lambda one: one[0])
            since, chain = ready.pop(0)
            slot = min(range(workers), key=free.__getitem__)
            free[slot] = max(free[slot], since) + chain[0]
            if chain[1:]:
                ready.append((free[slot], chain[1:]))
        clock = max(free)
    return total / (workers * clock)


def rows(name: str, studies: int) -> Iterator[str]:
    """Yield a table of Markdown for one recorded study: the mean over studies that draw its asks anew."""
    recorded = chains(RESULTS / "resnet20-cifar10" / f"{name}.csv")
    titles = ["rounds of four", *(f"window {window:g}·n" for window in WINDOWS), "steps at once"]
    yield f"\n| {name}: workers n | {' | '.join(titles)} |\n|{'---|' * (len(titles) + 1)}"
    for workers in WORKERS:
        drawn = [np.random.default_rng(seed).integers(len(recorded), size=ASKS * workers) for seed in range(studies)]
        asks = [[recorded[i] for i in one] for one in drawn]
        shares = [np.mean([in_rounds(one, workers) for one in asks])]
        most = 0
        for window in WINDOWS:
            found = [busy(one, workers, round(window * workers)) for one in asks]
            shares.append(np.mean([share for share, _ in found]))
            most = max(at_once for _, at_once in found)
        yield f"| {workers} | {' | '.join(f'{share:.1%}' for share in shares)} | {most} |"


def growth(parent: float) -> Iterator[str]:
    """Yield a table: steps an hour by workers, with steps as they were recorded and with a parent that takes its time."""
    recorded = chains(RESULTS / "resnet20-cifar10" / "progressive.csv")
    mean = float(np.mean([seconds for chain in recorded for seconds in chain]))
    yield f"| workers | steps/hour, steps of {mean:.0f} s | of the ideal | steps/hour, steps of 60 s | of the ideal |"
    yield "|---|---|---|---|---|"
    for workers in (1, 2, 4, 8, 16, 64):
        drawn = np.random.default_rng(0).integers(len(recorded), size=ASKS * workers)
        cells = []
        for scale in (1.0, 60 / mean):
            asks = [[scale * seconds for seconds in recorded[i]] for i in drawn]
            share, _ = busy(asks, workers, window_for(workers), parent)
            cells.append(f"{3600 * share * workers / (scale * mean):,.0f} | {share:.1%}")
        yield f"| {workers} | {' | '.join(cells)} |"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS / "workers.md")
    parser.add_argument("--parent", type=float, help="write scaling.md: seconds of the searching process an outcome")
    options = parser.parse_args()
    if options.parent is not None:
        page = [
            "# How steps an hour grow with workers", "",
            "Simulated: steps as long as those of the recorded study in resnet20-cifar10, progressive search, the real schedule with its window of two asks a",
            f"worker, and a searching process that takes {options.parent:g} s for each outcome, one after another (with an ask and a write of its own each, see [throughput.md](throughput.md)); written by `python -m benchmarks.workers --parent {options.parent:g}`.",
            "Measured, with processes: 99.9, 99.7, 99.7 and 99.3% of the ideal with 1, 2, 4 and 8 workers and steps of 2 s ([cluster.md](cluster.md)).", "",
            *growth(options.parent),
        ]  # fmt: skip
        (RESULTS / "scaling.md").write_text("\n".join(page) + "\n")
        return
    page = [
        "# How busy workers are",
        "",
        f"Share of their time that n workers work while a study has something to ask: the mean of {options.studies}",
        f"simulated studies of {ASKS} asks a worker, whose steps are as long as those of the recorded studies in",
        "resnet20-cifar10 (two kinds: mostly one step an ask, and chains of missing parents). Windows run under the",
        "schedule of `automc.study.schedule`. `python -m benchmarks.workers` writes this page; seeds 0, 1, …, no device.",
        *(line for name in ("progressive", "random") for line in rows(name, options.studies)),
    ]
    options.out.write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()

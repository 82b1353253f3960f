"""How many outcomes a second the process that searches can take: what each part of its work costs, and the whole.

    python -m benchmarks.throughput parts --home DIR --trials 1000 10000 --label after [--workers 1000] [--store URL]
    python -m benchmarks.throughput paced --home DIR --trials 1000 10000 [--workers 1000] [--seconds 60] [--store URL]
    python -m benchmarks.throughput page

DIR is a home with a trained `digits.am` and the graph; each row works on a copy. A study is made that has n trials;
their figures are made up by a law, and written in pages. `parts` times single calls. `paced` runs the study's own loop
with workers that only wait as long as the steps of a recorded study took, scaled to a mean; nothing else differs from
a search. Processor seconds are those of the searching process: a server has its own.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from automc import knowledge
from automc.datasets import DataRef
from automc.execution.outcome import StepOutcome
from automc.execution.workers import Result, Running, Workers
from automc.search import get as searcher_named
from automc.study import outbox
from automc.study.loop import Listener, Loop
from automc.study.schedule import PART
from automc.study.space import StrategySpace
from automc.study.spec import Budget, window_for
from automc.study.study import Study
from automc.study.trial import Figures, Trial
from automc.training.precision import cpu_name
from benchmarks.history import write
from benchmarks.workers import chains
from kg.schema import Scheme

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
COLUMNS = ("mode", "label", "store", "trials", "workers", "part", "n", "cpu_ms", "wall_ms")


def outcome(scheme: Scheme, base: Figures, parent: Figures, seconds: float = 60.0) -> StepOutcome:
    """What a made-up step does: sizes near their plan, accuracy by size; the same for the same scheme."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(scheme.id.encode()).digest()[:8], "big"))
    if rng.random() < 0.02:
        return StepOutcome("infeasible", "made up", seconds=seconds)
    gone = scheme.steps[-1].removal * base.params * rng.uniform(0.95, 1.05)
    left = max(1, round(parent.params - gone))
    share = min(0.8, 1 - left / parent.params)
    accuracy = parent.accuracy * (1 - rng.uniform(0.01, 0.05) * share / (1 - share)) + rng.normal(0, 0.004)
    flops = round(parent.flops * left / parent.params)
    return StepOutcome("ok", "", float(np.clip(accuracy, 0, 1)), left, flops, 32 * left, True, seconds, 10)


def history(space: StrategySpace, base: Figures, n: int, seed: int = 0) -> list[Trial]:
    """Trials as a study has them: each extends one that went well, by a strategy that may be asked for."""
    rng = np.random.default_rng(seed)
    allowed = space.allowed()
    known, found, taken = [(Scheme(), base)], list[Trial](), {Scheme()}
    while len(found) < n:
        parent, figures = known[int(rng.integers(len(known)))]
        scheme = parent.then(allowed[int(rng.integers(len(allowed)))])
        if len(scheme) > 4 or sum(step.removal for step in scheme.steps) > 0.8 or scheme in taken:
            continue
        taken.add(scheme)
        number = len(found) + 1
        trial = Trial.of(number, number, scheme, outcome(scheme, base, figures), base, figures)
        found.append(replace(trial, told=max(0, number - 2000), target=scheme.id))
        if trial.figures is not None:
            known.append((scheme, trial.figures))
    return found


class Simulated(Workers):
    """Workers that wait, on this machine's clock, as long as steps of a recorded study took, then answer."""

    def __init__(self, count: int, seconds: float, base: Figures, figures: Callable[[Scheme], Figures]) -> None:
        recorded = [one for chain in chains(RESULTS / "resnet20-cifar10" / "progressive.csv") for one in chain]
        self._lengths = np.array(recorded) * seconds / np.mean(recorded)
        self._count, self._base, self._figures = count, base, figures
        self._rng = np.random.default_rng(0)
        self._jobs: dict[int, tuple[float, Scheme]] = {}
        self._tickets = 0
        self.waited = 0.0

    def start(self) -> None:
        """Nothing is to be started."""

    def submit(self, job: Any, timeout: float | None = None) -> int:
        """Begin a step; the first ones are under way already, as in the middle of a search."""
        self._tickets += 1
        length = float(self._rng.choice(self._lengths))
        left = length * self._rng.random() if self._tickets <= self._count else length
        self._jobs[self._tickets] = (time.monotonic() + left, job)
        return self._tickets

    def collect(self, timeout: float | None = None) -> list[Result]:
        """Wait for the next step that ends."""
        now, first = time.monotonic(), min(end for end, _ in self._jobs.values())
        pause = max(0.0, min(first - now, timeout or 3600.0))
        time.sleep(pause)
        self.waited += pause
        due = [ticket for ticket, (end, _) in self._jobs.items() if end <= time.monotonic()]
        jobs = [(ticket, self._jobs.pop(ticket)[1]) for ticket in due]
        return [(ticket, outcome(scheme, self._base, self._figures(scheme.parent))) for ticket, scheme in jobs]

    def stop(self) -> None:
        """Nothing is to be stopped."""

    def running(self) -> list[Running]:
        """Nobody looks."""
        return []

    @property
    def count(self) -> int:
        """Jobs that run at once."""
        return self._count


class Clock:
    """Adds up processor and wall-clock time of calls, by part."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}

    @contextmanager
    def part(self, name: str, n: int = 1) -> Iterator[None]:
        """Time what is inside, n things of a kind."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        spent = self.spent.setdefault(name, [0, 0.0, 0.0])
        for i, value in enumerate((n, time.process_time() - cpu, time.perf_counter() - wall)):
            spent[i] += value

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time each call of an object's method."""
        inner = getattr(owner, method)

        def timed(*args: Any, **named: Any) -> Any:
            with self.part(name):
                return inner(*args, **named)

        setattr(owner, method, timed)


def study_of(
    home: Path, workers: int, trials: int, graph: bool = True
) -> tuple[Study, StrategySpace, list[Trial], Loop]:
    """Make a study whose probe is made up, and its loop, with n trials that are in the graph too, if wanted."""
    study = Study.create(
        str(home / "digits.am"), DataRef("digits"), gamma=0.4, budget=Budget(steps=10**6), precision="float32",
        device="cpu", workers=workers, learn_from_trials=False, final=False,
    )  # fmt: skip
    names = dict.fromkeys(name.partition("[")[0] for name in study.vectors.strategies)
    probe = {"infeasible": {}, "per_iteration": dict.fromkeys(names, 0.01), "overhead": 1.0, "reach": {}}
    study._save(probe=probe, first=[])
    infeasible, forecast = study._probe(None, Listener())  # type: ignore[arg-type]
    empty = study._loop(infeasible, forecast, Listener())
    made = history(empty.space, empty.base, trials)
    done = {trial.scheme: trial for trial in made}
    if not graph:
        empty.trials = done
        return study, empty.space, made, empty
    with knowledge.graph() as store:
        rows = [{**trial.as_row(), "scheme": trial.scheme} for trial in made]
        lessons = [
            outbox._experience(study.spec, study.subject, t, _figures(done, empty.base, t.scheme.parent))
            for t in made
            if t.status == "ok"
        ]
        write(store, study.spec.id, study.subject.task().id, rows, lessons)
    return study, empty.space, made, study._loop(infeasible, forecast, Listener())


def _figures(done: dict[Scheme, Trial], base: Figures, scheme: Scheme) -> Figures:
    found = done[scheme].figures if scheme.steps else base
    assert found is not None
    return found


def parts(home: Path, trials: int, workers: int, repeats: int, graph: bool) -> Clock:
    """Time single calls with n trials told, and twice as many steps asked for as there are workers.

    A model of steps that learns seldom is made to learn once; where it does, that counts by its share of the tells.
    """
    study, space, made, loop = study_of(home, workers, trials, graph)
    clock = Clock()
    more = history(space, loop.base, trials + 2 * workers + repeats)[trials:]
    known = {trial.scheme for trial in made}
    more = [trial for trial in more if trial.scheme.parent in known or not trial.scheme.steps[:-1]]
    searcher = searcher_named("progressive")(space.space, loop._limits(), 0)
    searcher.tell([space.outcome(trial) for trial in made])
    pending = [space.indices(trial.scheme) for trial in more[repeats:]]
    searcher.ask(1, pending)
    for trial in more[:repeats]:
        with clock.part("tell"):
            searcher.tell([space.outcome(trial)])
        with clock.part("ask"):
            searcher.ask(1, pending)
    _seldom(clock, searcher, trials, [space.outcome(trial) for trial in more[repeats : repeats + 1]])
    batch = max(1, window_for(workers) // PART)
    with clock.part(f"ask, {batch} at a time", batch):
        searcher.ask(batch, pending)
    done = {trial.scheme: trial for trial in (*made, *more)}
    entries = [outbox.entry(t, _figures(done, loop.base, t.scheme.parent), 1.0) for t in more[: 17 * repeats]]
    for one in entries[:repeats] if graph else ():
        with clock.part("graph write, one at a time"):
            outbox.write_outcomes(study.spec, study.subject, [one])
    for start in range(repeats, len(entries) if graph else 0, 17):
        some = entries[start : start + 17]
        with clock.part("graph write, 17 at a time", len(some)):
            outbox.write_outcomes(study.spec, study.subject, some)
    for trial in more[:repeats]:
        loop.trials[trial.scheme] = trial
        with clock.part("front"):
            loop._front = loop.protocol.front([*loop._front, trial])
            loop._pin()
    return clock


def _seldom(clock: Clock, searcher: Any, trials: int, told: list[Any]) -> None:
    """Add what learning takes: by its share of the tells, and as a part of its own."""
    searcher._due = 0
    cpu, wall = time.process_time(), time.perf_counter()
    searcher.tell(told)
    assert searcher.evaluator is not None  # which is when it learns
    spent = time.process_time() - cpu, time.perf_counter() - wall
    clock.spent["learning, when it is due"] = [1, *spent]
    n, share = clock.spent["tell"][0], 1 / (searcher._due - trials)
    clock.spent["tell"] = [n, *(old + n * share * new for old, new in zip(clock.spent["tell"][1:], spent, strict=True))]


def paced(home: Path, trials: int, workers: int, seconds: float, last: float) -> Clock:
    """Run the loop with n trials behind it, until `last` seconds after its first step has begun."""
    *_, loop = study_of(home, workers, trials)
    clock = Clock()
    simulated = Simulated(workers, seconds, loop.base, loop._figures)
    stop = [float("inf")]
    before = len(loop.trials)

    class Stop(Exception):
        """The time is up."""

    inner = simulated.collect

    def collect(timeout: float | None = None) -> list[Result]:
        if stop[0] == float("inf"):
            stop[0] = time.monotonic() + last
            clock.spent.clear()
            whole.extend((time.process_time(), time.perf_counter()))
        if time.monotonic() > stop[0]:
            raise Stop
        return inner(timeout)

    whole: list[float] = []
    simulated.collect = collect  # type: ignore[method-assign]
    kind = searcher_named("progressive")
    clock.watch(loop._outbox, "_write", "graph write")
    ask, tell = kind.ask, kind.tell

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with clock.part(name):
                return call(*args)

        return run

    kind.ask, kind.tell = timed("ask", ask), timed("tell", tell)  # type: ignore[method-assign]
    began = time.process_time(), time.perf_counter()
    try:
        loop.run(simulated)
    except Stop:
        pass
    finally:
        kind.ask, kind.tell = ask, tell  # type: ignore[method-assign]
    n = len(loop.trials) - before
    clock.spent["the whole"] = [n, time.process_time() - whole[0], time.perf_counter() - whole[1]]
    clock.spent["waiting for workers"] = [n, 0.0, simulated.waited]
    clock.spent["taking up the study, first asks"] = [1, whole[0] - began[0], whole[1] - began[1]]
    return clock


@contextmanager
def home_of(base: Path, store: str) -> Iterator[Path]:
    """A copy of a home, on the embedded store or on a server, which is filled from it and emptied."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "home"
        shutil.copytree(base, home)
        os.environ["AUTOMC_HOME"] = str(home)
        os.environ.pop("AUTOMC_GRAPH", None)
        if store:
            knowledge.copy(target=store, replace=True)
            os.environ["AUTOMC_GRAPH"] = store
        yield home


def add(out: Path, given: argparse.Namespace, trials: int, clock: Clock) -> None:
    """Append a row for each part."""
    fresh = not out.exists()
    with out.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(COLUMNS)
        store = "Neo4j" if given.store else "embedded"
        for part, (n, cpu, wall) in clock.spent.items():
            each = max(1, n)
            row = (given.mode, given.label, store, trials, given.workers, part, int(n))
            writer.writerow((*row, f"{1000 * cpu / each:.1f}", f"{1000 * wall / each:.1f}"))
            print(*row, f"{1000 * cpu / each:.1f} {1000 * wall / each:.1f}", flush=True)


def page(path: Path) -> str:
    """Return the page of a CSV."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    lines = [
        "# How many outcomes a second a search can take", "",
        "Written by `python -m benchmarks.throughput page` from `throughput.csv`: processor milliseconds of the process that",
        "searches, 4,525 strategies, a study that has n trials already (figures made up by a law), twice as many steps asked",
        f"for as there are workers ({cpu_name()}, one thread, one run; other work ran on the machine, which stretches figures). Before: commit c3961cc.", "",
        "| part | store | workers | trials | before | after |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    kinds = dict.fromkeys((r["part"], r["store"], r["workers"], int(r["trials"])) for r in rows if r["mode"] == "parts")
    for kind in sorted(kinds):
        cells = [
            next((f"{float(r['cpu_ms']):,.1f} ms" for r in rows if _kind(r) == kind and r["label"] == label), "—")
            for label in ("before", "after")
        ]
        lines.append(f"| {kind[0]} | {kind[1]} | {kind[2]} | {kind[3]:,} | {' | '.join(cells)} |")
    lines += [
        "",
        "From 64 workers on several schemes are asked for at once (31 for 1,000), and what ends together is written together: an outcome",
        "then takes the sum of ask, tell, front and graph write. A dash: not measured.",
    ]
    paced = [r for r in rows if r["mode"] == "paced"]
    if paced:
        lines += [
            "",
            "The loop itself, with workers that wait as long as steps of a recorded study took, scaled to a mean of a minute.",
            "Where no ask fell into what was measured (twice as many steps as workers are asked for ahead), an outcome takes",
            "the whole, and ask and tell from the table above. The wall clock is that of a machine with other work.",
            "",
        ]
        lines += [
            "| store | workers | trials | part | n | processor ms each | wall-clock ms each |",
            "|---|---|---|---|---|---|---|",
        ]
        names = ("store", "workers", "trials", "part", "n", "cpu_ms", "wall_ms")
        lines += [f"| {' | '.join(r[name] for name in names)} |" for r in paced]
    return "\n".join([*lines, ""])


def _kind(row: dict[str, str]) -> tuple[str, str, str, int]:
    return row["part"], row["store"], row["workers"], int(row["trials"])


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("parts", "paced", "page"))
    parser.add_argument("--home", type=Path)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0, help="mean length of a step")
    parser.add_argument("--last", type=float, default=30.0, help="seconds that are measured")
    parser.add_argument("--no-graph", action="store_true", help="parts: leave the graph out")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--store", default="", help="address of an empty server; default: the embedded store")
    parser.add_argument("--label", default="after")
    parser.add_argument("--out", type=Path, default=RESULTS / "throughput.csv")
    given = parser.parse_args()
    for trials in given.trials if given.mode != "page" else ():
        with home_of(given.home, given.store) as home:
            if given.mode == "parts":
                clock = parts(home, trials, given.workers, given.repeats, not given.no_graph)
            else:
                clock = paced(home, trials, given.workers, given.seconds, given.last)
            add(given.out, given, trials, clock)
    given.out.with_suffix(".md").write_text(page(given.out))


if __name__ == "__main__":
    main()

"""Execute all schemes of some strategies, so that searchers can be compared by look-up.

    python -m benchmarks.tab.generate MODEL.am --data digits --k 8 --depth 2 --out benchmarks/tab/NAME.json

Every admissible scheme of K strategies up to L steps, once per seed, with the real methods on a CPU or a GPU. One
row at a time is appended and flushed; a table that was stopped goes on with the same command. Several may work on
one table at once, each with its `--shard 0/2`, `--shard 1/2`. With `--plan` it only says how long it will take.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from automc import knowledge, methods
from automc.datasets import DataRef
from automc.execution.jobs import local_workers, probe_with
from automc.execution.outcome import StepOutcome
from automc.execution.setup import Setup
from automc.execution.workers import Workers
from automc.models import structure
from automc.search.base import SchemeIndices
from automc.study.forecast import Forecast
from automc.study.space import lightest
from automc.study.spec import MAX_REMOVED
from automc.study.study import versions
from automc.training.recipe import Recipe
from benchmarks.tab.table import read_rows
from kg.cards import enumerate_strategies
from kg.schema import Scheme, Strategy


def choose(k: int, seed: int = 0) -> list[Strategy]:
    """Return `k` strategies, from each of the paper's methods in turn: first one of each HP2, spread over the grid.

    Deterministic for a seed and the method cards.
    """
    rng = np.random.default_rng(seed)
    turns: list[list[Strategy]] = []
    for card in knowledge.methods():
        if card.label and card.id in methods.registered():
            by_size = sorted(enumerate_strategies(card), key=lambda s: s.number("HP2"))
            groups = [list(own) for _, own in groupby(by_size, key=lambda s: s.number("HP2"))]
            turns.append([groups[i][rng.integers(len(groups[i]))] for i in rng.permutation(len(groups))])
    deepest = max(map(len, turns))
    in_turn = [own[i] for i in range(deepest) for own in turns if i < len(own)]
    if k > len(in_turn):
        raise SystemExit(f"--k may be {len(in_turn)} at most, it is {k}. Name more with --strategies FILE.")
    return in_turn[:k]


def schemes(strategies: Sequence[Strategy], depth: int) -> list[SchemeIndices]:
    """Return all schemes up to `depth` steps whose ΣHP2 studies allow, each right after its parent and siblings' trees."""
    found: list[SchemeIndices] = []

    def grow(scheme: SchemeIndices, removed: float) -> None:
        for i, strategy in enumerate(strategies):
            total = removed + strategy.number("HP2")
            if total <= MAX_REMOVED + 1e-9:
                found.append((*scheme, i))
                if len(scheme) + 1 < depth:
                    grow((*scheme, i), total)

    grow((), 0.0)
    return found


@dataclass(frozen=True)
class Work:
    """The schemes of one seed that are still to be executed, and where their rows go."""

    strategies: Sequence[Strategy]
    seed: int
    waiting: list[SchemeIndices]
    known: dict[SchemeIndices, str]
    """Status of what was executed already; START is ok."""
    write: Callable[[dict[str, Any]], None]

    def fill(self, workers: Workers, timeout: float | None = None) -> None:
        """Execute depth first, so that the models of few parents are needed at a time; write a row for each."""
        waiting, known = list(self.waiting), {**self.known, (): "ok"}
        running: dict[int, SchemeIndices] = {}
        while waiting or running:
            waiting = [s for s in waiting if all(known.get(s[:n], "ok") == "ok" for n in range(1, len(s)))]
            for scheme in [s for s in waiting if s[:-1] in known][: workers.count - len(running)]:
                waiting.remove(scheme)
                running[workers.submit(self.scheme(scheme), timeout)] = scheme
            for ticket, outcome in workers.collect(1.0):
                scheme = running.pop(ticket)
                known[scheme] = outcome.status
                self.write(row(scheme, self.seed, outcome))

    def scheme(self, indices: SchemeIndices) -> Scheme:
        """Return the scheme behind indices."""
        return Scheme(tuple(self.strategies[i] for i in indices))


def row(scheme: SchemeIndices, seed: int, outcome: StepOutcome) -> dict[str, Any]:
    """Return a step as a row of the table; `t` is what it really took, also where it was found in the cache."""
    figures = {"acc": outcome.accuracy, "par": outcome.params, "flops": outcome.flops, "reached": outcome.reached}
    said = {"reason": outcome.reason} if outcome.reason else {}
    return {"seq": scheme, "seed": seed, "status": outcome.status, **figures, "t": round(outcome.seconds, 4), **said}


def append(path: Path, values: dict[str, Any]) -> None:
    """Add a row, whole and on the disk; a line that a crash cut off is removed first."""
    with FileLock(f"{path}.lock"), path.open("ab+") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, end - 65536))
        tail = stream.read()
        if tail and not tail.endswith(b"\n"):
            stream.truncate(end - len(tail) + tail.rfind(b"\n") + 1)
        stream.write(json.dumps(values).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def describe(
    options: argparse.Namespace, strategies: Sequence[Strategy], base: StepOutcome, train_images: int
) -> dict[str, Any]:
    """Return what NAME.json says."""
    registry = methods.registered()
    return {
        "title": f"{options.model.stem} on {Path(options.data).name}, {len(strategies)} strategies, {options.depth} steps",
        "made_by": "benchmarks/tab/generate.py",
        "base": {"accuracy": base.accuracy, "params": base.params, "flops": base.flops},
        "depth": options.depth,
        "max_removed": MAX_REMOVED,
        "recipe": recipe(options).as_dict(),
        "train_images": train_images,
        "device": options.device,
        "versions": versions(),
        "strategies": [
            {"id": s.id, "method": s.method, "hp2": s.number("HP2"), "cost": registry[s.method].relative_cost(s)}
            for s in strategies
        ],
    }


def begin(path: Path, about: dict[str, Any]) -> None:
    """Write NAME.json, or make sure that the one there is of the same table."""
    with FileLock(f"{path}.lock"):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(about, indent=2) + "\n")
            return
    there = json.loads(path.read_text())
    other = [name for name in ("base", "depth", "recipe", "strategies") if there[name] != about[name]]
    if other:
        raise SystemExit(f"{path} is another table ({', '.join(other)} differ). Choose another --out.")


def share(all_schemes: Iterable[SchemeIndices], seed: int, shard: tuple[int, int], k: int) -> list[SchemeIndices]:
    """Return this process's schemes: whole subtrees below first steps, dealt over seeds and shards."""
    number, of = shard
    return [s for s in all_schemes if (seed * k + s[0]) % of == number]


def plan(setup: Setup, workers: Workers, strategies: Sequence[Strategy], steps: Iterable[SchemeIndices]) -> float:
    """Return the seconds that steps will take one worker, from a probe of each method; print what they rest on."""
    found = probe_with(workers, lightest(strategies))
    for method, reason in found.infeasible.items():
        print(f"{method} cannot work on this model: {reason}")
    n_train = setup.open().splits.train.n
    forecast = Forecast(found.seconds_per_iteration, found.overhead_seconds, setup.recipe, n_train)
    of_strategy = cache(lambda i: forecast.step(strategies[i]))
    for i, strategy in enumerate(strategies):
        print(f"{of_strategy(i):8.2f} s a step  {strategy.id}")
    return sum(of_strategy(scheme[-1]) for scheme in steps)


def recipe(options: argparse.Namespace) -> Recipe:
    """Return how steps are executed."""
    return Recipe(
        unit_epochs=options.unit_epochs, fraction=options.fraction, precision=options.precision, lr=options.lr
    )


def setup_of(options: argparse.Namespace, seed: int) -> Setup:
    """Return the execution of one seed."""
    folder = options.cache or options.out.with_suffix(".cache")
    data = DataRef(options.data, root=options.root).normalised_by(structure.read(options.model).normalisation)
    return Setup(
        base=options.model, data=data, recipe=recipe(options), cache=folder,
        data_cache=folder / "data", run_seed=seed, device=options.device, cache_bytes=options.cache_gib << 30,
    )  # fmt: skip


def main() -> None:
    """Say what will be done, and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a trained model, an .am file")
    parser.add_argument("--data", required=True, help="a data set's name, or an image folder")
    parser.add_argument("--root", help="folder with the files of a named data set")
    parser.add_argument("--out", type=Path, required=True, help="NAME.json; rows go to NAME.jsonl beside it")
    parser.add_argument("--k", type=int, default=8, help="strategies, chosen from all executable methods in turn")
    parser.add_argument("--choice", type=int, default=0, help="seed of that choice")
    parser.add_argument("--strategies", type=Path, help="a file with one strategy a line, instead of --k")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--unit-epochs", type=float, default=10.0)
    parser.add_argument("--fraction", type=float, default=1.0)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--step-timeout", type=float, help="seconds after which a step counts as hung")
    parser.add_argument("--shard", default="0/1", help="I/N: this process's part of the work")
    parser.add_argument("--cache", type=Path, help="prefix cache; default NAME.cache")
    parser.add_argument("--cache-gib", type=int, default=20)
    parser.add_argument("--plan", action="store_true")
    run(parser.parse_args())


def run(options: argparse.Namespace) -> None:
    """Execute what is missing of a table."""
    named = [line.strip() for line in options.strategies.read_text().splitlines()] if options.strategies else None
    strategies = [Strategy.parse(line) for line in named if line] if named else choose(options.k, options.choice)
    everything = schemes(strategies, options.depth)
    number, _, of = options.shard.partition("/")
    shard = int(number), int(of)
    print(f"{len(everything):,} schemes × {options.seeds} seeds, {len(strategies)} strategies, {options.depth} steps")
    rows_path = options.out.with_suffix(".jsonl")
    for seed in range(options.seeds):
        setup = setup_of(options, seed)
        with local_workers(setup, options.workers) as workers:
            if options.plan:
                seconds = plan(setup, workers, strategies, everything) * options.seeds
                print(
                    f"{seconds / 3600:.2f} h of one worker, {seconds / 3600 / workers.count:.2f} h with {workers.count}"
                )
                return
            workers.submit(Scheme(()))
            train_images = setup.open().splits.train.n
            begin(options.out, describe(options, strategies, workers.collect()[0][1], train_images))
            known = {tuple(r["seq"]): r["status"] for r in read_rows(options.out) if r["seed"] == seed}
            mine = share(everything, seed, shard, len(strategies))
            left = [scheme for scheme in mine if scheme not in known]
            print(f"seed {seed}: {len(left):,} of {len(mine):,} schemes are left", flush=True)
            work = Work(strategies, seed, left, known, lambda values: append(rows_path, values))
            work.fill(workers, options.step_timeout)


if __name__ == "__main__":
    main()

"""Executed steps as a table, and the environment in which searchers run against it by look-up.

A table is two files: NAME.json says what was executed, NAME.jsonl (or NAME.jsonl.gz) holds one step a line, see
README.md. Rates are derived from accuracy and parameters, as studies do; nothing derived is read.
"""

from __future__ import annotations

import gzip
import json
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from automc import methods
from automc.search.base import FloatArray, Limits, Outcome, SchemeIndices, Searcher, Space, meets
from automc.search.pareto import hypervolume
from automc.training.recipe import Recipe
from kg.embedding.vectors import Vectors
from kg.schema import Strategy

ROUND = 4
"""Schemes asked for in a round, as studies do."""
MEDIANS = "medians"
"""What NAME.json says of `seconds` where other work ran beside the steps, so that one step's own say little."""
VECTORS = Path(__file__).resolve().parents[2] / "data" / "vectors"
TREE = Path(__file__).resolve().with_name("step-tree-584.json")


class Table:
    """Outcomes of schemes on one network, once per seed."""

    def __init__(self, about: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
        """Hold a table.

        Args:
            about: the content of NAME.json.
            rows: `seq` (indices of the strategies), `status` (default ok), `acc` (validation accuracy in [0, 1]),
                `par` (parameters left), `t` (seconds of the last step), `seed` (default 0).
        """
        self.title = str(about["title"])
        self.base_accuracy = float(about["base"]["accuracy"])
        self.depth = int(about["depth"])
        self._max_removed = math.inf if about["max_removed"] is None else float(about["max_removed"])
        self._base_params = int(about["base"]["params"])
        self._about = about
        found: dict[int, dict[SchemeIndices, dict[str, Any]]] = {}
        for row in rows:
            found.setdefault(int(row.get("seed", 0)), {})[tuple(row["seq"])] = row
        if about.get("seconds") == MEDIANS:
            _steady(rows)
        self.seeds = tuple(sorted(found))
        self._outcomes = [{s: self._outcome(s, of_seed) for s in of_seed} for _, of_seed in sorted(found.items())]
        self.space = self._space(about["strategies"])

    @classmethod
    def load(cls, path: Path) -> Table:
        """Read NAME.json and the rows beside it."""
        path = Path(path)
        return cls(json.loads(path.read_text()), list(read_rows(path)))

    def limits(self, gamma: float) -> Limits:
        """Return what schemes of this table must meet."""
        return Limits(gamma, self.base_accuracy, self.depth, self._max_removed)

    @cached_property
    def slopes(self) -> FloatArray | None:
        """What the shipped experience says of each method on this network; as `Space.slope`, (methods,).

        None where the table's strategies are not AutoMC's, or it was not noted how they were trained.
        """
        recipe, images = self._about.get("recipe"), self._about.get("train_images")
        if recipe is None or images is None or not set(self.space.methods) <= set(methods.registered()):
            return None
        law = Vectors.load(next(VECTORS.glob("*.safetensors"))).guess
        if law is None:
            return None
        mine = [Strategy.parse(identifier) for identifier in self.space.strategies]

        def usual(name: str) -> float:
            own = [s for s in mine if s.method == name]
            return float(np.median([methods.get(name).iterations(s, Recipe(**recipe), images) for s in own]))

        return np.array([law.slope(name, usual(name), self.base_accuracy) for name in self.space.methods])

    def outcome(self, scheme: SchemeIndices, seed: int) -> Outcome:
        """Return what executing the scheme's last step came to; `seed` counts the table's seeds, modulo their number.

        Raises:
            KeyError: the scheme was not executed.
        """
        of_seed = self._outcomes[seed % len(self.seeds)]
        if scheme not in of_seed:
            raise KeyError(f"The table holds no {scheme}: go on with generating it.")
        return of_seed[scheme]

    @cached_property
    def mean(self) -> dict[SchemeIndices, tuple[float, float]]:
        """(accuracy, PR) of every scheme that is ok in all seeds, their mean."""
        told = {s: [of_seed.get(s) for of_seed in self._outcomes] for s in self._outcomes[0]}
        figures = {s: [(o.accuracy, o.pr) for o in os if o and o.status == "ok"] for s, os in told.items()}
        known = {s: np.array(values, float) for s, values in figures.items() if len(values) == len(self.seeds)}
        return {s: (float(v[:, 0].mean()), float(v[:, 1].mean())) for s, v in known.items()}

    def volume(self, schemes: Sequence[SchemeIndices], gamma: float) -> float:
        """Return the hypervolume of schemes' mean (accuracy, PR) beyond (half of the base accuracy, γ).

        As a share of the rectangle that reaches to (base accuracy, 1). Schemes without a mean count nothing.
        """
        points = [self.mean[scheme] for scheme in schemes if scheme in self.mean]
        reference = 0.5 * self.base_accuracy
        area = hypervolume(np.array(points).reshape(-1, 2), (reference, gamma))
        return area / ((self.base_accuracy - reference) * (1 - gamma))

    def best_volume(self, gamma: float) -> float:
        """Return the hypervolume of all that was executed: that of the true front."""
        return self.volume(list(self.mean), gamma)

    def best_accuracy(self, schemes: Sequence[SchemeIndices], gamma: float) -> float:
        """Return the best mean accuracy of the schemes that meet γ; NaN where none does."""
        known = (self.mean[scheme] for scheme in schemes if scheme in self.mean)
        return max((accuracy for accuracy, pr in known if meets(pr, gamma)), default=math.nan)

    def _outcome(self, scheme: SchemeIndices, rows: dict[SchemeIndices, dict[str, Any]]) -> Outcome:
        row = rows[scheme]
        if row.get("status", "ok") != "ok":
            return Outcome(scheme, row["status"], seconds=row["t"], reason=row.get("reason", ""))
        accuracy, params = self._figures(scheme, rows)
        accuracy_before, params_before = self._figures(scheme[:-1], rows)
        return Outcome(
            scheme, "ok", accuracy, 1 - params / self._base_params, accuracy / accuracy_before - 1,
            1 - params / params_before, row["t"], row.get("reached", True), row.get("reason", ""),
        )  # fmt: skip

    def _figures(self, scheme: SchemeIndices, rows: dict[SchemeIndices, dict[str, Any]]) -> tuple[float, int]:
        return (rows[scheme]["acc"], rows[scheme]["par"]) if scheme else (self.base_accuracy, self._base_params)

    def _space(self, strategies: Sequence[dict[str, Any]]) -> Space:
        """Return the strategies without any knowledge: each one's vector is its own direction, and nothing is guessed.

        Where the plan of a strategy is not given, it is what its first step removed.
        """
        names = tuple(dict.fromkeys(s["method"] for s in strategies))
        measured = [self._outcomes[0][i,].pr if s["hp2"] is None else s["hp2"] for i, s in enumerate(strategies)]
        return Space(
            strategies=tuple(s["id"] for s in strategies),
            methods=names,
            method=np.array([names.index(s["method"]) for s in strategies], dtype=np.int64),
            embeddings=np.eye(len(strategies), max(32, len(strategies))),
            hp2=np.array(measured, dtype=float),
            cost=np.array([s["cost"] for s in strategies], dtype=float),
            mask=np.ones(len(strategies), dtype=bool),
            task=np.zeros(7),
        )


def _steady(rows: Sequence[dict[str, Any]]) -> None:
    """Put the median seconds of a strategy's steps that are ok in the place of each one's own."""
    taken: dict[int, list[float]] = {}
    for row in rows:
        if row.get("status", "ok") == "ok":
            taken.setdefault(row["seq"][-1], []).append(row["t"])
    for row in rows:
        if row.get("status", "ok") == "ok":
            row["t"] = statistics.median(taken[row["seq"][-1]])


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows beside NAME.json; a last line that was cut off by a crash is left out."""
    plain, packed = path.with_suffix(".jsonl"), path.with_suffix(".jsonl.gz")
    if not plain.exists() and not packed.exists():
        return
    with plain.open() if plain.exists() else gzip.open(packed, "rt") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


@dataclass(frozen=True, slots=True)
class Round:
    """One round of a search: what was asked, and what was told of it in ordinal order."""

    asked: list[SchemeIndices]
    told: list[Outcome]


def search(
    searcher: Searcher, table: Table, budget: int, *, seed: int = 0, size: int = ROUND, window: int = 1,
    before_tell: Callable[[Round], None] | None = None,
) -> list[Round]:  # fmt: skip
    """Run a searcher against a table, ask by ask as a study does, until the budget is spent or nothing is left.

    Parents that were not executed are executed first; each executed step is one of the budget, and nothing is
    executed twice or below a failure. An ask that the budget cuts is told as far as it went.

    Args:
        budget: steps.
        seed: of the table, see `Table.outcome`.
        size: schemes asked for at once.
        window: asks under way at once; the oldest is told when so many are.
        before_tell: called with each ask before the searcher hears of it.
    """
    done: dict[SchemeIndices, Outcome] = {}
    rounds: list[Round] = []
    under_way: deque[tuple[Round, list[SchemeIndices]]] = deque()

    def tell() -> None:
        oldest, _ = under_way.popleft()
        if before_tell:
            before_tell(oldest)
        searcher.tell(oldest.told)

    while len(done) < budget:
        pending = [scheme for _, planned in under_way for scheme in planned]
        asked = searcher.ask(min(size, budget - len(done)), pending)
        parts = dict.fromkeys(s[:n] for s in asked for n in range(1, len(s) + 1))
        planned = [s for s in parts if s not in done and s not in pending][: budget - len(done)]
        if planned:
            told: list[Outcome] = []
            for scheme in planned:
                if len(scheme) == 1 or (scheme[:-1] in done and done[scheme[:-1]].status == "ok"):
                    done[scheme] = table.outcome(scheme, seed)
                    told.append(done[scheme])
            rounds.append(Round(asked, told))
            under_way.append((rounds[-1], planned))
        elif not under_way:
            break
        if len(under_way) >= window or not planned:
            tell()
    while under_way:
        tell()
    return rounds

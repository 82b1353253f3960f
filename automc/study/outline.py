"""A study of any number of trials by their figures alone: columns, from which single trials are made where needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from automc.models.stored import FLOAT
from automc.search.base import FloatArray
from automc.study.protocol import Protocol
from automc.study.trial import Trial
from kg.schema import Scheme
from kg.trial_tables import Columns

FIGURES = (
    "status", "level", "reached", "seconds", "accuracy", "params", "flops", "pr", "sr", "bits", "file_bytes",
    "latency_ms", "latency_iqr_ms", "base_latency_ms",
)  # fmt: skip
"""What an outline is made of, beside the ordinals."""
_SLACK = 1e-6
"""More than what is forgiven in any comparison of a protocol."""
_PART = 1000
"""Trials that are compared with the best so far at once."""


@dataclass(frozen=True)
class Outline:
    """All trials of a study by `FIGURES`, in the order of their ordinals."""

    columns: Columns

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> Outline:
        """Return that of trials that are at hand."""
        trials = sorted(trials, key=lambda trial: trial.ordinal)
        plain = {name: [getattr(t, name) for t in trials] for name in ("ordinal", *FIGURES) if name != "level"}
        return cls({**plain, "level": [trial.scheme.level for trial in trials]})

    def __len__(self) -> int:
        return len(self.columns["ordinal"])

    def array(self, name: str) -> FloatArray:
        """Return a column as numbers, (n,); NaN where a trial has none."""
        return np.array(self.columns[name], dtype=float)

    @cached_property
    def ordinals(self) -> npt.NDArray[np.int64]:
        """Ordinals of the trials, (n,)."""
        return np.array(self.columns["ordinal"], dtype=np.int64)

    @cached_property
    def levels(self) -> FloatArray:
        """Levels of the trials' schemes, (n,)."""
        return np.nan_to_num(self.array("level"))

    @cached_property
    def accuracy(self) -> FloatArray:
        """Validation accuracy, (n,)."""
        return self.array("accuracy")

    @cached_property
    def size(self) -> FloatArray:
        """Share of the bits that went, (n,), as `Trial.size`."""
        found = self.array("sr")
        return np.where(np.isnan(found), self.array("pr"), found)

    @cached_property
    def measured(self) -> npt.NDArray[np.bool_]:
        """Which trials are ok and have figures, (n,)."""
        ok = np.array([status == "ok" for status in self.columns["status"]], dtype=bool)
        return ok & ~np.isnan(self.array("pr")) & ~np.isnan(self.accuracy)

    @cached_property
    def quantised(self) -> npt.NDArray[np.bool_]:
        """Of which trials bits went that were not those of removed parameters, (n,)."""
        return np.abs(self.size - self.array("pr")) > 1e-9

    def highest(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return the `chosen` trials of the highest level that there is among them, (n,)."""
        if not chosen.any():
            return chosen
        top: npt.NDArray[np.bool_] = self.levels == self.levels[chosen].max()
        return chosen & top

    def which(self, kind: str) -> npt.NDArray[np.bool_]:
        """Tell of each trial whether it is one of the "trials", has "failed", or "missed" its size though ok, (n,)."""
        ok = np.array([status == "ok" for status in self.columns["status"]], dtype=bool)
        missed = np.array([reached is False for reached in self.columns["reached"]], dtype=bool)
        found: dict[str, npt.NDArray[np.bool_]]
        found = {"trials": np.ones(len(self), dtype=bool), "failed": ~ok, "missed": ok & missed}
        return found[kind]

    def trial(self, row: int) -> Trial:
        """Return a trial by its figures, with a scheme of no steps; of before there was SR it is PR."""
        given: dict[str, Any] = {name: values[row] for name, values in self.columns.items()}
        if given["sr"] is None and given["pr"] is not None:
            given |= {"sr": given["pr"], "bits": FLOAT * given["params"]}
        given["seconds"] = given["seconds"] or 0.0
        return Trial(round=0, scheme=Scheme((), given.pop("level") or 0), **given)

    def front(self, protocol: Protocol) -> list[Trial]:
        """Return what `Protocol.front` does, looking whole at few trials: at none that a feasible one dominates."""
        promising = self.measured & (self._least_miss(protocol) <= _SLACK)
        for level in sorted(set(self.levels[promising].tolist()), reverse=True):
            rows = np.flatnonzero(promising & (self.levels == level))
            if front := self._front(rows, protocol):
                return front
        return []

    def _front(self, rows: npt.NDArray[np.intp], protocol: Protocol) -> list[Trial]:
        """The front of trials of one level."""
        order = rows[np.lexsort((-self.size[rows], -self.accuracy[rows]))]
        found: list[Trial] = []
        best = -np.inf, np.inf  # the greatest size so far, and the accuracy that it came with
        for row, size, accuracy in zip(
            order.tolist(), self.size[order].tolist(), self.accuracy[order].tolist(), strict=True
        ):
            if size > best[0] or (size, accuracy) == best:
                trial = self.trial(row)
                if protocol.feasible(trial):
                    found.append(trial)
                    best = size, accuracy
        return protocol.front(sorted(found, key=lambda trial: trial.ordinal))

    def better(self, protocol: Protocol) -> Iterator[int]:
        """Yield the rows of the trials that no feasible one before them is as good as, of the level of the front."""
        front = self.front(protocol)
        level = front[0].scheme.level if front else None
        rows = np.flatnonzero(self.measured & (self._least_miss(protocol) <= _SLACK) & (self.levels == level))
        best = np.zeros((0, 2))
        for start in range(0, len(rows), _PART):
            part = rows[start : start + _PART]
            points = np.column_stack([self.accuracy[part], self.size[part]])
            beaten = np.any(np.all(best[None] >= points[:, None], axis=2), axis=1)
            for row, point in zip(part[~beaten].tolist(), points[~beaten], strict=True):
                if not np.any(np.all(best >= point, axis=1)) and protocol.feasible(self.trial(row)):
                    best = np.vstack([best[~(best <= point).all(axis=1)], point])
                    yield row

    def best_over(self, trial: Trial) -> int | None:
        """The ordinal of the most accurate trial, of equal ones the smallest, that dominates one of its level."""
        accuracy, size = self.accuracy, np.nan_to_num(self.size)
        mine = trial.accuracy or 0.0, trial.removed
        beats = (accuracy >= mine[0]) & (size >= mine[1]) & ((accuracy > mine[0]) | (size > mine[1]))
        rows = np.flatnonzero(self.measured & (self.levels == trial.scheme.level) & beats)
        return int(self.ordinals[rows[np.lexsort((-size[rows], -accuracy[rows]))[0]]]) if len(rows) else None

    def nearest(self, protocol: Protocol) -> Trial | None:
        """Return what `Protocol.nearest` does, looking whole only at trials that may be it."""
        rows = np.flatnonzero(self.measured)
        least = self._least_miss(protocol)[rows]
        found: list[Trial] = []
        worst = np.inf
        for row, miss in zip(*(values[np.argsort(least)].tolist() for values in (rows, least)), strict=True):
            if miss > worst + _SLACK:
                break
            found.append(self.trial(row))
            worst = min(worst, max((miss.excess for miss in protocol.misses(found[-1])), default=0.0))
        return protocol.nearest(sorted(found, key=lambda trial: trial.ordinal))

    def _least_miss(self, protocol: Protocol) -> FloatArray:
        """What each trial misses at least, by γ and by accuracy alone, as a share of what was asked for, (n,)."""
        missed = np.zeros(len(self))
        removed = np.nan_to_num(self.size if protocol.gamma_of == "size" else self.array("pr"))
        if protocol.gamma is not None:
            missed = np.maximum(missed, (1 - removed) / (1 - protocol.gamma) - 1)
        if protocol.max_drop is not None:
            lost = protocol.base["accuracy"] - np.nan_to_num(self.accuracy)
            missed = np.maximum(missed, (lost - protocol.max_drop) / protocol.base["accuracy"])
        return missed

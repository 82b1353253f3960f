"""What quantisers are to a study: which it has, what each leaves of a model, and how far floats go before one.

All of it is arithmetic on counts of the model; nothing about sizes in bits is learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from automc import knowledge, methods
from automc.methods.quantising import Quantiser
from automc.models.stored import FLOAT, Stored
from automc.study.spec import StudySpec
from kg.cards import enumerate_strategies, on_grid
from kg.schema import Strategy

PLAIN = "UQ"
"""The quantiser of every study whose size counts, beside those on the default grid: the one that others must beat."""
COSTLY = 4.0
"""What rounding costs in accuracy beside removing the same share of the parameters, where nothing was measured."""


def quantiser(method: str) -> Quantiser | None:
    """Return a quantiser by its name; None for other methods and those that cannot be executed here."""
    found = methods.registered().get(method)
    return found if isinstance(found, Quantiser) else None


def quantisers(spec: StudySpec) -> dict[str, tuple[Strategy, ...]]:
    """Return the grids of the quantisers that a study has, by name; none where only parameters count."""
    if not spec.sized or not (spec.only or (spec.use_graph and spec.use_experience)):
        return {}
    named = spec.only or (PLAIN,)
    cards = [m for m in on_grid(knowledge.methods(), named) if not spec.only or m.id in spec.only]
    return {m.id: tuple(enumerate_strategies(m)) for m in cards if m.hyperparameters and quantiser(m.id)}


def least_kept(spec: StudySpec, model: Stored | None) -> float:
    """Return the smallest share of a model's bits that one of a study's quantisers leaves; 1 where there is none.

    Args:
        model: None where it is not known yet: then its weights are all that it stores.
    """
    grids = quantisers(spec)
    kinds = Kinds([s for grid in grids.values() for s in grid])
    if model is None:
        return min((s.number("HP22") / FLOAT for s in kinds.strategies), default=1.0)
    return min(kinds.kept(model), default=1.0)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a size: so much of the parameters removed in floats, then a quantiser of a kind."""

    removed: float
    """Share of M's parameters; 0 where the quantiser is enough."""
    widened: float
    """The same, before a quantiser that meets more that stays float: scales of factors, parameters of activations."""
    kind: int
    guess: float
    """What it may cost in accuracy, to compare ways with."""


class Kinds:
    """The quantisers among strategies, by what decides the size: those of a kind leave the same bits."""

    def __init__(self, strategies: Sequence[Strategy]) -> None:
        found: dict[tuple[str, float], int] = {}
        self.of = np.full(len(strategies), -1, dtype=np.int64)
        """Kind of each strategy, -1 for what is no quantiser."""
        self.bits = np.full(len(strategies), float(FLOAT))
        """Mean bits of a weight after it."""
        first: list[Strategy] = []
        for i, strategy in enumerate(strategies):
            if quantiser(strategy.method) is not None:
                self.bits[i] = strategy.number("HP22")
                self.of[i] = found.setdefault((strategy.method, float(self.bits[i])), len(found))
                if self.of[i] == len(first):
                    first.append(strategy)
        self.strategies = tuple(first)
        """One of each kind."""

    def kept(self, model: Stored) -> tuple[float, ...]:
        """Return the share of a model's bits that each kind leaves, () where no layer can be quantised."""
        return tuple(self._after(s, model) / model.bits for s in self.strategies) if model.layers else ()

    def ways(self, model: Stored, aim: float, most: float) -> list[Way]:
        """Return how a size is met by floats and a quantiser, the most promising first.

        What floats remove counts as bits of quantised weights, which are the fewest that a parameter may have: so the
        target is met for certain. Of equal widths the kind that leaves least is taken.

        Args:
            aim: share of M's bits to remove.
            most: share of its parameters that floats may remove.
        """
        found: dict[float, Way] = {}
        for kind, strategy in enumerate(self.strategies if model.layers else ()):
            bits = strategy.number("HP22")
            beyond = self._after(strategy, model) / (FLOAT * model.params) - (1 - aim)
            share, scales = (x * FLOAT / bits for x in (beyond, model.outputs / model.params))
            removed = max(0.0, share)
            if removed <= most and (bits not in found or removed < found[bits].removed):
                rounding = 3 * 4.0**-bits
                guess = removed / (1 - removed) + COSTLY * rounding / (1 - rounding)
                found[bits] = Way(removed, min(removed + scales, most), kind, guess)
        return sorted(found.values(), key=lambda way: way.guess)

    @staticmethod
    def _after(strategy: Strategy, model: Stored) -> int:
        found = quantiser(strategy.method)
        assert found is not None
        return found.bits_after(strategy, model)


def widening(strategies: Iterable[Strategy]) -> npt.NDArray[np.bool_]:
    """Tell of each strategy whether its result has more that stays float: of factors each has scales, (n,)."""
    registry = methods.registered()
    found = [registry.get(s.method) for s in strategies]
    return np.array([m is not None and (m.factors or m.adds) for m in found], dtype=bool)


def factoring(strategies: Iterable[Strategy]) -> npt.NDArray[np.bool_]:
    """Tell of each strategy whether its method writes layers as products, (n,)."""
    registry = methods.registered()
    return np.array([s.method in registry and registry[s.method].factors for s in strategies], dtype=bool)

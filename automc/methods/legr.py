"""Learned global ranking: evolution finds the affine map per layer that makes norms of filters comparable.

Chin et al. 2020, "Towards Efficient Model Compression via Learned Global Ranking".
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from automc.methods import register
from automc.methods.base import Method, StepContext, StepReport
from automc.methods.ranking import CRITERIA, narrowest, norm_table, relative, scores
from automc.methods.step import Step, setting, short_of
from automc.surgery.groups import Groups, Plan
from automc.training import evaluate
from automc.training.seeds import derived
from kg.schema import Strategy

CANDIDATES = 48
"""Most candidates of one search."""
LEAST = 12
"""Candidates below which training longer is worth more than a search."""
SHARE = 0.5
"""Most of HP7 that a search may cost; the rest goes into the fine-tuning."""
POPULATION = 16
MUTATED = 0.1
"""Share of the layers whose maps a mutation changes."""
HELD_OUT = 500
"""Most images a candidate's losses are measured on."""
STATISTICS = 64
"""Most images a candidate's batch-norm statistics are estimated from."""
SCALES = (0.0, *(2 ** (power / 2) for power in range(-10, 5)))
"""Factors of the outputs; a candidate's losses are those with the best. At 0 it guesses."""
SURE = 2.0
"""Standard errors by which a candidate must be better than the identity."""
HOPELESS = 0.9
"""Share of the loss of guessing from which on the identity's says too little of what training will make of it."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much is searched: `candidates`, which cost as much as `spent` iterations of training."""

    candidates: int
    spent: int


def share_out(iterations: int, n: int, batch: int) -> Budget:
    """How many candidates so many iterations, HP7's, buy: an image forward costs a third of one trained on.

    Half of the iterations at most are spent, and no more than 48 candidates cost. Where that is not enough for 12,
    nothing is: then the fine-tuning makes more of them (docs/results/step-choices).

    Args:
        iterations: of HP7.
        n: images of the training subset.
        batch: images of an iteration.
    """
    images = sum(split(n))
    candidates = min(CANDIDATES, int(SHARE * 3 * batch * iterations) // images)
    return Budget(candidates, math.ceil(candidates * images / (3 * batch))) if candidates >= LEAST else Budget(0, 0)


def split(n: int) -> tuple[int, int]:
    """How many images of a training subset of n candidates are measured on, and how many give statistics.

    Images are shared only where n is 1.
    """
    statistics = max(1, min(STATISTICS, n // 2))
    return max(1, min(HELD_OUT, n - statistics)), statistics


@dataclass(frozen=True, slots=True)
class Evolution:
    """What was found. `maps` is (layers, 2) with rows (α, κ); `losses` are the means, in order of birth."""

    maps: np.ndarray
    losses: list[float]


def evolve(
    measure: Callable[[np.ndarray], np.ndarray],
    spreads: np.ndarray,
    candidates: int,
    rng: np.random.Generator,
    hopeless: float = math.inf,
) -> Evolution:
    """Search the maps of least mean loss by regularised evolution (the paper's Algorithm 1).

    The first candidate is the identity (1, 0), the ranking by the norms as they are given. Then each new one is the
    winner of a tournament among the living, with some layers' maps mutated, and takes the place of the oldest once
    the population is full. The best ever seen is returned, the first of equals; the identity where none is better
    beyond doubt. Differs from the paper in that doubt, in that all descend from the identity (random maps lose far
    more than a small search wins back) and in sizes (population 16 for 48 candidates or more, not 64 for 400, and in
    proportion below).

    Args:
        measure: losses (images,) of a model pruned by these maps, always on the same images; a mean that is not a
            number counts as ∞.
        spreads: standard deviation of each layer's norms, (layers,).
        candidates: how many may be measured.
        hopeless: where the identity loses as much, nothing is searched.
    """
    size = min(POPULATION, max(4, candidates // 3))
    population: deque[tuple[float, np.ndarray]] = deque(maxlen=size)
    maps = np.tile([1.0, 0.0], (len(spreads), 1))
    best, identity, losses = (math.inf, maps), np.zeros(0), list[float]()
    for born in range(candidates):
        if born:
            drawn = rng.integers(len(population), size=max(2, size // 4))
            winner = min((population[i] for i in drawn), key=lambda individual: individual[0])
            maps = mutated(winner[1], spreads, 1 - born / (1.25 * candidates), rng)
        found = measure(maps)
        identity = identity if born else found
        mean = float(found.mean())
        newborn = (math.inf if math.isnan(mean) else mean, maps)
        population.append(newborn)
        losses.append(newborn[0])
        if not born and hopeless <= newborn[0] < math.inf:
            break
        if newborn[0] < best[0] and (not born or surely_less(found, identity)):
            best = newborn
    return Evolution(best[1], losses)


def surely_less(found: np.ndarray, than: np.ndarray) -> bool:
    """Whether the mean of losses on the same images is less, by twice its standard error, or `than` is no number."""
    with np.errstate(invalid="ignore"):
        gain = than - found
        return not gain.mean() <= SURE * gain.std() / math.sqrt(len(gain))


def mutated(maps: np.ndarray, spreads: np.ndarray, step: float, rng: np.random.Generator) -> np.ndarray:
    """Return maps with α·exp N(0, step) and κ + N(0, spread) in a tenth of the layers, at least one."""
    count = min(len(spreads), max(1, round(MUTATED * len(spreads))))
    layers = rng.choice(len(spreads), size=count, replace=False)
    changed = maps.copy()
    changed[layers, 0] *= np.exp(rng.normal(0.0, step, size=count))
    changed[layers, 1] += rng.normal(0.0, spreads[layers])
    return changed


class Fitness:
    """The losses of a pruned copy as it is, without training, on images that its statistics do not come from.

    Batch-norm statistics are estimated on augmented images, with which weights trained on such go. The losses are
    cross-entropies at the best of `SCALES`: pruning blows up or shrinks outputs, which a few iterations of training
    put right, and then no candidate is worse than guessing (docs/results/step-choices).

    Args:
        groups: of the model to prune, which stays as it is.
        budget: whose iterations are told as progress.
        total: iterations of the whole step, for its progress.
    """

    def __init__(self, groups: Groups, context: StepContext, budget: Budget, total: int) -> None:
        self._groups, self._context, self._budget, self._total, self._done = groups, context, budget, total, 0
        data, (held, statistics) = context.data, split(context.data.n)
        generator = torch.Generator().manual_seed(derived(context.seed, "held out"))
        order = torch.randperm(data.n, generator=generator)
        self.held = data.subset(order[:held])
        """Images that losses are measured on."""
        self.statistics = data.subset(order[-statistics:])
        """Images that batch-norm statistics are estimated from."""
        self.guess = math.log(int(torch.bincount(data.y).count_nonzero()))
        """The loss of guessing: ln of the number of classes."""

    def __call__(self, plan: Plan) -> np.ndarray:
        """Measure the model without the plan's units: losses (images,); not numbers where its outputs are none."""
        model = self._groups.pruned(plan)
        images = self._context.recipe.recalibration_images
        evaluate.recalibrate(model, self.statistics, images, still=self._context.still)
        with torch.no_grad():
            losses = torch.cat([
                torch.stack([F.cross_entropy(scale * found, labels, reduction="none") for scale in SCALES], 1)
                for found, labels in evaluate.outputs(model, self.held)
            ])  # fmt: skip
        self._tell()
        return losses[:, losses.mean(0).argmin()].double().cpu().numpy()

    @property
    def spent(self) -> int:
        """Iterations that the candidates so far cost as much as, rounded down."""
        return self._budget.spent * self._done // max(1, self._budget.candidates)

    def _tell(self) -> None:
        """Progress in whole iterations, of which a candidate is not always one."""
        before, self._done = self.spent, self._done + 1
        if self.spent > before and self._context.progress is not None:
            self._context.progress(self.spent, self._total)


@register
class LearnedGlobalRanking(Method):
    """Delete the channels with the lowest learned scores, and fine-tune.

    A channel's score is the sum of α·norm + κ over the layers that are coupled in it; evolution finds the
    (α, κ) of each layer. A candidate is pruned to the step's target and judged without any training, see `Fitness`;
    the best one's ranking prunes the step's input. HP1 fine-tuning epochs in units of E0; HP2 share of the original
    parameters to remove; HP6 most channels of a group that may go; HP7 epochs in units of E0 for
    search and more fine-tuning, see `share_out`; HP8 the norm, see `norm_table`. Residual streams are left alone where
    the target can be reached without them. Differs from the paper in norms that are taken as multiples of their
    layer's mean, in candidates that all descend from these and are not trained, in batch-norm statistics estimated
    anew for each, and in the original model never teaching them.
    """

    name = "LeGR"
    version = 4
    choices: ClassVar = {"HP8": tuple(CRITERIA)}

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Prune a copy of `model` by a learned ranking.

        Raises:
            Infeasible: no channel can be removed, or all of them together are not enough.
            MethodError: HP8 is none of `CRITERIA`.
        """
        self.check(strategy)
        share, criterion = setting(strategy, "HP6", 0.0, 1.0), strategy.get("HP8")
        total = self.iterations(strategy, context.recipe, context.data.n)
        budget = self.budget(strategy, context)
        step = Step(model, strategy, context, (budget.spent, total - budget.spent))
        groups, round_to = step.groups(), context.recipe.round_to
        caps, scope, plan = narrowest(groups, step.target, share, round_to)
        short = short_of(plan, f"removing {share:.0%} of every channel group")
        step.settle(plan.params, groups.unit_cost(plan), short)
        table = relative(norm_table(groups, caps, str(criterion)))
        fitness = Fitness(groups, context, budget, sum(step.lengths))

        def ranked(maps: np.ndarray) -> Plan:
            return groups.plan(scores(table, maps, len(groups.groups)), step.target, caps, round_to)

        spreads = np.array([layer.norms.std() for layer in table])
        rng = np.random.default_rng(derived(context.seed, "evolution"))
        hopeless = HOPELESS * fitness.guess
        found = evolve(lambda maps: fitness(ranked(maps)), spreads, budget.candidates, rng, hopeless)
        step.lengths = [fitness.spent, sum(step.lengths) - fitness.spent]
        plan = ranked(found.maps)
        unit = groups.unit_cost(plan)
        groups.apply(plan)
        fitted = step.train(phase=1)
        step.recalibrate()
        layers = [(groups.groups[layer.group].root, layer.name) for layer in table]
        return step.model, step.report(
            unit, short, channels=plan.units, scope=scope, loss=fitted.loss, **told(found, layers),
        )  # fmt: skip

    def budget(self, strategy: Strategy, context: StepContext) -> Budget:
        """How much the step searches: what HP7 buys, less where that leaves no iteration for the fine-tuning."""
        recipe, n = context.recipe, context.data.n
        total = self.iterations(strategy, recipe, n)
        iterations = min(recipe.iterations(setting(strategy, "HP7", 0.0, 1000.0), n), total - 1)
        if context.max_iterations is not None:
            iterations = min(iterations, context.max_iterations)
        return share_out(iterations, n, recipe.batch_size(n))

    def relative_cost(self, strategy: Strategy) -> float:
        """HP1 + HP7."""
        return setting(strategy, "HP1", 0.0, 1000.0) + setting(strategy, "HP7", 0.0, 1000.0)


def told(found: Evolution, layers: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Plain values of a search: the maps of the layers, and the least loss so far after each candidate."""
    least = np.minimum.accumulate(found.losses) if found.losses else np.zeros(0)
    return {
        "candidates": len(found.losses),
        "identity": found.losses[0] if found.losses and math.isfinite(found.losses[0]) else None,
        "least": [float(value) if math.isfinite(value) else None for value in least],
        "maps": [[*names, *map(float, row)] for names, row in zip(layers, found.maps, strict=True)],
    }

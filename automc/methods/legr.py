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

from automc.methods import register
from automc.methods.base import Method, StepContext, StepReport
from automc.methods.ranking import CRITERIA, norm_table, relative, scores
from automc.methods.step import Step, setting, short_of
from automc.models.groups import Groups, Plan
from automc.training import evaluate
from automc.training.loop import Diverged, fit
from automc.training.seeds import derived
from kg.schema import Strategy

CANDIDATES = 48
"""Most candidates of one search."""
LEAST = 12
"""Candidates below which measuring them may take longer than training them."""
POPULATION = 16
MUTATED = 0.1
"""Share of the layers whose maps a mutation changes."""
HELD_OUT = 500
"""Most images a candidate's loss is measured on."""
STATISTICS = 512
"""Most images a candidate's batch-norm statistics are estimated from."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How the iterations of a search are used: `candidates` train `iterations` each."""

    candidates: int
    iterations: int

    @property
    def spent(self) -> int:
        """Iterations of all candidates together."""
        return self.candidates * self.iterations


def share_out(iterations: int, n: int, batch: int) -> Budget:
    """Divide a search's iterations among candidates, the same number each, so that their losses compare.

    At most 48 candidates. Each trains as long as its two forward passes (batch-norm statistics and loss; an image
    forward costs a third of one trained on) would train, so that measuring never takes more than half of a search;
    where that leaves fewer than 12 candidates they train less, at least one iteration. Fewer than two iterations
    are no search. The rest, less than one candidate's share, is not used.

    Args:
        iterations: to be spent.
        n: images of the training subset.
        batch: images of an iteration.
    """
    held = held_out(n)
    passes = math.ceil((held + min(STATISTICS, n - held)) / (3 * batch))
    each = max(1, math.ceil(iterations / CANDIDATES), min(passes, iterations // LEAST))
    candidates = iterations // each
    return Budget(candidates, each) if candidates > 1 else Budget(0, each)


def held_out(n: int) -> int:
    """Images of a training subset of n that candidates are measured on: a tenth, 1 to 500."""
    return max(1, min(HELD_OUT, n // 10))


@dataclass(frozen=True, slots=True)
class Evolution:
    """What was found. `maps` is (layers, 2) with rows (α, κ); `losses` in order of birth, ∞ where one diverged."""

    maps: np.ndarray
    losses: list[float]


def evolve(
    loss: Callable[[np.ndarray], float],
    spreads: np.ndarray,
    candidates: int,
    rng: np.random.Generator,
    guess: float = math.inf,
) -> Evolution:
    """Search the maps of least loss by regularised evolution (the paper's Algorithm 1).

    The first candidate is the identity (1, 0), the ranking by the norms as they are given; the population is filled
    up with random ones, α = exp N(0, 1) and κ = N(0, spread). Then each new one is the winner of a tournament, with
    some layers' maps mutated, and takes the place of the oldest. The best ever seen is returned, the first of
    equals; the identity where none is better than guessing. Differs from the paper in the identity coming first, in
    sizes (population 16 for 48 candidates, not 64 for 400, and in proportion below), and in `guess`.

    Args:
        loss: of a model pruned by these maps; not a number counts as ∞.
        spreads: standard deviation of each layer's norms, (layers,).
        candidates: how many losses may be asked for.
        guess: the loss of who guesses the class without a look. A network that is still worse says nothing of what
            its training will make of it, so its maps never win.
    """
    size = min(POPULATION, max(4, candidates // 3))
    identity = np.tile([1.0, 0.0], (len(spreads), 1))
    population: deque[tuple[float, np.ndarray]] = deque(maxlen=size)
    best, losses = (math.inf, identity), list[float]()
    for born in range(candidates):
        if born == 0:
            maps = identity
        elif born < size:
            maps = np.stack([np.exp(rng.normal(size=len(spreads))), rng.normal(0.0, spreads)], axis=1)
        else:
            drawn = rng.integers(size, size=max(2, size // 4))
            winner = min((population[i] for i in drawn), key=lambda individual: individual[0])
            maps = mutated(winner[1], spreads, 1 - born / (1.25 * candidates), rng)
        value = loss(maps)
        losses.append(math.inf if math.isnan(value) else value)
        newborn = (value if value < guess else math.inf, maps)
        population.append(newborn)
        best = min(best, newborn, key=lambda individual: individual[0])
    return Evolution(best[1], losses)


def mutated(maps: np.ndarray, spreads: np.ndarray, step: float, rng: np.random.Generator) -> np.ndarray:
    """Return maps with α·exp N(0, step) and κ + N(0, spread) in a tenth of the layers, at least one."""
    count = min(len(spreads), max(1, round(MUTATED * len(spreads))))
    layers = rng.choice(len(spreads), size=count, replace=False)
    changed = maps.copy()
    changed[layers, 0] *= np.exp(rng.normal(0.0, step, size=count))
    changed[layers, 1] += rng.normal(0.0, spreads[layers])
    return changed


class Fitness:
    """The loss of a pruned copy after a little training, on training images that it did not train on.

    All candidates see the same images in the same order. Batch-norm statistics are estimated once, after the
    training, which does not read them.

    Args:
        groups: of the model to prune, which stays as it is.
        iterations: of a candidate's training, with plain cross-entropy.
        total: iterations of the whole step, for its progress.
    """

    def __init__(self, groups: Groups, context: StepContext, iterations: int, total: int) -> None:
        self._groups, self._context = groups, context
        self._iterations, self._total, self._done = iterations, total, 0
        data, held = context.data, held_out(context.data.n)
        generator = torch.Generator().manual_seed(derived(context.seed, "held out"))
        order = torch.randperm(data.n, generator=generator)
        self.held = data.subset(order[:held])
        """Images that losses are measured on."""
        self.train = data.subset(order[held:]) if data.n > held else self.held
        """Images that candidates train on."""
        self.guess = math.log(int(torch.bincount(data.y).count_nonzero()))
        """The loss of guessing: ln of the number of classes."""

    def __call__(self, plan: Plan) -> float:
        """Train and measure the model without the plan's units; ∞ where the training diverges."""
        recipe = self._context.recipe
        model = self._groups.pruned(plan)
        try:
            fit(
                model, self.train, iterations=self._iterations, recipe=recipe,
                seed=derived(self._context.seed, "candidate"), progress=self._tell, still=self._context.still,
            )  # fmt: skip
        except Diverged:
            return math.inf
        finally:
            self._done += self._iterations
        images = min(STATISTICS, recipe.recalibration_images)
        evaluate.recalibrate(model, self.train, images, still=self._context.still)
        return evaluate.cross_entropy(model, self.held)

    def _tell(self, done: int, of: int) -> None:
        if self._context.progress is not None:
            self._context.progress(self._done + done, self._total)


def narrowest(groups: Groups, target: int, share: float, round_to: int) -> tuple[list[int], str, Plan]:
    """Caps of the narrowest scope in which the target can be reached, its name, and a plan by no ranking at all.

    The scope is "blocks", else "streams". What any ranking leaves where the target is out of reach, the plan leaves.
    """
    alike = [np.zeros(group.units) for group in groups.groups]
    caps, scope = groups.caps(share, stream=False), "blocks"
    plan = groups.plan(alike, target, caps, round_to)
    if not plan.reached:
        caps, scope = groups.caps(share), "streams"
        plan = groups.plan(alike, target, caps, round_to)
    return caps, scope, plan


@register
class LearnedGlobalRanking(Method):
    """Delete the channels with the lowest learned scores, and fine-tune.

    A channel's score is the sum of α·norm + κ over the layers that are coupled in it; evolution finds the
    (α, κ) of each layer. A candidate is pruned to the step's target, trained a little, and judged by its
    cross-entropy on a tenth of the training subset that no candidate trains on; the best one's ranking then prunes
    the step's input anew. HP1 fine-tuning epochs in units of E0; HP2 share of the original parameters to remove;
    HP6 most channels of a group that may go; HP7 epochs of the candidates' training, all together, in units of E0
    (measuring them takes at most about as long again, see `share_out`); HP8 the norm, see `norm_table`. Residual
    streams are left alone where the target can be reached without them. Differs from the paper in norms that are
    taken as multiples of their layer's mean, where the search starts from, in a smaller search, in candidates that
    must be better than guessing, in batch-norm statistics estimated anew for each, and in the original model never
    teaching them.
    """

    name = "LeGR"
    version = 3
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
        fitness = Fitness(groups, context, budget.iterations, sum(step.lengths))

        def ranked(maps: np.ndarray) -> Plan:
            return groups.plan(scores(table, maps, len(groups.groups)), step.target, caps, round_to)

        spreads = np.array([layer.norms.std() for layer in table])
        rng = np.random.default_rng(derived(context.seed, "evolution"))
        found = evolve(lambda maps: fitness(ranked(maps)), spreads, budget.candidates, rng, fitness.guess)
        plan = ranked(found.maps)
        unit = groups.unit_cost(plan)
        groups.apply(plan)
        fitted = step.train(phase=1)
        step.recalibrate()
        layers = [(groups.groups[layer.group].root, layer.name) for layer in table]
        return step.model, step.report(
            unit, short, channels=plan.units, scope=scope, loss=fitted.loss,
            candidate_iterations=budget.iterations, **told(found, layers),
        )  # fmt: skip

    def budget(self, strategy: Strategy, context: StepContext) -> Budget:
        """How the step's search is divided: HP7, less where that leaves no iteration for the fine-tuning."""
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

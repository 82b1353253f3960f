"""What every method's step shares: its target, its working copy, its training phases and its report."""

from __future__ import annotations

import copy
import glob
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from automc.errors import Infeasible, OutOfReach
from automc.methods.base import StepContext, StepReport
from automc.methods.base import setting as setting  # methods import it from here
from automc.models.measure import count_params
from automc.models.modes import evaluating
from automc.models.outputs import logits
from automc.surgery.groups import Groups, Plan
from automc.surgery.quantised import quantised
from automc.surgery.whole import S, unproved
from automc.training.distill import taught
from automc.training.evaluate import cross_entropy as held_loss
from automc.training.evaluate import recalibrate
from automc.training.loop import FitReport, Loss, fit, objective_of
from automc.training.seeds import derived
from automc.training.state import FitState
from kg.schema import Strategy

HELD_OUT = 500
"""Most images on which models are compared without training."""
STATISTICS = 512
"""Most images from which batch-norm statistics are estimated for that."""


class Step:
    """One step in progress: the copy it works on, what may be left of it, and how it is trained.

    Args:
        model: the step's input; copied, never changed.
        strategy: HP2 sets the target; without it no parameter needs to go.
        lengths: iterations of the training phases; each is capped by the context's `max_iterations`.
    """

    def __init__(self, model: nn.Module, strategy: Strategy, context: StepContext, lengths: Sequence[int]) -> None:
        self.model = copy.deepcopy(model).to(context.device).requires_grad_(True)
        self.context = context
        self.example = torch.zeros(context.data.example_shape, device=context.device)
        self.params_in = count_params(model)
        self.hp2 = 0.0 if strategy.get("HP2") is None else setting(strategy, "HP2", 0.0, 1.0)
        self.target = context.target(self.params_in, self.hp2)
        limit = context.max_iterations
        self.lengths = [n if limit is None else min(n, limit) for n in lengths]
        self.no_graph = ""
        """Why training was not replayed as a CUDA graph, where it should have been."""
        self.refused: dict[str, str] = {}
        """Layers that must not be factored, with the reason, once `whole` was asked."""
        self._strategy = strategy.id

    def insist_float(self, why: str) -> None:
        """Refuse a model with quantised layers.

        Args:
            why: what would be lost, and what to do, in sentences.

        Raises:
            Infeasible: it has some; names the first.
        """
        if names := quantised(self.model):
            raise Infeasible(f"{self._strategy}: {len(names)} layers are quantised, {names[0]} for one. {why}")

    def whole(self, found: Sequence[S], exact: Callable[[nn.Module, S], None]) -> tuple[str, ...]:
        """Patterns of layers that must not be factored: those to keep, and those of the sites that cannot be proved.

        Args:
            found: sites of the working copy, as it is now.
            exact: puts equal layers in the place of a site, see `surgery.whole.unproved`.

        Raises:
            Infeasible: the model does not run on random images.
        """
        self.refused = unproved(self.model, self.example, found, exact)
        return (*self.context.keep, *map(glob.escape, self.refused))

    @property
    def staying(self) -> str:
        """A sentence on the layers that `whole` refused; empty where there are none."""
        if not self.refused:
            return ""
        name, reason = next(iter(self.refused.items()))
        return f" {len(self.refused)} layers stay as they are, {name} for one: {reason}."

    def settle(self, params: int, unit: int, short: str) -> None:
        """Refuse a plan that misses the target by more than a unit; called before anything is trained.

        Args:
            params: what the plan leaves.
            unit: parameters of the cheapest unit that it removes, 0 where it removes none.
            short: what the plan is, e.g. "rank 1 everywhere leaves 812 parameters".

        Raises:
            OutOfReach: it does.
        """
        if params <= self.target + unit:
            return
        whole = self.context.original_params
        wanted, most = ((self.params_in - left) / whole for left in (self.target, params))
        raise OutOfReach(
            f"{self._strategy}: {wanted:.1%} of the original parameters should go, but at most {max(0.0, most):.1%} "
            f"can: {short} of {self.params_in}.{self.staying}",
            params,
        )

    def groups(self) -> Groups:
        """The channel groups of the working copy.

        Raises:
            Infeasible: it cannot be traced, or nothing of it may be pruned.
        """
        groups = Groups(self.model, self.example, self.context.keep)
        if not groups.groups:
            raise Infeasible(
                f"{self._strategy}: no channels of this model can be removed: {groups.why_not() or 'it has no layers'}."
            )
        return groups

    @property
    def objective(self) -> Loss:
        """What the recipe trains by: cross-entropy, or the user's own loss."""
        return objective_of(self.context.recipe)

    def train(self, phase: int = 0, loss: Loss | None = None, **options: Any) -> FitReport:
        """Run one training phase by a loss, default `objective`, with a seed of its own; `options` go to `fit`.

        Where the recipe asks for it, the study's original model teaches beside the loss.
        """
        weight, original = self.context.recipe.teacher, self.context.original
        loss = loss or self.objective
        if weight and original is not None:
            loss = taught(loss, original, weight)
        iterations = self.lengths[phase]
        done, total, tell = sum(self.lengths[:phase]), sum(self.lengths), self.context.progress
        if self.context.state is not None and "state" not in options:
            self.context.state.begin()
            options["state"] = self.context.state
        fitted = fit(
            self.model, self.context.data, iterations=iterations, recipe=self.context.recipe, loss=loss,
            seed=derived(self.context.seed, phase), still=self.context.still,
            progress=None if tell is None else lambda i, _: tell(done + i, total), **options,
        )  # fmt: skip
        self.no_graph = self.no_graph or fitted.no_graph
        return fitted

    def recalibrate(self) -> None:
        """Estimate batch-norm statistics anew: after the last phase, see `evaluate.recalibrate`.

        Training does not read them, and its own running average lags behind short phases (docs/results/recalibration).
        """
        images = self.context.recipe.recalibration_images
        recalibrate(self.model, self.context.data, images, still=self.context.still)

    def best(self, models: Sequence[nn.Module]) -> int:
        """Which of several models is nearest to right without any training: its place in `models`.

        By the cross-entropy on a tenth of the training images, at most 500, after batch-norm statistics were
        estimated on at most 512; so these statistics of the models change.
        """
        if len(models) == 1:
            return 0
        data = self.context.data
        slice_ = data.take(max(1, min(HELD_OUT, data.n // 10)), derived(self.context.seed, "slice"))
        losses = []
        for model in models:
            images = min(STATISTICS, self.context.recipe.recalibration_images)
            recalibrate(model, data, images, still=self.context.still)
            losses.append(held_loss(model, slice_))
        return losses.index(min(losses))

    def check_runs(self, reference: nn.Module) -> None:
        """Compare the output shape of the working copy with the input model's.

        Raises:
            Infeasible: the changed model does not run, or gives another shape.
        """
        shapes = []
        for model in (reference, self.model):
            try:
                with evaluating(model), torch.no_grad():
                    shapes.append(tuple(logits(model, self.example).shape))
            except Exception as error:
                raise Infeasible(f"{self._strategy}: the changed model no longer runs: {error}") from error
        if shapes[0] != shapes[1]:
            raise Infeasible(f"{self._strategy}: the changed model gives {shapes[1]} instead of {shapes[0]}.")

    def report(self, unit: int, short: str, **details: Any) -> StepReport:
        """Say what became of the size.

        Args:
            unit: parameters of the cheapest unit that was removed, 0 where none was.
            short: why the target was missed, used only where it was.
            details: figures of the method, plain values.
        """
        params = count_params(self.model)
        wanted = round(self.hp2 * self.context.original_params)
        floor = self.target > self.params_in - wanted
        reached = params <= self.target and self.target <= self.params_in
        reason = "" if reached else short
        if self.target > self.params_in:
            reason = f"the input is already below the floor of {self.target} parameters, 15 % of the original"
        elif floor:
            note = f"the floor of 15 % of the original lets {self.params_in - self.target} of {wanted} parameters go"
            reason = note if reached else f"{note}; {short}"
        size = {"requested": wanted, "removed": self.params_in - params, "slack": self.target - params, "unit": unit}
        slow = {"no_graph": self.no_graph} if self.no_graph else {}
        return StepReport(self.params_in, params, self.target, reached, reason, {**size, **slow, **details})


def go_on(model: nn.Module, strategy: Strategy, context: StepContext, state: FitState) -> nn.Module:
    """Return a step's result trained on from where its training stands, once more for as long; its structure stays.

    As the recipe trains, also where the method had a loss of its own, and without what else it does in training.
    `state` is written.
    """
    step = Step(model, strategy, context, (context.recipe.iterations(strategy.training, context.data.n),))
    step.train(state=state)
    step.recalibrate()
    return step.model


def short_of(plan: Plan, what: str) -> str:
    """Explain a target out of reach, e.g. "all of … removed leaves 812 parameters"."""
    return f"{what} leaves {plan.params} parameters"

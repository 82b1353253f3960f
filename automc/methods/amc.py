"""AutoML for model compression: an agent decides how much each layer loses, within a budget that it cannot miss.

He et al. 2018, "AMC: AutoML for Model Compression and Acceleration on Mobile Devices".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from automc.methods import register
from automc.methods.base import Method, StepContext, StepReport
from automc.methods.ddpg import search
from automc.methods.policy import Choice, Value
from automc.methods.ranking import narrowest
from automc.methods.step import Step, setting, short_of
from automc.models.measure import count_flops
from automc.surgery.coupling import removed_rows
from automc.surgery.groups import Group, Groups, Plan
from automc.surgery.layer_table import layer_table
from automc.surgery.layers import depthwise, parts
from automc.surgery.least_squares import Repair
from automc.training.evaluate import cross_entropy, outputs, recalibrate, score
from automc.training.recipe import Recipe
from automc.training.seeds import derived
from kg.schema import Strategy

JUDGED = 1000
"""Most training images on which an episode is judged."""
STATISTICS = 500
"""Training images from which batch-norm statistics are estimated for that, and layers are fitted."""
BEST = 5
"""Episodes that are repaired and judged again."""
EPISODE = 1 / 150
"""What an episode costs in units of E0, at 10 epochs: forward passes over a fifth of the images."""


@register
class AutoMLCompression(Method):
    """Let an agent divide the removal among the channel groups; then delete the channels, and fine-tune.

    HP1 epochs of fine-tuning in units of E0; HP2 share of the original parameters to remove; HP6 most channels of a
    group that may go; HP17 divisions that are tried, of which the first are one ratio for all groups and one ranking
    of all channels by magnitude, so the result is no worse than these on a slice of the training images, before
    training; HP18=ls: the five best are tried again with the layers behind fitted to what they gave before; HP28 the
    reward at this size: "accuracy", or "flops", −error · log FLOPs. Residual streams are left alone where the target
    can be reached without them. Within a group those channels go whose weights in the following layers are smallest.

    Differs from the paper in that coupled layers share an action; in the bound on actions, which counts parameters
    exactly; in what is pruned, a layer's outputs, not its inputs; and in a repair of the best divisions only, not of
    every one. The paper's text was not at hand: states and the agent's settings are those of its code.
    """

    name = "AMC"
    version = 1
    choices: ClassVar = {"HP18": ("ls", "none"), "HP28": ("accuracy", "flops")}

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Prune a copy of `model` as its agent decides.

        Raises:
            Infeasible: no channel can be removed, or all of them together are not enough.
            MethodError: HP18 or HP28 is no category of theirs.
        """
        self.check(strategy)
        share = setting(strategy, "HP6", 0.0, 1.0)
        step = Step(model, strategy, context, (self.iterations(strategy, context.recipe, context.data.n),))
        groups = step.groups()
        caps, scope, plan = narrowest(groups, step.target, share, context.recipe.round_to)
        short = short_of(plan, f"removing {share:.0%} of every channel group")
        step.settle(plan.params, groups.unit_cost(plan), short)
        found = None
        if plan.units and plan.reached:
            found = divide(step, groups, caps, strategy)
            plan = found.plan
        unit = groups.unit_cost(plan)
        groups.apply(plan)
        repaired = (
            found.repair.apply(step.model, removed_rows(groups.groups, plan.removed)) if found and found.repair else {}
        )
        fitted = step.train()
        step.recalibrate()
        told = {} if found is None else {"judged": found.value[0], "given": found.given, "tried": found.tried}
        removed = {g.root: len(units) for g, units in zip(groups.groups, plan.removed, strict=True) if units}
        return step.model, step.report(
            unit, short, channels=plan.units, scope=scope, by_group=removed, repaired=len(repaired), loss=fitted.loss,
            **told,
        )  # fmt: skip

    def relative_cost(self, strategy: Strategy) -> float:
        """HP1, and what HP17 episodes take."""
        return setting(strategy, "HP1", 0.0, 1000.0) + setting(strategy, "HP17", 2, 2000) * EPISODE

    def iterations(self, strategy: Strategy, recipe: Recipe, n_train: int) -> int:
        """Those of HP1: episodes do not train."""
        return recipe.iterations(setting(strategy, "HP1", 0.0, 1000.0), n_train)


@dataclass(frozen=True, slots=True)
class Division:
    """The best division that was seen: its plan, its fit if that is better, what it is worth, and those given are."""

    plan: Plan
    repair: Repair | None
    value: Value
    given: list[float]
    tried: int


def divide(step: Step, groups: Groups, caps: Sequence[int], strategy: Strategy) -> Division:
    """Try HP17 divisions, and return the best; `caps` suffice for the target."""
    context, limit = step.context, step.context.max_iterations
    episodes = round(setting(strategy, "HP17", 2, 2000))
    episodes = episodes if limit is None else min(episodes, max(2, limit))
    bound = Bound(step, groups, caps)
    judge = Judge(step, groups, bound, flops=strategy.get("HP28") == "flops")
    known = search(bound, judge, bound.given(), episodes, derived(context.seed, "policy"))
    order = sorted(known, key=lambda choice: known[choice], reverse=True)
    best, repair = (known[order[0]], order[0]), None
    if strategy.get("HP18") == "ls":
        fit = judge.repair()
        again = [(judge.repaired(choice, fit), choice) for choice in order[:BEST]]
        if max(again)[0] > best[0]:
            best, repair = max(again), fit
    given = [known[choice][0] for choice in bound.given()]
    return Division(bound.plan(best[1]), repair, best[0], given, len(known))


class Bound:
    """The walk over the groups that may lose units: whatever the actions, no more than the target is left.

    A choice has the units that each group loses, in the order of the model. At every step the later groups can still
    lose all that they may, so the least that this one must lose follows from the exact count of parameters.
    """

    def __init__(self, step: Step, groups: Groups, caps: Sequence[int]) -> None:
        self.groups, self.target, self.round_to = groups, step.target, step.context.recipe.round_to
        self._allowed = groups.allowed(caps, self.round_to)
        self.at = [g for g, counts in enumerate(self._allowed) if len(counts) > 1]
        """Groups that are walked over."""
        self.length = len(self.at)
        self._most = [int(self._allowed[g][-1]) for g in self.at]
        self.scores = [importance(groups, group) if g in self.at else None for g, group in enumerate(groups.groups)]
        """Of each unit, as a multiple of its group's mean; None of what stays."""
        self._whole = self.params(())
        self._span = max(1, self._whole - step.target)
        self._fixed = self._features(step)
        self.features = self._fixed.shape[1] + 3

    def params(self, done: Sequence[int], rest: Sequence[int] = ()) -> int:
        """Parameters where the first groups lose `done`, the next ones `rest`, and the others nothing."""
        counts = np.zeros(len(self.groups.groups), np.int64)
        chosen = (*done, *rest)
        counts[self.at[: len(chosen)]] = chosen
        return self.groups.params(counts)

    def bounded(self, done: Sequence[int], action: float) -> int:
        """What a share of the most comes to, in whole steps upwards, and not less than the target needs."""
        t = len(done)
        counts, later = self._allowed[self.at[t]], self._most[t + 1 :]
        low, high = 0, len(counts) - 1
        while low < high:
            middle = (low + high) // 2
            if self.params((*done, int(counts[middle])), later) <= self.target:
                high = middle
            else:
                low = middle + 1
        return int(counts[max(low, int(np.searchsorted(counts, round(action * self._most[t]))))])

    def action(self, step: int, chosen: int) -> float:
        """The share of the most that this is."""
        return chosen / self._most[step]

    def state(self, done: Sequence[int], last: float) -> Tensor:
        """The group's features, what is removed of what must go, what the rest could still remove, the last action."""
        now, t = self.params(done), len(done)
        rest = now - self.params(done, self._most[t:])
        return torch.cat([self._fixed[t], torch.tensor([(self._whole - now) / self._span, rest / self._span, last])])

    def plan(self, choice: Choice) -> Plan:
        """The least important units of each group; those go back, the most important first, that need not go."""
        caps = [0] * len(self.groups.groups)
        for g, count in zip(self.at, choice, strict=True):
            caps[g] = count
        return self.groups.plan(self.scores, self.target, caps, self.round_to)

    def given(self) -> list[Choice]:
        """One ratio for all groups, and one ranking of all units."""
        caps = [0] * len(self.groups.groups)
        for g, most in zip(self.at, self._most, strict=True):
            caps[g] = most
        uniform = self.groups.plan_uniform(self.target, caps, self.round_to)
        ranked = [len(units) for units in self.groups.plan(self.scores, self.target, caps, self.round_to).removed]
        return [tuple(int(counts[g]) for g in self.at) for counts in (uniform, ranked)]

    def _features(self, step: Step) -> Tensor:
        """What the agent sees of each group, (groups, 11), each from 0 to 1 over the groups; 0 where all are alike."""
        layers = {layer.name: layer for layer in layer_table(step.model, step.example).layers}
        rows = []
        for t, g in enumerate(self.at):
            group = self.groups.groups[g]
            names = {m.name for m in group.members if m.name in layers}
            makers = [m for m in group.of_kind(_ConvNd, nn.Linear, side="out") if m.name in layers]
            readers = [m for m in group.of_kind(_ConvNd, nn.Linear, side="in") if m.name in layers]
            alone = self._whole - self.params([0] * t, [self._most[t]])
            places = max((layers[m.name].out_h * layers[m.name].out_w for m in makers), default=1)
            sizes = (
                group.units, sum(m.weight[0].numel() for m in makers), sum(layers[m.name].outputs for m in readers),
                places, alone, sum(layers[name].macs for name in names),
            )  # fmt: skip
            rows.append([
                float(t), float(group.stream), float(any(depthwise(m.module) for m in group.members)),
                float(max((layers[name].stride for name in names), default=1)),
                float(max((layers[name].kernel_h for name in names), default=1)),
                *(math.log(1 + size) for size in sizes),
            ])  # fmt: skip
        table = torch.tensor(rows)
        low, high = table.amin(0), table.amax(0)
        return (table - low) / torch.where(high > low, high - low, torch.ones_like(high))


class Judge:
    """Says what a division is worth before any training: on a slice, with batch-norm statistics of its own."""

    def __init__(self, step: Step, groups: Groups, bound: Bound, *, flops: bool) -> None:
        self.step, self.groups, self.bound, self.flops = step, groups, bound, flops
        data = step.context.data
        self.images = data.take(max(1, min(JUDGED, data.n // 5)), derived(step.context.seed, "slice"))
        self.before = count_flops(step.model, step.example)
        self._state = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}
        walked = [groups.groups[g] for g in bound.at]
        self.maskable = all(_maskable(group) for group in walked)
        self._known: dict[tuple[tuple[int, ...], ...], Value] = {}

    def __call__(self, choice: Choice) -> Value:
        """The reward and, where that is the same, the loss. The model is as before afterwards."""
        plan = self.bound.plan(choice)
        if plan.removed not in self._known:
            flops = count_flops(self.groups.pruned(plan), self.step.example) if self.flops else self.before
            if self.maskable:
                mask(self.groups, plan)
                self._known[plan.removed] = self._value(self.step.model, flops)
                self.step.model.load_state_dict(self._state)
            else:
                self._known[plan.removed] = self._value(self.groups.pruned(plan), flops)
        return self._known[plan.removed]

    def repair(self) -> Repair:
        """Look at what the layers read and give in the model as it is."""
        names = [m.name for g in self.bound.at for m in self.groups.groups[g].of_kind(_ConvNd, nn.Linear, side="in")]
        seed = derived(self.step.context.seed, "places")
        images = self.step.context.data.take(STATISTICS, seed)

        @torch.no_grad()
        def run() -> None:
            for _ in outputs(self.step.model, images, 50):
                pass

        return Repair(self.step.model, names, run, seed)

    def repaired(self, choice: Choice, fit: Repair) -> Value:
        """What a division is worth with the layers behind fitted."""
        plan = self.bound.plan(choice)
        model = self.groups.pruned(plan)
        fit.apply(model, removed_rows(self.groups.groups, plan.removed))
        return self._value(model, count_flops(model, self.step.example) if self.flops else self.before)

    def _value(self, model: nn.Module, flops: int) -> Value:
        context = self.step.context
        recalibrate(model, context.data, min(STATISTICS, context.recipe.recalibration_images), still=context.still)
        right = score(model, self.images, context.recipe.metric)
        scale = math.log(max(2, flops)) / math.log(max(2, self.before)) if self.flops else 1.0
        loss = cross_entropy(model, self.images)
        return -(1 - right) * scale, -loss if math.isfinite(loss) else -math.inf


def importance(groups: Groups, group: Group) -> np.ndarray:
    """Σ|w| of the weights that read each unit, (units,), as a multiple of the mean; norms where no layer reads them."""
    readers = group.of_kind(_ConvNd, nn.Linear, side="in")
    if group.rank or not readers:
        values = groups.weight_norms(group)
    else:
        sums = []
        for member in readers:
            number = parts(member.module, "in")
            weight = (
                member.weight.detach().abs().flatten(2).sum(2)
                if member.weight.ndim > 2
                else member.weight.detach().abs()
            )
            each = weight.view(number, len(weight) // number, -1).sum(1).flatten()
            sums.append(each[groups.rows(member)].sum(1))
        values = torch.stack(sums).sum(0)
    found = values.double().cpu().numpy()
    return np.asarray(found / max(found.mean(), 1e-12))


def _maskable(group: Group) -> bool:
    """Whether the rest computes alike with weights of 0 in place of those that read a unit: no reader but layers."""
    alone = all(m.side == "out" or isinstance(m.module, _ConvNd | nn.Linear | _BatchNorm) for m in group.members)
    return alone and not group.bare and all(parts(m.module, m.side) == 1 for m in group.members)


@torch.no_grad()
def mask(groups: Groups, plan: Plan) -> None:
    """Zero the weights that read the plan's units, in the model of `groups`: it then gives what the cut one gives."""
    for group, units in zip(groups.groups, plan.removed, strict=True):
        for member in group.of_kind(_ConvNd, nn.Linear, side="in") if units else ():
            member.weight[:, groups.rows(member)[list(units)].flatten()] = 0

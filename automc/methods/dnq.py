"""Dynamic network quantisation: a policy gives every layer its bits, and the weights are fixed by their distance.

Xu et al. 2018, "DNQ: Dynamic Network Quantization".
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from automc.methods import register
from automc.methods.base import StepContext, StepReport
from automc.methods.incremental import Incremental, parts
from automc.methods.policy import Budget, Choice, Found, Value, reinforce
from automc.methods.quantising import END_BITS, Quantiser
from automc.methods.step import setting
from automc.models.modes import observe
from automc.surgery.levels import MAX_BITS, MIN_BITS, Levels, uniform
from automc.surgery.quantised import Layer
from automc.training.evaluate import cross_entropy, recalibrate, score
from automc.training.recipe import Recipe
from automc.training.seeds import derived
from kg.schema import Strategy

WIDTHS = tuple(range(MIN_BITS, MAX_BITS + 1))
PORTIONS = (0.5, 0.75, 0.875, 1.0)
"""Share of each layer's weights that is fixed after each portion; those of incremental network quantisation."""
JUDGED = 2000
"""Most training images on which an allocation is judged."""
STATISTICS = 500
"""Training images from which batch-norm statistics are estimated for that."""
EPISODE = 1 / 150
"""What an episode costs in units of E0, at 10 epochs: forward passes over a fifth of the images."""


@register
class DynamicNetworkQuantisation(Quantiser):
    """Let a controller divide the bits among the layers; then fix each layer's weights in four portions.

    HP1 epochs of training in all portions together, in units of E0; HP17 allocations that are tried, of which the first
    are the same bits everywhere and those of least squared error, so the result is no worse than these on a slice of
    the training images; HP22 bits of a weight on average over the layers but the first and the last, which have 8; no
    allocation takes more. HP24 which weights are fixed first: "distance", those farthest from their level; or
    "magnitude", the largest. The paper's text was not at hand: widths, wall, portions and the reward, the accuracy on
    the slice without training, are this implementation's, along its abstract.
    """

    name = "DNQ"
    version = 1
    choices: ClassVar = {"HP24": ("distance", "magnitude")}

    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Quantise a copy of `model`.

        Raises:
            Infeasible: no layer can be quantised, or some are already.
            MethodError: HP22 is out of range, or HP24 none of the orders.
        """
        self.check(strategy)
        lengths = parts(self.iterations(strategy, context.recipe, context.data.n), len(PORTIONS))
        step = Incremental(model, strategy, context, lengths)
        limit = context.max_iterations
        episodes = round(setting(strategy, "HP17", 2, 2000))
        found = allocate(step, strategy.number("HP22"), episodes if limit is None else min(episodes, max(2, limit)))
        for phase, share in enumerate(PORTIONS):
            fix(step, share, str(strategy.get("HP24")))
            step.advance(phase)
        details = {} if found is None else {"judged": found.value[0], "tried": found.tried, "episodes": found.episodes}
        return step.model, step.done(**details)

    def relative_cost(self, strategy: Strategy) -> float:
        """HP1, and what HP17 episodes take."""
        return super().relative_cost(strategy) + setting(strategy, "HP17", 2, 2000) * EPISODE

    def iterations(self, strategy: Strategy, recipe: Recipe, n_train: int) -> int:
        """Those of HP1: episodes do not train."""
        return recipe.iterations(super().relative_cost(strategy), n_train)


def allocate(step: Incremental, mean: float, episodes: int) -> Found | None:
    """Choose the levels of every layer; None where there are none between the first and the last."""
    inner = {name: layer for name, layer in step.layers.items() if name not in step.ends}
    step.levels = {name: uniform(step.layers[name].weight, END_BITS) for name in step.ends}
    if not inner:
        return None
    levels = {name: {b: uniform(layer.weight, b) for b in WIDTHS} for name, layer in inner.items()}
    errors = torch.tensor([[levels[n][b].error(layer.weight) for b in WIDTHS] for n, layer in inner.items()])
    sizes = tuple(layer.weight.numel() for layer in inner.values())
    budget = Budget(sizes, WIDTHS, math.floor(mean * sum(sizes) + 1e-6), errors)
    judge = _Judge(step, levels)
    given = list(dict.fromkeys((budget.uniform(), budget.cheapest())))
    features = torch.cat([_features(step, inner), errors[:, [0, 2]]], 1)
    seed = derived(step.context.seed, "policy")
    found = reinforce(budget, features, judge, given, episodes, seed)
    step.levels |= {name: levels[name][bits] for name, bits in zip(inner, found.choice, strict=True)}
    return found


class _Judge:
    """Says what an allocation is worth: accuracy on the slice with rounded weights; the loss where it is the same."""

    def __init__(self, step: Incremental, levels: dict[str, dict[int, Levels]]) -> None:
        self.step, self.levels = step, levels
        data = step.context.data
        self.images = data.take(max(1, min(JUDGED, data.n // 5)), derived(step.context.seed, "slice"))
        self.held = {name: layer.weight.detach().clone() for name, layer in step.layers.items()}
        self.state = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}

    @torch.no_grad()
    def __call__(self, choice: Choice) -> Value:
        """Round, estimate statistics and look; the model is as before afterwards."""
        step = self.step
        chosen = {name: levels[b] for (name, levels), b in zip(self.levels.items(), choice, strict=True)}
        for name, levels in (step.levels | chosen).items():
            step.layers[name].weight.copy_(levels.nearest(self.held[name]))
        recalibrate(step.model, step.context.data, STATISTICS, still=step.context.still)
        worth = score(step.model, self.images, step.context.recipe.metric), -cross_entropy(step.model, self.images)
        step.model.load_state_dict(self.state)
        return worth


def _features(step: Incremental, layers: dict[str, Layer]) -> Tensor:
    """What the controller sees of each layer: kind, inputs, outputs, kernel, stride, weights and multiplications."""
    places: dict[str, int] = {}

    def look(name: str, layer: Layer) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            places[name] = output[0].numel() // len(layer.weight)

        return layer.register_forward_hook(hook)

    observe(step.model, step.example, [look(name, layer) for name, layer in layers.items()])
    rows = []
    for name, layer in layers.items():
        weights, conv = layer.weight.numel(), isinstance(layer, nn.Conv2d)
        inputs = layer.weight[0].numel() / (math.prod(layer.kernel_size) if isinstance(layer, nn.Conv2d) else 1)
        kernel, stride = (layer.kernel_size[0], layer.stride[0]) if isinstance(layer, nn.Conv2d) else (1, 1)
        several = isinstance(layer, nn.Conv2d) and layer.groups > 1
        logs = (inputs, len(layer.weight), weights, weights * max(1, places.get(name, 1)))
        rows.append([float(conv), float(several), float(kernel), float(stride), *map(math.log, logs)])
    return torch.tensor(rows)


def fix(step: Incremental, share: float, order: str) -> None:
    """Fix weights of every layer in this order until so large a share of them is fixed."""
    for name, layer in step.layers.items():
        weight, fixed = layer.weight.detach(), step.fixed[name]
        distance = (step.levels[name].nearest(weight) - weight).abs()
        keys = (distance if order == "distance" else weight.abs()).masked_fill(fixed, -1.0).flatten()
        missing = round(share * weight.numel()) - int(fixed.sum())
        chosen = torch.zeros_like(keys, dtype=torch.bool)
        chosen[torch.argsort(keys, descending=True, stable=True)[: max(0, missing)]] = True
        step.fix(name, chosen.view(weight.shape))

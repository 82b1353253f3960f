"""What a compression method is, and the registry of those that can be executed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import nn

from automc.datasets.base import TrainData
from automc.errors import MethodError, OutOfReach
from automc.models.measure import count_params
from automc.training.recipe import Recipe
from automc.training.state import FitState
from kg.schema import Strategy

FLOOR = 0.15
"""No scheme goes below this share of the original parameters."""


RANGES: Mapping[str, tuple[float, float]] = {
    "HP1": (0, 1000), "HP2": (0, 1), "HP3": (2, 100), "HP4": (0.01, 1000), "HP5": (0, 1), "HP6": (0, 1),
    "HP7": (0, 1000), "HP9": (0, 1000), "HP10": (0, 1000), "HP13": (0, 1000), "HP14": (0, 1e6), "HP15": (0, 1e6),
    "HP17": (2, 2000), "HP19": (1, 1e6), "HP20": (0, 0.1), "HP22": (2, 8), "HP23": (1, 8),
    "HP25": (0, 1000), "HP26": (1, 16), "HP27": (0, 0.8),
}  # fmt: skip
"""Of the hyperparameters that are numbers, far beyond the cards' grids: what a step can be run with."""


def setting(strategy: Strategy, name: str, low: float, high: float) -> float:
    """Read a numeric hyperparameter and check its range [low, high].

    Raises:
        MethodError: it lies outside.
        SchemaInvalid: it is missing or no number.
    """
    value = strategy.number(name)
    if not low <= value <= high:
        raise MethodError(f"{strategy.id}: {name} must lie between {low:g} and {high:g}.")
    return value


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step may use besides its input model; methods never see validation or test data."""

    data: TrainData
    """The training subset of the recipe's fraction, on `device`."""
    recipe: Recipe
    original_params: int
    """P0: parameters of the study's M."""
    seed: int
    device: torch.device
    keep: tuple[str, ...] = ()
    """Patterns (fnmatch on module names) of layers whose shape stays."""
    still: tuple[str, ...] = ()
    """Patterns of layers, and names of parameters, that are not trained; see `models.keeping`."""
    original: nn.Module | None = None
    """The study's M, or the model that teaches in its place; None where it is not at hand."""
    max_iterations: int | None = None
    """Caps every training phase; 1 for a probe."""
    progress: Callable[[int, int], None] | None = None
    """Called with (iterations done, iterations in all of this step)."""
    floor: float = FLOOR
    """Share of the original parameters below which no step goes."""
    state: FitState | None = None
    """Becomes what the last training phase ended with, for those who go on from it."""

    def target(self, params_in: int, hp2: float) -> int:
        """T = max(P_in − round(HP2·P0), ceil(floor·P0)): the parameters a step may leave."""
        floor = -int(-self.floor * self.original_params // 1)
        return max(params_in - round(hp2 * self.original_params), floor)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did to the size. `reached` is P_out ≤ T with less slack than the cheapest unit removed."""

    params_in: int
    params_out: int
    target: int
    reached: bool
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)


class Method(ABC):
    """One compression algorithm.

    A subclass sets `name` (its card's id) and `version` (raised when its results change: part of the
    prefix cache's key), and registers itself by `@register`.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    lengths: ClassVar[Mapping[str, float]] = {
        "HP1": 1.0,
        "HP7": 1.0,
        "HP9": 1.0,
        "HP10": 1 / 200,
        "HP13": 1.0,
        "HP25": 1.0,
    }
    """Hyperparameters that are lengths of training, and what 1 of each is in units of E0 (HP10: epochs of 200)."""

    size: ClassVar[str] = "HP2"
    """The hyperparameter that sets the size of the result: HP2, parameters, or HP22, bits."""

    factors: ClassVar[bool] = False
    """Whether it puts other layers, such as products, in the place of a model's: off the levels of a quantised one."""

    adds: ClassVar[bool] = False
    """Whether its result has parameters that its input had not, and that no quantiser stores in fewer bits."""

    serves: ClassVar[tuple[str, ...]] = ()
    """Figures for whose limits it is made (see `study.limits.KINDS`): a search without one leaves it out."""

    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Values of the hyperparameters that are categories."""

    def check(self, strategy: Strategy) -> None:
        """Refuse settings with which no model could be compressed: asked before anything slow.

        Raises:
            MethodError: a number lies outside of RANGES, or a category is none of `choices`.
            SchemaInvalid: `size` is missing or no number.
        """
        setting(strategy, self.size, *RANGES[self.size])
        for name, _ in strategy.settings:
            if name in RANGES:
                setting(strategy, name, *RANGES[name])
        for name, known in self.choices.items():
            if strategy.get(name) not in known:
                raise MethodError(f"{strategy.id}: {name} must be one of {', '.join(known)}.")

    @abstractmethod
    def apply(self, model: nn.Module, strategy: Strategy, context: StepContext) -> tuple[nn.Module, StepReport]:
        """Compress a copy of `model` by `strategy` and train it.

        `model` is left as it was, object and outputs; the result is a new, physically smaller model on
        the same device, with the training flag of its input and all parameters trainable.

        Raises:
            Infeasible: this method cannot do this to this model; the message is for a person.
        """

    def reach(self, model: nn.Module, strategy: Strategy, context: StepContext) -> float:
        """Largest HP2 for which a step on `model` meets its target, with the strategy's other settings.

        A share of the original parameters in [0, 0.85]: no step goes below 15% of them. Costs a step without its
        training: it asks for everything, and is told how much there is.

        Raises:
            Infeasible: this method cannot do anything to this model.
        """
        settings = tuple((name, 1.0 if name == "HP2" else value) for name, value in strategy.settings)
        asked = replace(context, floor=0.0, max_iterations=1, progress=None)
        try:
            left = self.apply(model, replace(strategy, settings=settings), asked)[1].params_out
        except OutOfReach as limit:
            left = limit.params
        lowest = max(left, context.target(context.original_params, 1.0))
        return max(0.0, (count_params(model) - lowest) / context.original_params)

    @abstractmethod
    def relative_cost(self, strategy: Strategy) -> float:
        """Training cost in units of E0 epochs, e.g. HP1 for one fine-tuning phase."""

    def iterations(self, strategy: Strategy, recipe: Recipe, n_train: int) -> int:
        """Training iterations of all phases of a step, for plans and for counting strategies that coincide."""
        return recipe.iterations(self.relative_cost(strategy), n_train)

    def signature(self, strategy: Strategy, recipe: Recipe, n_train: int) -> tuple[object, ...]:
        """Return what distinguishes a strategy under a recipe: its settings, lengths rounded to iterations.

        Two strategies of one signature are twins: the same step, with the same seed. Plain values.
        """
        values: list[object] = [strategy.method, self.iterations(strategy, recipe, n_train)]
        for name, value in strategy.settings:
            length = name in self.lengths and not isinstance(value, str)
            values.append((name, recipe.iterations(float(value) * self.lengths[name], n_train) if length else value))
        return tuple(values)

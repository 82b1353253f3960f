"""Methods whose step is a search, HP25, and then a fine-tuning, HP1."""

from __future__ import annotations

from typing import ClassVar

from automc.methods.base import Method, setting
from automc.training.recipe import Recipe
from kg.schema import Strategy


class Searching(Method):
    """A method that trains scores beside the weights before it decides."""

    search_cost: ClassVar[float] = 1.0
    """What an iteration of the search costs, in iterations of training."""

    def phases(self, strategy: Strategy, recipe: Recipe, n_train: int) -> tuple[int, int]:
        """Iterations of the search and of the fine-tuning."""
        search, after = (setting(strategy, name, 0.0, 1000.0) for name in ("HP25", "HP1"))
        return recipe.iterations(search, n_train), recipe.iterations(after, n_train)

    def iterations(self, strategy: Strategy, recipe: Recipe, n_train: int) -> int:
        """Iterations of both phases."""
        return sum(self.phases(strategy, recipe, n_train))

    def relative_cost(self, strategy: Strategy) -> float:
        """HP1, and HP25 at the price of its iterations."""
        return setting(strategy, "HP1", 0.0, 1000.0) + self.search_cost * setting(strategy, "HP25", 0.0, 1000.0)

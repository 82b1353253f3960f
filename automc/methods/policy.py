"""A policy that divides a budget over layers, learned by trying: REINFORCE with a wall that no choice goes beyond.

Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from automc.training.seeds import seeded
from kg.adam import Adam

HIDDEN = 64
EMBEDDED = 16
"""Length of the vector that stands for the previous layer's choice."""
BATCH = 5
"""Episodes between two updates."""
LR = 5e-3
MEMORY = 0.9
"""Of the moving average that a value is compared with."""
ENTROPY = 0.01
"""Weight of the entropy at the start; it decays to 0 with the episodes."""

Choice = tuple[int, ...]
"""A width for each layer."""
Value = tuple[float, float]
"""What an episode is worth: the first counts as reward, the second decides where it is the same."""


@dataclass(frozen=True)
class Budget:
    """What is divided: layer l takes sizes[l] · width, and all together at most `total`.

    `errors` (layers, widths) are what each width costs in quality, relative to the layer, falling with the width.
    """

    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    """Ascending, one apart."""
    total: int
    errors: Tensor

    def used(self, choice: Sequence[int]) -> int:
        """What a choice takes."""
        return sum(size * width for size, width in zip(self.sizes, choice, strict=True))

    def allowed(self, layer: int, used: int) -> list[bool]:
        """Say of each width whether this layer may have it, so that the later ones can still have the least."""
        left = self.total - used - self.widths[0] * sum(self.sizes[layer + 1 :])
        return [self.sizes[layer] * width <= left for width in self.widths]

    def filled(self, choice: Sequence[int]) -> Choice:
        """Raise widths by one until no raise fits, those first that bring most for the size that they take."""
        found, left = list(choice), self.total - self.used(choice)
        while True:
            fit = [i for i, w in enumerate(found) if w < self.widths[-1] and self.sizes[i] <= left]
            if not fit:
                return tuple(found)
            best = max(fit, key=lambda i: self._error(i, found[i]) - self._error(i, found[i] + 1))
            found[best] += 1
            left -= self.sizes[best]

    def uniform(self) -> Choice:
        """The same width everywhere, and what is left of the budget."""
        width = min(self.widths[-1], self.total // max(1, sum(self.sizes)))
        return self.filled([width] * len(self.sizes))

    def cheapest(self) -> Choice:
        """The choice of about the least Σ size · error within the budget: by a price for size, or a better one."""

        def at(price: float) -> Choice:
            costs = self.errors + price * torch.tensor(self.widths)
            return tuple(self.widths[int(place)] for place in costs.argmin(1))

        low, high = 0.0, 1.0
        if self.used(at(low)) <= self.total:
            return self.filled(at(low))
        while self.used(at(high)) > self.total:
            high *= 2
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.used(at(middle)) > self.total else (low, middle)
        raised = self.filled([self.widths[0]] * len(self.sizes))
        return min(self.filled(at(high)), raised, self.uniform(), key=self.loss)

    def loss(self, choice: Sequence[int]) -> float:
        """Σ size · error of a choice."""
        return sum(size * self._error(i, w) for i, (size, w) in enumerate(zip(self.sizes, choice, strict=True)))

    def _error(self, layer: int, width: int) -> float:
        return float(self.errors[layer, width - self.widths[0]])


@dataclass(frozen=True)
class Found:
    """The best choice that was seen, what it is worth, and how many different ones were tried in how many episodes."""

    choice: Choice
    value: Value
    tried: int
    episodes: int


class _Controller(nn.Module):
    """An LSTM that walks over the layers: features, what is left and the previous choice in, widths out."""

    def __init__(self, features: int, widths: int) -> None:
        super().__init__()
        self.before = nn.Embedding(widths + 1, EMBEDDED)
        self.cell = nn.LSTMCell(features + 1 + EMBEDDED, HIDDEN)
        self.head = nn.Linear(HIDDEN, widths)


def reinforce(
    budget: Budget,
    features: Tensor,
    value: Callable[[Choice], Value],
    given: Sequence[Choice],
    episodes: int,
    seed: int,
) -> Found:
    """Return the best of `episodes` choices, of which the first are those given, and a controller draws the others.

    So the result is never worth less than what is given. Every choice is within the budget, and no single raise
    fits any more. A choice that comes again is not valued again. On the CPU, with random numbers of its own.

    Args:
        features: of each layer, (layers, any).
        value: what a choice is worth.
        given: at least one choice.
        seed: of the controller and its draws.
    """
    known: dict[Choice, Value] = {}

    def worth(choice: Choice) -> Value:
        if choice not in known:
            known[choice] = value(choice)
        return known[choice]

    for choice in given[:episodes]:
        worth(choice)
    average = sum(v[0] for v in known.values()) / len(known)
    draw = torch.Generator().manual_seed(seed)
    with seeded(seed):
        controller = _Controller(features.shape[1], len(budget.widths))
    optimizer = Adam(controller.parameters(), LR)
    spread = features.std(0, correction=0)
    scaled = (features - features.mean(0)) / torch.where(spread > 0, spread, torch.ones_like(spread))
    left = episodes - len(given)
    with torch.enable_grad():
        for start in range(0, left, BATCH):
            losses = []
            for episode in range(start, min(start + BATCH, left)):
                choice, chance, entropy = _walk(controller, budget, scaled, draw)
                reward = worth(budget.filled(choice))[0]
                losses.append(-(reward - average) * chance - ENTROPY * (1 - episode / left) * entropy)
                average = MEMORY * average + (1 - MEMORY) * reward
            optimizer.zero_grad()
            torch.autograd.backward(torch.stack(losses).mean())
            optimizer.step()
    best = max(known, key=lambda choice: known[choice])
    return Found(best, known[best], len(known), episodes)


def _walk(
    controller: _Controller, budget: Budget, features: Tensor, draw: torch.Generator
) -> tuple[Choice, Tensor, Tensor]:
    """Draw a width for each layer; return them, the logarithm of their probability and the sum of the entropies."""
    state: tuple[Tensor, Tensor] | None = None
    place, choice = len(budget.widths), list[int]()
    chance, entropy = torch.zeros(()), torch.zeros(())
    for layer, row in enumerate(features):
        used = budget.used([*choice, *[0] * (len(features) - layer)])
        share = torch.tensor([(budget.total - used) / max(1, sum(budget.sizes[layer:])) / budget.widths[-1]])
        given = torch.cat([row, share, controller.before(torch.tensor(place))])
        state = controller.cell(given[None], state)
        wall = torch.tensor(budget.allowed(layer, used))
        likely = controller.head(state[0])[0].masked_fill(~wall, -torch.inf).log_softmax(0)
        place = int(torch.multinomial(likely.detach().exp(), 1, generator=draw))
        choice.append(budget.widths[place])
        chance = chance + likely[place]
        entropy = entropy - (likely.exp() * likely.masked_fill(~wall, 0.0)).sum()
    return tuple(choice), chance, entropy

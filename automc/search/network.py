"""The recurrent network of F_mo, on top of another model of steps (AutoMC paper, section 3.3, Fig. 3 and Eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from automc.search.base import FloatArray, Indices, Limits, Outcome, Space
from kg.adam import Adam

HIDDEN = 32
BATCH = 64
STEPS = 40
"""Adam steps per told round."""
SCALE = (0.1, 0.3)
"""Typical sizes of a step's AR and PR, which make both terms of Eq. 5 weigh alike."""


class Guess(Protocol):
    """What a network corrects: (step AR, step PR) of every strategy, and of one strategy each, after prefixes."""

    def predict(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return (step AR, step PR) of every strategy, or of those `among` them, after each prefix; (p, s, 2)."""

    def pairs(self, prefixes: Sequence[Outcome], strategies: Indices) -> FloatArray:
        """Return (step AR, step PR) of one strategy after each measured prefix; (p, 2)."""


class StepNet(nn.Module):
    """The network of Fig. 3: a recurrent encoder of the prefix; its state, the strategy and the task go into an MLP.

    The first layer of the MLP is kept as its three blocks of columns [strategy | task | prefix], so that
    every strategy and every prefix passes it once and a candidate costs one addition.
    """

    def __init__(self, strategy_size: int, task_size: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.encoder = nn.GRU(strategy_size, hidden, batch_first=True)
        self.of_strategy = nn.Linear(strategy_size, hidden, bias=False)
        self.of_task = nn.Linear(task_size, hidden)
        self.of_prefix = nn.Linear(hidden + 2, hidden, bias=False)
        self.out = nn.Linear(hidden, 2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def encode(self, prefixes: Tensor, lengths: Tensor, figures: Tensor) -> Tensor:
        """Return the encoder's state after each prefix, beside the prefix's figures, (p, 2); (p, hidden + 2).

        Prefixes are their strategies' vectors, padded at the end to (p, steps, strategy_size); START has length 0.
        """
        states, _ = self.encoder(prefixes)
        # A state depends on nothing after it, so padding is harmless; START's is the initial state, zero.
        states = torch.cat([states.new_zeros(len(lengths), 1, states.shape[2]), states], dim=1)
        return torch.cat([states[torch.arange(len(lengths)), lengths], figures], dim=1)

    def pairs(self, prefixes: Tensor, strategies: Tensor, task: Tensor) -> Tensor:
        """Return the residuals of (encoded prefix, strategy) pairs, row by row; (b, 2)."""
        first = self.of_strategy(strategies) + self.of_task(task) + self.of_prefix(prefixes)
        return torch.as_tensor(self.out(torch.relu(first)))

    def grid(self, prefixes: Tensor, strategies: Tensor, task: Tensor) -> Tensor:
        """Return the residuals of every encoded prefix with every strategy; (p, n, 2)."""
        rows = self.of_prefix(prefixes) + self.of_task(task)
        columns = self.of_strategy(strategies)
        return torch.stack([self.out(torch.relu_(columns + row)) for row in rows])


class NetModel:
    """Predicts the residual on a guess, which it equals before it was trained; Adam at learning rate 0.001.

    A strategy enters as its embedding with its planned removal and cost, a prefix with its measured AR and PR.
    Deterministic for a seed, the rounds told and the number of threads.
    """

    def __init__(self, space: Space, limits: Limits, seed: int, guess: Guess, steps: int = STEPS) -> None:
        self._guess = guess
        self._base = limits.base_accuracy
        self._seed = seed
        self._steps = steps
        self._rounds = 0
        self._strategies = _tensor(strategy_vectors(space))
        self._task = _tensor(space.task)
        self._scale = torch.tensor(SCALE)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = self._built(self._strategies.shape[1], len(space.task))
        self._optimizer = Adam(self.net.parameters(), 1e-3, fused=True)

    def state(self) -> dict[str, Any]:
        """Return what was learned, for `load`."""
        return {"net": self.net.state_dict(), "moments": self._optimizer.state, "rounds": self._rounds}

    def load(self, state: dict[str, Any]) -> None:
        """Stand where another model of the same space and seed stood, before anything is learned."""
        self.net.load_state_dict(state["net"])
        self._optimizer.state, self._rounds = state["moments"], state["rounds"]

    def predict(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return (step AR, step PR) of every strategy, or of those `among` them, after each prefix; (p, s, 2)."""
        columns = self._strategies if among is None else self._strategies[torch.from_numpy(among)]
        with torch.inference_mode():
            residual = self.net.grid(self._encoded(prefixes), columns, self._task) * self._scale
        return np.asarray(self._guess.predict(prefixes, among) + residual.numpy())

    def pairs(self, prefixes: Sequence[Outcome], strategies: Indices) -> FloatArray:
        """Return (step AR, step PR) of one strategy after each measured prefix; (p, 2)."""
        with torch.inference_mode():
            vectors = self._strategies[torch.from_numpy(strategies)]
            residual = self.net.pairs(self._encoded(prefixes), vectors, self._task) * self._scale
        return np.asarray(self._guess.pairs(prefixes, strategies) + residual.numpy())

    def spread(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return the deviation of every step's AR: none is known of a network; (p, s)."""
        return np.zeros((len(prefixes), len(self._strategies if among is None else among)))

    def learn(self, steps: Sequence[tuple[Outcome, Outcome]]) -> float:
        """Train on all (parent, step) outcomes told so far; return the last loss, 0 without steps."""
        if not steps:
            return 0.0
        parents = [parent for parent, _ in steps]
        last = np.array([o.scheme[-1] for _, o in steps], dtype=np.intp)
        guess, vectors = _tensor(self._guess.pairs(parents, last)), self._strategies[torch.from_numpy(last)]
        truth = _tensor([(o.step_ar, o.step_pr) for _, o in steps])
        inputs = self._inputs(parents)
        draw = np.random.default_rng((self._seed, self._rounds))
        self._rounds += 1
        loss = torch.zeros(())
        for _ in range(self._steps):
            batch = torch.from_numpy(draw.permutation(len(steps))[:BATCH])
            encoded = self.net.encode(*(part[batch] for part in inputs))
            predicted = guess[batch] + self._scale * self.net.pairs(encoded, vectors[batch], self._task)
            loss = step_loss(predicted, truth[batch], self._scale)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return float(loss.detach())

    def _built(self, strategy_size: int, task_size: int) -> StepNet:
        """Return the network, untrained."""
        return StepNet(strategy_size, task_size)

    def _encoded(self, prefixes: Sequence[Outcome]) -> Tensor:
        return self.net.encode(*self._inputs(prefixes))

    def _inputs(self, prefixes: Sequence[Outcome]) -> tuple[Tensor, ...]:
        """Return what the network's `encode` takes of measured prefixes."""
        return (*self._padded(prefixes), self._figures(prefixes))

    def _figures(self, prefixes: Sequence[Outcome]) -> Tensor:
        """Return (AR, PR) of measured prefixes against M; (p, 2)."""
        rows = [((o.accuracy or 0.0) / self._base - 1, min(o.pr or 0.0, 0.99)) for o in prefixes]
        return _tensor(rows)

    def _padded(self, prefixes: Sequence[Outcome]) -> tuple[Tensor, Tensor]:
        """Return the prefixes' strategies, (p, steps, strategy_size), padded, and their lengths, (p)."""
        lengths = [len(o.scheme) for o in prefixes]
        steps = max(1, *lengths)
        index = [(*o.scheme, *(0,) * (steps - len(o.scheme))) for o in prefixes]
        return self._strategies[torch.tensor(index)], torch.tensor(lengths)


def step_loss(predicted: Tensor, truth: Tensor, scale: Tensor) -> Tensor:
    """Return Eq. 5: the mean distance between predicted and measured (step AR, step PR), both (b, 2).

    In units of `scale` and with Huber's loss, quadratic below 1 and linear above, because a step that
    ruins a model must not outweigh all the others.
    """
    per_figure = nn.functional.huber_loss(predicted / scale, truth / scale, reduction="none")
    return per_figure.sum(dim=1).mean()


def strategy_vectors(space: Space) -> FloatArray:
    """Return each strategy's embedding with its planned removal and cost, standardised; (n, 34) with 32 dimensions."""
    hp2 = np.where(space.closing, np.nanmean(space.hp2), space.hp2)
    extra = np.stack([hp2, np.log1p(np.maximum(space.cost, 0))], axis=1)
    return _standardise(np.concatenate([space.embeddings, extra], axis=1))


def _tensor(values: object) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float32))


def _standardise(columns: FloatArray) -> FloatArray:
    """Return the columns with mean 0 and deviation 1; constant ones become 0."""
    spread = columns.std(axis=0)
    return np.asarray((columns - columns.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0))

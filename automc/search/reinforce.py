"""Reinforcement learning: a recurrent controller writes whole schemes and is trained by REINFORCE.

The paper's RL baseline, and its ablation of the progressive search. The controller reads and chooses
strategies by their vectors, so it knows what F_mo knows of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from automc.search import register
from automc.search.base import Limits, Outcome, SchemeIndices, Searcher, Space
from automc.search.history import History, points
from automc.search.network import strategy_vectors
from automc.search.random_search import fill
from kg.adam import Adam

HIDDEN = 64
LEARNING_RATE = 5e-3
ENTROPY = 0.01
"""Weight of the policy's entropy beside the reward."""
BASELINE_DECAY = 0.9
"""Of the moving average of rewards that each reward is compared with."""
TRIES = 20
"""Schemes written in a round for each one asked, at most, before what is missing is drawn at random."""


class Controller(nn.Module):
    """An LSTM that reads a scheme step by step and scores each next strategy, and the end of the scheme."""

    vectors: Tensor

    def __init__(self, vectors: Tensor, hidden: int = HIDDEN) -> None:
        """Work on the strategies' vectors, (n, v)."""
        super().__init__()
        width = vectors.shape[1]
        self.register_buffer("vectors", vectors)
        self.start = nn.Parameter(torch.zeros(width))
        self.cell = nn.LSTMCell(width, hidden)
        self.query = nn.Linear(hidden, width)
        self.end = nn.Linear(hidden, 1)

    def forward(self, step: int | None, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Read one step (None: the start); return the scores of what may come next, (n + 1), the end last."""
        read = self.start if step is None else self.vectors[step]
        state = self.cell(read[None], state)
        strategies = self.vectors @ self.query(state[0])[0] / self.vectors.shape[1] ** 0.5
        return torch.cat([strategies, self.end(state[0])[0]]), state


@dataclass(frozen=True, eq=False)
class Episode:
    """A scheme as the controller wrote it: the log-probability of all its choices, and their entropy."""

    scheme: SchemeIndices
    log_probability: Tensor
    entropy: Tensor


@register
class ReinforceSearch(Searcher):
    """REINFORCE (Williams, 1992) with a moving-average baseline and an entropy bonus, one Adam step per ask.

    Reward of a scheme: 1 − the share of the measured schemes that dominate it − its shortfall of γ as a share
    of γ; −1 for a failure. The schemes of an ask that no other one of it extends are its episodes. Choices
    that are not admissible, and the end of a scheme that was told or is pending, have no probability. The policy has
    learned from earlier asks meanwhile: by as many as the study has under way, an episode is of an older one.
    """

    name: ClassVar[str] = "reinforce"

    def __init__(self, space: Space, limits: Limits, seed: int) -> None:
        super().__init__(space, limits, seed)
        self.history = History(self.space, limits)
        vectors = torch.from_numpy(strategy_vectors(space).astype(np.float32))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.controller = Controller(vectors)
        self._optimizer = Adam(self.controller.parameters(), LEARNING_RATE)
        self._baseline: float | None = None

    def ask(self, k: int, pending: Sequence[SchemeIndices] = ()) -> list[SchemeIndices]:
        """Return up to `k` new schemes, drawn from the policy as far as it finds new ones."""
        self.history.expect(pending)
        rng = self.history.generator(self.seed)

        def draw(_: SchemeIndices, probabilities: npt.NDArray[np.float64]) -> int:
            return int(rng.choice(len(probabilities), p=probabilities))

        asked: list[SchemeIndices] = []
        with torch.inference_mode():
            for _ in range(TRIES * k):
                episode = self._write(draw)
                if episode is not None and episode.scheme not in asked:
                    asked.append(episode.scheme)
                if len(asked) == k:
                    break
        return fill(asked, k, self.history, rng)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Reinforce the schemes of one ask by their rewards."""
        self.history.expect(())
        parents = {o.scheme[:-1] for o in outcomes}
        leaves = [o for o in outcomes if o.scheme not in parents]
        # The probabilities are those before anything of this ask is known.
        episodes = [self._replay(o.scheme) for o in leaves]
        self.history.record(outcomes)
        told = [(e, self._reward(o)) for e, o in zip(episodes, leaves, strict=True) if e is not None]
        if not told:
            return
        mean = float(np.mean([reward for _, reward in told]))
        baseline = mean if self._baseline is None else self._baseline
        self._baseline = BASELINE_DECAY * baseline + (1 - BASELINE_DECAY) * mean
        gains = [(reward - baseline) * e.log_probability + ENTROPY * e.entropy for e, reward in told]
        self._optimizer.zero_grad()
        (-torch.stack(gains).mean()).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def _replay(self, scheme: SchemeIndices) -> Episode | None:
        """Return a told scheme as the controller would have written it; None where it could not."""
        end = len(self.space.mask)

        def follow(prefix: SchemeIndices, probabilities: npt.NDArray[np.float64]) -> int:
            choice = scheme[len(prefix)] if len(prefix) < len(scheme) else end
            return choice if probabilities[choice] > 0 else -1

        return self._write(follow)

    def _write(self, choose: Callable[[SchemeIndices, npt.NDArray[np.float64]], int]) -> Episode | None:
        """Write a scheme, choice by choice; `choose` gets what is written and the probabilities, (n + 1).

        None in a dead end, or where `choose` returns −1.
        """
        scheme: SchemeIndices = ()
        state: tuple[Tensor, Tensor] | None = None
        log_probability, entropy = torch.zeros(()), torch.zeros(())
        while len(scheme) < self.limits.max_length:
            allowed = np.append(self.history.admissible(scheme), not self.history.known(scheme))
            if not allowed.any():
                return None
            scores, state = self.controller(scheme[-1] if scheme else None, state)
            logs = torch.log_softmax(scores.masked_fill(~torch.from_numpy(allowed), -torch.inf), dim=0)
            probabilities = logs.detach().double().exp().numpy()
            choice = choose(scheme, probabilities / probabilities.sum())
            if choice < 0:
                return None
            log_probability = log_probability + logs[choice]
            entropy = entropy - (logs.exp() * logs.masked_fill(logs == -torch.inf, 0.0)).sum()
            if choice == len(self.space.mask):
                return Episode(scheme, log_probability, entropy)
            scheme = (*scheme, choice)
        return None if self.history.known(scheme) else Episode(scheme, log_probability, entropy)

    def _reward(self, outcome: Outcome) -> float:
        if outcome.status != "ok" or outcome.accuracy is None or outcome.size is None:
            return -1.0
        others = points(self.history.measured())
        own = np.array([outcome.accuracy, outcome.size])
        dominated = (others >= own).all(axis=1) & (others > own).any(axis=1)
        short = max(0.0, self.limits.gamma - outcome.size) / self.limits.gamma
        short += self.limits.accuracy_short(outcome.accuracy)
        return float(1 - dominated.mean() - short)

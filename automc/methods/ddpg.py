"""A policy that gives every layer its share, learned by trying: an actor and a critic on continuous actions.

Lillicrap et al. 2016, "Continuous Control with Deep Reinforcement Learning", with the settings of AMC's code.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automc.methods.policy import Choice, Value
from automc.training.seeds import seeded
from kg.adam import Adam

HIDDEN = 300
LR_ACTOR, LR_CRITIC = 1e-4, 1e-3
FOLLOW = 0.01
"""How far the networks that give targets move towards the learning ones at each update."""
BATCH = 64
REPLAY = 100
"""Episodes whose transitions are remembered."""
MEMORY = 0.95
"""Of the moving average that a value is compared with."""
UNIFORM = 0.25
"""Share of the episodes with actions at random."""
SPREAD, LAST_SPREAD = 0.5, 0.02
"""Standard deviation around the actor's action in the first and the last of the other episodes."""


class Walk(Protocol):
    """What an episode goes through, step by step; every walk that keeps to `bounded` meets the budget."""

    length: int
    features: int

    def state(self, done: Sequence[int], last: float) -> Tensor:
        """What is known before step len(done), (features,), each about in [0, 1]; `last`: the action before."""

    def bounded(self, done: Sequence[int], action: float) -> int:
        """What an action in [0, 1] comes to at step len(done), within what the budget needs."""

    def action(self, step: int, chosen: int) -> float:
        """The action in [0, 1] that stands for a choice."""


@dataclass(frozen=True, slots=True)
class _Transition:
    state: Tensor
    action: float
    reward: float
    after: Tensor
    last: bool


class _Critic(nn.Module):
    """Says what an action is worth in a state."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.of_state, self.of_action = nn.Linear(features, HIDDEN), nn.Linear(1, HIDDEN)
        self.hidden, self.head = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        met = F.relu(self.of_state(state) + self.of_action(action))
        out: Tensor = self.head(F.relu(self.hidden(met)))
        return out


class Agent:
    """The actor, the critic, and what they remember. On the CPU, with random numbers of its own."""

    def __init__(self, features: int, length: int, seed: int) -> None:
        with seeded(seed):
            self.actor: nn.Module = nn.Sequential(
                nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1),
                nn.Sigmoid(),
            )  # fmt: skip
            self.critic = _Critic(features)
        self._slow = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self._optimizers = (
            Adam(self.actor.parameters(), LR_ACTOR, fused=True),
            Adam(self.critic.parameters(), LR_CRITIC, fused=True),
        )
        self.draws = torch.Generator().manual_seed(seed)
        self._seen: deque[_Transition] = deque(maxlen=REPLAY * length)

    def act(self, state: Tensor, spread: float | None) -> float:
        """Draw an action around the actor's, from the part of the normal that lies in [0, 1]; None: any."""
        if spread is None:
            return float(torch.rand((), generator=self.draws))
        with torch.no_grad():
            mean = float(self.actor(state))
        drawn = torch.empty(1)
        nn.init.trunc_normal_(drawn, mean, spread, 0.0, 1.0, generator=self.draws)
        return float(drawn)

    def remember(self, states: Sequence[Tensor], actions: Sequence[float], reward: float) -> None:
        """Keep an episode; each of its transitions has the reward that came at its end."""
        for t, (state, action) in enumerate(zip(states, actions, strict=True)):
            last = t + 1 == len(states)
            self._seen.append(_Transition(state, action, reward, state if last else states[t + 1], last))

    @torch.enable_grad()
    def learn(self, times: int) -> None:
        """Update both networks so often, each time on transitions drawn from memory. Rewards are not discounted."""
        all_states, all_after = (torch.stack([getattr(t, name) for t in self._seen]) for name in ("state", "after"))
        figures = torch.tensor([[t.action, t.reward, float(not t.last)] for t in self._seen])
        for _ in range(times):
            drawn = torch.randint(len(figures), (BATCH,), generator=self.draws)
            states, after = all_states[drawn], all_after[drawn]
            actions, rewards, goes_on = (figures[drawn, i : i + 1] for i in range(3))
            with torch.no_grad():
                wanted = rewards + goes_on * self._slow[1](after, self._slow[0](after))
            self._update(1, F.mse_loss(self.critic(states, actions), wanted))
            self._update(0, -self.critic(states, self.actor(states)).mean())
            with torch.no_grad():
                for slow, fast in zip(self._slow, (self.actor, self.critic), strict=True):
                    for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
                        old.lerp_(new, FOLLOW)

    def _update(self, which: int, loss: Tensor) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._optimizers[which].step()


def search(
    walk: Walk, value: Callable[[Choice], Value], given: Sequence[Choice], episodes: int, seed: int
) -> dict[Choice, Value]:
    """Return all choices of `episodes` walks with what they are worth: first those given, then the agent's.

    A choice that comes again is not valued again. A quarter of the episodes walk at random; then noise around the
    actor's actions falls, and after each episode there is an update for each of its steps.

    Args:
        value: what a choice is worth; the first counts as reward, the second decides where it is the same.
        given: choices that keep to the budget; the agent learns from them too.
        seed: of the agent and its draws.
    """
    agent, known, average = Agent(walk.features, walk.length, seed), dict[Choice, Value](), 0.0
    random = round(UNIFORM * episodes)
    for episode in range(episodes):
        fixed = given[episode] if episode < len(given) else None
        spread = None
        if episode >= random:
            spread = SPREAD * (LAST_SPREAD / SPREAD) ** ((episode - random) / max(1, episodes - 1 - random))
        done, states, actions = list[int](), list[Tensor](), list[float]()
        for t in range(walk.length):
            states.append(walk.state(done, actions[-1] if actions else 0.0))
            chosen = fixed[t] if fixed is not None else walk.bounded(done, agent.act(states[-1], spread))
            actions.append(walk.action(t, chosen))
            done.append(chosen)
        choice = tuple(done)
        if choice not in known:
            known[choice] = value(choice)
        reward = known[choice][0]
        average = reward if not episode else MEMORY * average + (1 - MEMORY) * reward
        agent.remember(states, actions, reward - average)
        if episode >= random:
            agent.learn(walk.length)
    return known

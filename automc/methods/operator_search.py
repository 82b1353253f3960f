"""Which operator each convolution of a model gets, and which residual branches go: scores, and the choice by them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import cast

import torch
from torch import Tensor, nn

from automc.models.measure import count_params
from automc.surgery.branches import Branch, Bypassed
from automc.surgery.knapsack import Option, filled, knapsack
from automc.surgery.lowrank import Site, energies, factor, sites, write
from automc.surgery.operators import Built, LowRank, Mixed, Operator, mixed
from automc.surgery.ranks import choose_ranks, raise_cost
from automc.training.seeds import derived

SECONDS = 120.0
"""Of this thread's processor time, to make the operators; convolutions that have none by then stay, the smallest."""
TOGETHER = 4096
"""Most choices within a residual branch; where there are more, the branch stays and only its layers choose."""


@dataclass(frozen=True)
class Choice:
    """What one option stands for: operators by place, or a branch that goes."""

    operators: tuple[tuple[Site, int], ...] = ()
    dropped: Branch | None = None


@dataclass(frozen=True)
class Item:
    """What is chosen at once: a convolution, or a residual branch with all of its convolutions."""

    options: list[Option]
    choices: list[Choice]


class OperatorSearch:
    """A model whose convolutions are mixtures of operators while it searches.

    Args:
        model: changed in place, by `enter`, `leave` and `build`.
        found: convolutions, see `operators.searched`.
        branches: residual branches.
        divisor: HP26, mixtures are in one of so many output channels; which ones is drawn.
        seed: of the draw.
        keep: patterns of layers that must not be factored.
        seconds: default SECONDS.
    """

    def __init__(
        self, model: nn.Module, found: Sequence[Site], branches: Sequence[Branch], divisor: int, seed: int,
        keep: Sequence[str] = (), seconds: float | None = None,
    ) -> None:  # fmt: skip
        self.model, self.divisor, self.keep, self.params = model, divisor, keep, count_params(model)
        device = next(model.parameters()).device
        deadline = time.thread_time() + (SECONDS if seconds is None else seconds)
        self.mixed: dict[Site, Mixed] = {}
        self.late = 0
        for site in sorted(found, key=lambda one: (-one.cost, one.name)):
            if time.thread_time() > deadline:
                self.late += 1
                continue
            mixture = mixed(model, site, _rows(model, site, divisor, seed).to(device))
            if len(mixture.operators) > 1:
                self.mixed[site] = mixture
        self.bypassed = {
            branch: Bypassed(model.get_submodule(branch.name), branch.rest, device)
            for branch in branches
            if prod(len(m.operators) for s, m in self.mixed.items() if branch.holds(s.name)) <= TOGETHER
        }

    @property
    def scores(self) -> list[Tensor]:
        """Scores of the operators at each convolution, and of each branch and what is left without it."""
        return [*(m.alpha for m in self.mixed.values()), *(b.beta for b in self.bypassed.values())]

    def enter(self) -> None:
        """Put the mixtures into the model."""
        for site, mixture in self.mixed.items():
            self.model.set_submodule(site.name, mixture.train(self.model.get_submodule(site.name).training))
            if site.second is not None:
                self.model.set_submodule(site.second, nn.Identity())
        for branch, bypassed in self.bypassed.items():
            self.model.set_submodule(branch.name, bypassed.train(bypassed.block.training))

    def leave(self) -> None:
        """Take them out: the layers are back, as trained."""
        for branch, bypassed in self.bypassed.items():
            self.model.set_submodule(branch.name, bypassed.block)
        for site, mixture in self.mixed.items():
            kept = mixture.operators[0]
            self.model.set_submodule(site.name, cast(nn.Module, kept.first))
            if site.second is not None:
                self.model.set_submodule(site.second, cast(nn.Module, kept.last))

    def expected(self) -> Tensor:
        """Parameters of the model, expected over the shares of the operators and branches; differentiable."""
        costs = {site: m.alpha.softmax(0) @ self._costs(m) for site, m in self.mixed.items()}
        total = torch.zeros((), device=next(iter(self.scores)).device) + self.params
        inside: set[Site] = set()
        for branch, bypassed in self.bypassed.items():
            own = [site for site in costs if branch.holds(site.name)]
            rest = branch.params - sum(site.cost for site in own)
            within = sum((costs[site] for site in own), torch.zeros_like(total) + rest)
            total = total - branch.params + bypassed.beta.softmax(0)[0] * within
            inside.update(own)
        return total + sum((costs[s] - s.cost for s in costs if s not in inside), torch.zeros_like(total))

    def _costs(self, mixture: Mixed) -> Tensor:
        return torch.tensor([float(cast(Operator, o).params) for o in mixture.operators], device=mixture.alpha.device)

    def items(self) -> list[Item]:
        """List what can be chosen, with its parameters and by how much its score is below the best of its place.

        A branch as a whole, with all choices of its convolutions: below the best, as there are more scores in it than
        in what is left without it.
        """
        found, inside = list[Item](), set[Site]()
        for branch, bypassed in self.bypassed.items():
            own = [site for site in self.mixed if branch.holds(site.name)]
            inside.update(own)
            rest = branch.params - sum(site.cost for site in own)
            stays, goes = _below_best(bypassed.beta)
            item = Item([(0, goes)], [Choice(dropped=branch)])
            for places in product(*(range(len(self.mixed[site].operators)) for site in own)):
                picked = tuple(zip(own, places, strict=True))
                parts = [self._option(site, place) for site, place in picked]
                item.options.append((rest + sum(cost for cost, _ in parts), stays + sum(worth for _, worth in parts)))
                item.choices.append(Choice(picked))
            found.append(item)
        for site, mixture in self.mixed.items():
            if site not in inside:
                every = range(len(mixture.operators))
                found.append(Item([self._option(site, p) for p in every], [Choice(((site, p),)) for p in every]))
        return found

    def _option(self, site: Site, place: int) -> Option:
        mixture = self.mixed[site]
        return cast(Operator, mixture.operators[place]).params, _below_best(mixture.alpha)[place]

    def fixed(self, items: Sequence[Item]) -> int:
        """Parameters that no choice changes."""
        return self.params - sum(max(cost for cost, _ in item.options) for item in items)

    def least(self, items: Sequence[Item]) -> int:
        """Parameters that are left with the cheapest of everything, and rank 1 in other layers that may be factored."""
        left = self.fixed(items) + sum(min(cost for cost, _ in item.options) for item in items)
        others = [site for site in sites(self.model, self.keep) if site.kind != "spatial"]
        apart = [site for site in others if not any(branch.holds(site.name) for branch in self.bypassed)]
        return left - sum(site.cost - site.params(1) for site in apart)

    def choose(self, items: Sequence[Item], target: int) -> list[int]:
        """Choose an option of each item: the best scores within the target, then the dearest that still fit."""
        options, budget = [item.options for item in items], target - self.fixed(items)
        return filled(options, knapsack(options, budget), budget)

    def build(self, items: Sequence[Item], chosen: Sequence[int], target: int) -> dict[str, str]:
        """Put the chosen operators into the model; return what each changed place got, by name.

        Ranks of those of low rank are chosen anew, where they retain most energy within the target. An operator starts
        with the weights that the search gave it where it trained all of them, otherwise with those nearest to the
        layer's own; so does a rank above the one that was searched.
        """
        picked = [item.choices[place] for item, place in zip(items, chosen, strict=True)]
        said: dict[str, str] = {}
        low: list[LowRank] = []
        for site, place in (pair for choice in picked for pair in choice.operators):
            kept, operator = self.mixed[site].operators[0], cast(Operator, self.mixed[site].operators[place])
            if isinstance(operator, LowRank):
                low.append(operator)
            elif isinstance(operator, Built):
                if self.divisor > 1:
                    operator.start(cast(Operator, kept).kernel())
                layer = cast(nn.Conv2d, kept.first)
                self.model.set_submodule(site.name, operator.layers(layer).train(layer.training))
                said[site.name] = operator.name
        for branch in (choice.dropped for choice in picked if choice.dropped is not None):
            training = self.model.get_submodule(branch.name).training
            self.model.set_submodule(branch.name, branch.rest.train(training))
            said[branch.name] = "dropped"
        self.reduced = self._factored(low, target)
        return said | {site.name: f"rank {rank}, {site.form}" for site, rank in self.reduced}

    def _factored(self, low: Sequence[LowRank], target: int) -> list[tuple[Site, int]]:
        """Factor layers: those of low rank, and only where these are not enough the 1×1 and the linear ones."""
        found = [operator.site for operator in low]
        if count_params(self.model) - sum(site.cost - site.params(1) for site in found) > target:
            found += [site for site in sites(self.model, self.keep) if site.kind != "spatial"]
        if not found:
            return []
        spectra = [energies(self.model, site) for site in found]
        chosen, ranks, _ = choose_ranks(found, count_params(self.model), target, spectra)
        reduced = [(site, rank) for site, rank in zip(chosen, ranks, strict=True) if rank <= site.levels]
        searched = {operator.site: operator for operator in low}
        for site, rank in reduced:
            operator = searched.get(site)
            if operator is not None and self.divisor == 1 and site.second is None and rank <= operator.rank:
                write(self.model, site, operator.left.detach() @ operator.right.detach())
            factor(self.model, site, rank)
        return reduced

    @property
    def unit(self) -> int:
        """Parameters of the cheapest rank that is missing after `build`; 0 where no layer is of low rank."""
        return min((raise_cost(site, rank) or 0 for site, rank in self.reduced), default=0)


def _below_best(scores: Tensor) -> list[float]:
    values = scores.detach().double()
    found: list[float] = (values - values.max()).tolist()
    return found


def _rows(model: nn.Module, site: Site, divisor: int, seed: int) -> Tensor:
    """The output channels of a convolution in which operators are mixed, sorted."""
    outputs = len(cast(Tensor, model.get_submodule(site.layers[-1]).weight))
    draw = torch.Generator().manual_seed(derived(seed, "rows", site.name))
    return torch.randperm(outputs, generator=draw)[: max(1, -(-outputs // divisor))].sort().values

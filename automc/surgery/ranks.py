"""What a rank costs, and ranks that meet a parameter budget exactly."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

Kind = Literal["spatial", "pointwise", "linear"]
KINDS: tuple[Kind, ...] = ("spatial", "pointwise", "linear")


class Reducible(Protocol):
    """What can be written with fewer weights: level 1 has the fewest, beyond `levels` it stays as it is."""

    @property
    def kind(self) -> Kind:
        """What sort of layer it is."""
        ...

    @property
    def full(self) -> int:
        """Level at which any weights are represented exactly."""
        ...

    @property
    def levels(self) -> int:
        """Largest level that is cheaper than the site as it is."""
        ...

    @property
    def cost(self) -> int:
        """Weights of the site as it is, without bias."""
        ...

    def params(self, rank: int) -> int:
        """Weights at a level."""
        ...


R = TypeVar("R", bound=Reducible)


def solve_ranks(found: Sequence[Reducible], budget: int) -> list[int]:
    """Ranks whose weights sum to at most `budget`, and no rank lower than it must be.

    Every site gets rank max(1, ⌊a · full⌋) for one common a, found by bisection; a site stays as it is where
    that would cost as much (rank `levels` + 1). Then single ranks are raised, in order, while they fit, so what
    is left of the budget is below the cost of the cheapest raise. All ranks are 1 where the budget is too small.
    """

    def at(share: float) -> list[int]:
        return [min(max(1, int(share * site.full + 1e-9)), site.levels + 1) for site in found]

    return _solved(found, budget, at)


def solve_energy(found: Sequence[Reducible], budget: int, energies: Sequence[Sequence[float]]) -> list[int]:
    """Ranks whose weights sum to at most `budget`, every site retaining one common share of its energy or more.

    The largest such share, found by bisection; then single ranks are raised, in order, while they fit. Weights that
    have such ranks already keep them.

    Args:
        energies: see `spend`.
    """

    def at(share: float) -> list[int]:
        needed = (bisect_left(energy, share) + 1 for energy in energies)
        return [min(rank, site.levels + 1) for site, rank in zip(found, needed, strict=True)]

    return _solved(found, budget, at)


def _solved(found: Sequence[Reducible], budget: int, at: Callable[[float], list[int]]) -> list[int]:
    """The largest ranks `at` a share from 0 to 1 that fit, then single ranks raised, in order, while they fit."""

    def total(ranks: Sequence[int]) -> int:
        return sum(site.params(rank) for site, rank in zip(found, ranks, strict=True))

    low, high = 0.0, 1.0 + 1e-6
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if total(at(middle)) <= budget else (low, middle)
    ranks = at(low)
    left = budget - total(ranks)
    raised = True
    while raised:
        raised = False
        for position, site in enumerate(found):
            price = raise_cost(site, ranks[position])
            if price is not None and price <= left:
                ranks[position] += 1
                left -= price
                raised = True
    return ranks


def spend(found: Sequence[Reducible], budget: int, energies: Sequence[Sequence[float]]) -> list[int]:
    """Ranks whose weights sum to at most `budget`, raised one by one where a parameter retains most energy.

    From rank 1 everywhere; what is left of the budget is below the cost of the cheapest raise. All ranks are 1 where
    the budget is too small.

    Args:
        energies: for each site the share of its energy (squared weights) that each rank retains, from rank 1 up; a site
            that stays as it is retains 1.
    """
    ranks = [1] * len(found)
    left = budget - sum(site.params(1) for site in found)
    queue: list[tuple[float, int, int]] = []

    def offer(position: int) -> None:
        site, rank = found[position], ranks[position]
        price = raise_cost(site, rank)
        if price is not None:
            after = 1.0 if rank == site.levels else energies[position][rank]
            heapq.heappush(queue, ((energies[position][rank - 1] - after) / price, position, price))

    for position in range(len(found)):
        offer(position)
    while queue:
        _, position, price = heapq.heappop(queue)
        if price <= left:
            ranks[position] += 1
            left -= price
            offer(position)
    return ranks


def raise_cost(site: Reducible, rank: int) -> int | None:
    """Parameters that one rank more costs; None where the site is not reduced."""
    return site.params(rank + 1) - site.params(rank) if rank <= site.levels else None


def choose_ranks(
    found: Sequence[R], params_in: int, target: int, energies: Sequence[Sequence[float]] | None = None,
    rule: Callable[[Sequence[Reducible], int, Sequence[Sequence[float]]], list[int]] = spend,
) -> tuple[list[R], list[int], int]:  # fmt: skip
    """Pick what is factored and to which rank: k×k convolutions first, 1×1 and then linear layers where needed.

    Ranks are in proportion to what would be exact, see `solve_ranks`; with `energies`, one for each of `found`, they go
    by `rule`: where they retain most, see `spend`, or the same everywhere, see `solve_energy`. Returns the sites
    considered, their ranks, and the parameters that are left.
    """
    chosen: list[R] = []
    ranks: list[int] = []
    params = params_in
    for kind in KINDS:
        wider = [site for site in found if KINDS.index(site.kind) <= KINDS.index(kind)]
        if len(wider) == len(chosen):
            continue
        chosen = wider
        rest = params_in - sum(site.cost for site in chosen)
        if energies is None:
            ranks = solve_ranks(chosen, target - rest)
        else:
            spectra = [energy for site, energy in zip(found, energies, strict=True) if site in chosen]
            ranks = rule(chosen, target - rest, spectra)
        params = rest + sum(site.params(rank) for site, rank in zip(chosen, ranks, strict=True))
        if params <= target:
            break
    return chosen, ranks, params

"""Bits for every layer: never over the budget, nothing left that fits, never worse than what is given."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from group_nets import build
from hypothesis import given, settings
from hypothesis import strategies as st

from automc import methods
from automc.methods.dnq import WIDTHS
from automc.methods.policy import Budget, Choice, Value, reinforce
from automc.surgery.levels import uniform
from kg.schema import Strategy

ERRORS = torch.tensor([[4.0 ** -(w - 2) * scale for w in WIDTHS] for scale in (1.0, 0.1, 0.5, 0.01)])
SIZES = (100, 400, 50, 900)


def budget(mean: float, sizes: tuple[int, ...] = SIZES) -> Budget:
    return Budget(sizes, WIDTHS, int(mean * sum(sizes)), ERRORS[: len(sizes)])


def fits(wall: Budget, choice: Choice) -> bool:
    return wall.used(choice) <= wall.total and not any(
        w < 8 and wall.used(choice) + size <= wall.total for w, size in zip(choice, wall.sizes, strict=True)
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(mean=st.floats(2, 8), picks=st.lists(st.integers(0, 6), min_size=4, max_size=4))
def test_no_walk_goes_over_the_wall_and_nothing_is_left_that_fits(mean: float, picks: list[int]) -> None:
    wall, choice = budget(mean), list[int]()
    for layer, pick in enumerate(picks):
        may = wall.allowed(layer, wall.used([*choice, *[0] * (4 - layer)]))
        allowed = [width for width, fine in zip(WIDTHS, may, strict=True) if fine]
        assert allowed
        choice.append(allowed[min(pick, len(allowed) - 1)])
    assert wall.used(choice) <= wall.total
    for found in (wall.filled(choice), wall.uniform(), wall.cheapest()):
        assert fits(wall, found), found


def test_the_cheapest_is_near_the_best_and_better_than_uniform() -> None:
    wall = budget(4.5)
    best = min((c for c in product(WIDTHS, repeat=4) if wall.used(c) <= wall.total), key=wall.loss)
    assert wall.loss(best) <= wall.loss(wall.cheapest()) < 1.5 * wall.loss(best)
    assert wall.loss(wall.cheapest()) <= wall.loss(wall.uniform())
    assert budget(3).loss(budget(3).cheapest()) < budget(3).loss(budget(3).uniform())


def worth(choice: Choice) -> Value:
    """The second layer needs many bits, the others hardly any."""
    return (choice[1] - 0.1 * sum(choice)) / 10, 0.0


def test_two_episodes_are_the_better_of_what_is_given() -> None:
    wall = budget(4)
    start = [wall.uniform(), wall.cheapest()]
    found = reinforce(wall, torch.rand(4, 3), worth, start, 2, seed=0)
    assert found.choice == max(start, key=worth)
    assert (found.tried, found.episodes) == (2, 2)


def test_more_episodes_find_better_ones_and_the_same_seed_the_same() -> None:
    wall, seen = budget(4), list[Choice]()

    def watched(choice: Choice) -> Value:
        seen.append(choice)
        return worth(choice)

    start = [wall.uniform(), wall.cheapest()]
    found = reinforce(wall, torch.rand(4, 3), watched, start, 120, seed=0)
    assert found.value > max(worth(choice) for choice in start)
    assert found.value == max(worth(choice) for choice in seen)
    assert len(seen) == len(set(seen)) == found.tried
    assert all(fits(wall, choice) for choice in seen)
    again = reinforce(wall, torch.rand(4, 3), worth, start, 20, seed=1)
    features = torch.eye(4)
    assert reinforce(wall, features, worth, start, 20, 1) == reinforce(wall, features, worth, start, 20, 1)
    assert again.episodes == 20


def test_the_controller_learns_what_pays() -> None:
    layers, seen = 10, list[Value]()
    wall = Budget((100,) * layers, WIDTHS, 450 * layers, ERRORS[:1].expand(layers, -1))

    def pays(choice: Choice) -> Value:
        seen.append((sum(choice[::2]) / sum(choice), 0.0))
        return seen[-1]

    reinforce(wall, torch.eye(layers), pays, [wall.uniform()], 400, seed=2)
    early, late = seen[1:60], seen[-60:]
    assert sum(v for v, _ in late) / 60 > sum(v for v, _ in early) / 59 + 0.03


def test_dnq_divides_its_bits_within_the_budget(context) -> None:
    model = build("vgg")
    found, report = methods.get("DNQ").apply(
        model, Strategy.parse("DNQ[HP1=0.1,HP17=8,HP22=3.5,HP24=distance]"), context(1)
    )
    bits = report.details["bits"]
    assert (bits["features.0"], bits["fc"]) == (8, 8)
    sizes = {n: m.weight.numel() for n, m in found.named_modules() if n in bits and n not in ("features.0", "fc")}
    used, total = sum(bits[n] * size for n, size in sizes.items()), int(3.5 * sum(sizes.values()))
    assert used <= total
    assert all(bits[n] == 8 or used + size > total for n, size in sizes.items())
    assert len({bits[n] for n in sizes}) > 1
    assert report.details["mean_bits"] == pytest.approx(used / sum(sizes.values()))
    assert 2 <= report.details["tried"] <= report.details["episodes"] == 8


def test_errors_fall_with_the_bits() -> None:
    weight = build("resnet-a").layer2[0].conv1.weight
    errors = [uniform(weight, b).error(weight) for b in WIDTHS]
    assert errors == sorted(errors, reverse=True)

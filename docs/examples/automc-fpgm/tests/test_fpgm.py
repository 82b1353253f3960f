"""FPGM's choice of filters against plain loops, and against what the paper says of it."""
# ruff: noqa: D103

from __future__ import annotations

import math

import pytest
import torch
from automc_fpgm.fpgm import filters, replaceable
from torch import nn

from automc.surgery.groups import Groups


def brute(rows: list[list[float]], count: int, norm_share: float, distance: str) -> list[int]:
    """Sums of distances one by one."""
    norms = [math.hypot(*row) for row in rows]
    by_norm = sorted(range(len(rows)), key=lambda i: norms[i])[: round(norm_share * count)]
    rest = [i for i in range(len(rows)) if i not in by_norm]

    def apart(a: int, b: int) -> float:
        if distance == "l2":
            return math.dist(rows[a], rows[b])
        return 1 - sum(x * y for x, y in zip(rows[a], rows[b], strict=True)) / norms[a] / norms[b]

    sums = {i: sum(apart(i, j) for j in rest if j != i) for i in rest}
    return by_norm + sorted(rest, key=lambda i: sums[i])[: count - len(by_norm)]


@pytest.mark.parametrize("distance", ["l2", "cos"])
@pytest.mark.parametrize("norm_share", [0.0, 0.25, 1.0])
def test_the_sums_are_those_of_plain_loops(norm_share: float, distance: str) -> None:
    rows = torch.randn(12, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for count in (0, 1, 4, 10):
        assert replaceable(rows, count, norm_share, distance) == brute(rows.tolist(), count, norm_share, distance)


def test_the_middle_goes_and_the_small_stays() -> None:
    # The paper's Figure 1: all norms are large, or the small ones are far from the others.
    rows = torch.tensor([[5.0, 1.0], [5.0, -1.0], [5.1, 0.1], [5.0, 0.0], [0.1, 0.0]])
    assert replaceable(rows, 1, 0.0, "l2") == [3]
    assert replaceable(rows, 1, 1.0, "l2") == [4]


def test_a_filter_is_its_row_of_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    )
    groups = Groups(model, torch.zeros(1, 3, 8, 8))
    (group,) = groups.groups
    expected = model[0].weight.detach().flatten(1).double()
    torch.testing.assert_close(filters(groups, group), expected, rtol=1e-5, atol=1e-6)

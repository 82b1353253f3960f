"""Fronts and hypervolumes against brute force on sets full of ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automc.search.pareto import hypervolume, hypervolume_gain, non_dominated, staircase

# A coarse lattice makes ties and duplicates the rule.
LATTICE = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=0, max_size=40)
REFERENCE = (1.0, 2.0)


def array(points):
    return np.array(points, dtype=float).reshape(-1, 2)


def cells(points, reference):
    """Area by counting unit cells, which is exact on the lattice."""
    return sum(
        any(x >= i + 1 and y >= j + 1 for x, y in points)
        for i in range(int(reference[0]), 7)
        for j in range(int(reference[1]), 7)
    )


@given(LATTICE)
@settings(max_examples=300, deadline=None)
def test_front_is_what_nothing_dominates(points):
    expected = [not any((q[0] >= p[0] and q[1] >= p[1] and q != p) for q in points) for p in points]
    assert non_dominated(array(points)).tolist() == expected


@given(LATTICE)
@settings(max_examples=200, deadline=None)
def test_hypervolume_counts_cells(points):
    assert hypervolume(array(points), REFERENCE) == pytest.approx(cells(points, REFERENCE))


@given(LATTICE, LATTICE.filter(bool))
@settings(max_examples=200, deadline=None)
def test_gain_is_the_difference_of_hypervolumes(points, candidates):
    gains = hypervolume_gain(array(candidates), array(points), REFERENCE)
    base = cells(points, REFERENCE)
    assert gains.tolist() == pytest.approx([cells([*points, c], REFERENCE) - base for c in candidates])


def test_staircase_is_strictly_monotonic():
    stairs = staircase(np.random.default_rng(0).random((500, 2)), (0.0, 0.0))
    assert len(stairs) > 3
    assert (np.diff(stairs[:, 0]) > 0).all()
    assert (np.diff(stairs[:, 1]) < 0).all()

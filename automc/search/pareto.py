"""Pareto fronts of two objectives, both to be maximised, such as accuracy and parameters removed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from automc.search.base import FloatArray


def non_dominated(points: FloatArray) -> npt.NDArray[np.bool_]:
    """Tell which of the points, (n, 2), no other dominates; (n,).

    A point dominates another when it is at least as good in both objectives and better in one, so
    equal points are all kept. O(n log n): sorted by the first objective, compared with a running maximum.
    """
    points = np.asarray(points, dtype=float).reshape(-1, 2)
    if not len(points):
        return np.zeros(0, dtype=bool)
    order = np.lexsort((-points[:, 1], -points[:, 0]))
    first, second = points[order, 0], points[order, 1]
    starts = np.concatenate(([True], first[1:] != first[:-1]))
    group = np.cumsum(starts) - 1
    # Within a group of equal first objectives the best second one leads; all groups before are better in the first.
    leaders = second[starts]
    before = np.concatenate(([-np.inf], np.maximum.accumulate(leaders)[:-1]))
    kept = (second == leaders[group]) & (leaders > before)[group]
    mask = np.zeros(len(points), dtype=bool)
    mask[order[kept]] = True
    return mask


def staircase(points: FloatArray, reference: tuple[float, float]) -> FloatArray:
    """Return the distinct non-dominated points beyond `reference` in both, (m, 2), first objective ascending."""
    points = np.asarray(points, dtype=float).reshape(-1, 2)
    points = points[(points > np.asarray(reference)).all(axis=1)]
    return np.unique(points[non_dominated(points)], axis=0)


def hypervolume(points: FloatArray, reference: tuple[float, float]) -> float:
    """Return the area dominated by the points, (n, 2), beyond the reference point; 0 for none."""
    stairs = staircase(points, reference)
    widths = np.diff(stairs[:, 0], prepend=reference[0])
    return float(np.sum(widths * (stairs[:, 1] - reference[1])))


def hypervolume_gain(candidates: FloatArray, points: FloatArray, reference: tuple[float, float]) -> FloatArray:
    """Return what each candidate, (n, 2), alone would add to the hypervolume of the points; (n,), never negative."""
    candidates = np.asarray(candidates, dtype=float).reshape(-1, 2) - reference
    stairs = staircase(points, reference) - reference
    left = np.concatenate(([0.0], stairs[:, 0]))
    height = np.concatenate((stairs[:, 1], [0.0]))
    # Whole columns of the staircase between where the candidate rises above it and where the candidate ends, by sums
    # up to each column; and the part of the column in which it ends.
    widths = np.diff(left)
    width = np.concatenate(([0.0], np.cumsum(widths)))
    area = np.concatenate(([0.0], np.cumsum(widths * height[:-1])))
    x, y = candidates[:, 0], candidates[:, 1]
    ends = np.searchsorted(stairs[:, 0], x)
    rises = np.searchsorted(-height, -y, side="right")
    above = np.minimum(rises, ends)
    whole = y * (width[ends] - width[above]) - (area[ends] - area[above])
    gain = whole + (x - left[ends]) * (y - height[ends])
    return np.where((rises <= ends) & (x > 0), np.maximum(gain, 0.0), 0.0)


def non_dominated_first(predicted: FloatArray, least: int) -> npt.NDArray[np.intp]:
    """Return the indices of the Pareto set, and of the sets below it until there are `least`."""
    rest = np.arange(len(predicted))
    layers: list[npt.NDArray[np.intp]] = []
    while len(rest) and sum(map(len, layers)) < least:
        best = non_dominated(predicted[rest])
        layers.append(rest[best])
        rest = rest[~best]
    return np.concatenate(layers) if layers else rest

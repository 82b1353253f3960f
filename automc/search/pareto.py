"""Pareto fronts of two objectives, both to be maximised, such as accuracy and parameters removed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from automc.search.base import FloatArray

Indices = npt.NDArray[np.intp]


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
    candidates = np.asarray(candidates, dtype=float).reshape(-1, 2)
    stairs = staircase(points, reference)
    left = np.concatenate(([reference[0]], stairs[:, 0]))
    right = np.concatenate((stairs[:, 0], [np.inf]))
    height = np.concatenate((stairs[:, 1], [reference[1]]))
    # Column by column of the staircase: how far the candidate reaches into it, times how far above it.
    width = np.clip(np.minimum(candidates[:, :1], right) - left, 0, None)
    return np.asarray((width * np.clip(candidates[:, 1:] - height, 0, None)).sum(axis=1))

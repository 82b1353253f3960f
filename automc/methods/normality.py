"""How Gaussian the weights of layers are, how far filters are from it, and the scores that channels get from both."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are loaded when first used: scipy.stats takes a second that most commands need not wait
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from automc.surgery.groups import Group, Groups

GLOBAL = ("P1", "P2", "P3")
"""Criteria of layers."""
LOCAL = ("l1norm", "k34", "skew_kur")
"""Criteria of filters."""
FEWEST = 9
"""Weights below which a sample says nothing about its distribution."""

_TINY = 1e-300
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer says about its group: `gaussian` is larger the more Gaussian its weights are.

    `places`, (units,), are the units' places by the local criterion, from 0 for the least important.
    """

    group: int
    gaussian: float
    places: np.ndarray


def gaussianity(weights: np.ndarray, criterion: str) -> float:
    """How Gaussian a sample is: larger is more so; NaN for fewer than nine weights, or where it is not defined.

    P1: the Shapiro-Wilk statistic W, at most 1. P2: −log₁₀ of the Jarque-Bera statistic. P3: −log₁₀|k₃·k₄|, the
    k-statistics of the standardised weights. None depends on the weights' scale.
    """
    sample = np.asarray(weights, np.float64).ravel()
    if len(sample) < FEWEST:
        return float("nan")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # constant samples; p-values of large ones, which nobody reads
        if criterion == "P1":
            return float(scipy.stats.shapiro(sample).statistic)
        if criterion == "P2":
            return float(-np.log10(np.maximum(scipy.stats.jarque_bera(sample).statistic, _TINY)))
        sample = (sample - sample.mean()) / sample.std()
        return float(-np.log10(np.maximum(abs(scipy.stats.kstat(sample, 3) * scipy.stats.kstat(sample, 4)), _TINY)))


def importance(filters: np.ndarray, criterion: str) -> np.ndarray:
    """How important each filter is by a local criterion; filters (units, weights) → (units,), −∞ where undefined.

    l1norm: Σ|w|. k34: |k₃·k₄|. skew_kur: |skewness · excess kurtosis|. Filters of fewer than nine weights take
    l1norm in any case. The absolute value differs from the paper's code, which keeps the largest signed value and so
    removes filters that are far from Gaussian with a negative sign first.
    """
    filters = np.asarray(filters, np.float64)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # constant filters
        if criterion == "l1norm" or filters.shape[1] < FEWEST:
            values = np.abs(filters).sum(1)
        elif criterion == "k34":
            values = np.abs(scipy.stats.kstat(filters, 3, axis=1) * scipy.stats.kstat(filters, 4, axis=1))
        else:
            values = np.abs(scipy.stats.skew(filters, axis=1) * scipy.stats.kurtosis(filters, axis=1))
    return np.where(np.isfinite(values), values, -np.inf)


def shares(values: Sequence[float]) -> np.ndarray:
    """Map gaussianities to [0, 1], linearly: 1 for the most Gaussian layer, 0 for the least and where undefined.

    All 1 where they do not differ.
    """
    found = np.asarray(values, np.float64)
    finite = np.isfinite(found)
    if not finite.any() or np.ptp(found[finite]) == 0:
        return np.ones(len(found))
    low, span = found[finite].min(), np.ptp(found[finite])
    return np.where(finite, (np.where(finite, found, low) - low) / span, 0.0)


def measure(groups: Groups, layer_criterion: str, filter_criterion: str) -> list[Layer]:
    """Read every layer that produces channels of a group, in the order of the groups.

    The filters of a factored layer's inner rank are scaled by the norm of what reads them, because scaling one factor
    up and the other down changes nothing.
    """
    found = []
    for g, group in enumerate(groups.groups):
        for filters in _filters(groups, group):
            order = np.argsort(importance(filters, filter_criterion), kind="stable")
            found.append(Layer(g, gaussianity(filters, layer_criterion), np.argsort(order)))
    return found


def scores(groups: Groups, layers: Sequence[Layer], caps: Sequence[int]) -> tuple[list[np.ndarray | None], list[float]]:
    """Scores for `Groups.plan`, None for groups that may lose nothing, and each group's share in [0, 1].

    A group of n units loses ⌊n · s/c⌋ of them, for its share s and one c for all: its unit at place p, from 1, goes
    where c ≤ s · n/p, so its score is p/(n · s) and c is the inverse of the global threshold. Shares are relative to
    the layers of the groups that may lose units. A group with several layers takes the mean of their shares and
    places. Groups with a share of 0 go last.
    """
    read = [layer for layer in layers if caps[layer.group]]
    values = shares([layer.gaussian for layer in read])
    scored: list[np.ndarray | None] = [None] * len(groups.groups)
    means = [0.0] * len(groups.groups)
    for g, group in enumerate(groups.groups):
        mine = [(layer, value) for layer, value in zip(read, values, strict=True) if layer.group == g]
        if mine:
            means[g] = float(np.mean([value for _, value in mine]))
            places = np.argsort(np.argsort(np.mean([layer.places for layer, _ in mine], axis=0), kind="stable"))
            scored[g] = (places + 1) / (group.units * max(means[g], _LEAST))
    return scored, means


def _filters(groups: Groups, group: Group) -> Iterator[np.ndarray]:
    """Weights that produce each unit, (units, weights), of each layer that does."""
    for member in group.of_kind(_ConvNd, nn.Linear, side="out"):
        weights = member.weight.detach()[groups.rows(member)].flatten(1)
        if group.rank:
            (reader,) = group.of_kind(_ConvNd, nn.Linear, side="in")
            columns: Tensor = reader.weight.detach().transpose(0, 1)[groups.rows(reader)]
            weights = weights * columns.flatten(1).norm(dim=1, keepdim=True)
        yield weights.double().cpu().numpy()

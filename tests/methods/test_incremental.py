"""Quantisers that fix weights in portions: what is fixed stays bit by bit, and what is fixed first hurts most."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from group_nets import build
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor, nn

from automc import methods
from automc.datasets.base import TrainData
from automc.errors import MethodError
from automc.methods.incremental import Incremental, by_level, parts
from automc.methods.mlq import portions
from automc.surgery.levels import Levels, kmeans
from automc.surgery.quantised import QUANTISED
from automc.training.evaluate import cross_entropy, recalibrate
from automc.training.loop import fit
from automc.training.recipe import Recipe
from kg.schema import Strategy

SLQ = (("HP1", 1.0), ("HP22", 3), ("HP23", 4), ("HP24", "loss"))
SCHEMES = {
    "SLQ by loss": Strategy("SLQ", SLQ),
    "SLQ by magnitude": Strategy("SLQ", (*SLQ[:3], ("HP24", "magnitude"))),
    "MLQ": Strategy("MLQ", (("HP1", 1.0), ("HP22", 2), ("HP23", 2))),
    "DNQ by distance": Strategy("DNQ", (("HP1", 1.0), ("HP17", 4), ("HP22", 4), ("HP24", "distance"))),
    "DNQ by magnitude": Strategy("DNQ", (("HP1", 1.0), ("HP17", 4), ("HP22", 4), ("HP24", "magnitude"))),
}


@pytest.fixture(scope="module")
def digits() -> TrainData:
    """1,200 digits of 16 × 16 pixels in three channels."""
    found = load_digits()
    pixels = torch.tensor(found.images[:1200] / 16 * 255).to(torch.uint8).unsqueeze(1).repeat(1, 3, 1, 1)
    pixels = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return TrainData(pixels, torch.tensor(found.target[:1200]).long(), mean=[0.5] * 3, std=[0.25] * 3)


@pytest.fixture(scope="module", params=["vgg", pytest.param("resnet-a", marks=pytest.mark.slow)])
def trained(request: pytest.FixtureRequest, digits: TrainData) -> nn.Module:
    """A network that knows the digits."""
    model = build(request.param)
    fit(model, digits, iterations=100, recipe=Recipe(batch=64, lr=0.05), seed=0)
    recalibrate(model, digits)
    return model


def incremental(model: nn.Module, make, data: TrainData, bits: int) -> Incremental:
    step = Incremental(model, SCHEMES["SLQ by loss"], make(1, data=data), [1])
    step.levels = {n: Levels(bits, codebook=kmeans(layer.weight, 2**bits)) for n, layer in step.layers.items()}
    return step


def rises(step: Incremental, data: TrainData) -> Iterator[tuple[str, Tensor, float]]:
    """What the loss rises by, exactly, where one cluster of one layer goes to its level."""
    base = cross_entropy(step.model, data)
    for name, layer in step.layers.items():
        weight = layer.weight.detach().clone()
        codes, settled = step.levels[name].codes(weight), step.levels[name].nearest(weight)
        for code in codes.unique():
            with torch.no_grad():
                layer.weight.copy_(torch.where(codes == code, settled, weight))
            yield name, code, cross_entropy(step.model, data) - base
        with torch.no_grad():
            layer.weight.copy_(weight)


def test_the_estimated_rise_orders_clusters_like_the_exact_one(trained: nn.Module, digits: TrainData, context) -> None:
    step = incremental(trained, context, digits, 3)
    guess = step.sensitivity()
    guessed = {
        (name, int(code)): float(total)
        for name, layer in step.layers.items()
        for code, total, _ in zip(*by_level(step.levels[name].codes(layer.weight.detach()), guess[name]), strict=True)
    }
    exact = {(name, int(code)): rise for name, code, rise in rises(step, step.judged())}
    assert guessed.keys() == exact.keys()
    assert spearmanr([guessed[key] for key in exact], list(exact.values())).statistic > 0.8


@pytest.mark.parametrize("strategy", SCHEMES.values(), ids=SCHEMES)
def test_what_is_fixed_stays_bit_by_bit_and_the_rest_moves(strategy: Strategy, context, monkeypatch) -> None:
    seen: list[dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]] = []
    advance = Incremental.advance

    def watched(step: Incremental, phase: int) -> None:
        before = {name: layer.weight.detach().clone() for name, layer in step.layers.items()}
        advance(step, phase)
        seen.append({n: (step.fixed[n].clone(), before[n], step.layers[n].weight.detach().clone(),
                         step.levels[n].nearest(before[n])) for n in step.layers})  # fmt: skip

    monkeypatch.setattr(Incremental, "advance", watched)
    model = build("vgg")
    out, report = methods.get(strategy.method).apply(model, strategy, context(1, epochs=10.0))
    assert len(seen) == 4
    moved = 0
    for turn, states in enumerate(seen):
        for name, (fixed, before, after, levels) in states.items():
            assert torch.equal(after[fixed], before[fixed])
            assert torch.equal(before[fixed], levels[fixed])
            assert bool(fixed.all()) or not torch.equal(after, before)
            moved += int((after != before).sum())
            for later in seen[turn + 1 :]:
                assert torch.equal(later[name][2][fixed], after[fixed])
                assert bool(later[name][0][fixed].all())
    assert moved
    assert all(bool(fixed.all()) for fixed, *_ in seen[-1].values())
    for name, layer in ((n, m) for n, m in out.named_modules() if isinstance(m, QUANTISED)):
        assert torch.equal(layer.weight, seen[-1][name][2])
        assert torch.equal(layer.levels.nearest(layer.weight), layer.weight)
        inner = 3 if strategy.method == "MLQ" else 8
        if name not in ("features.0", "fc") and strategy.method != "DNQ":
            assert len(layer.weight.unique()) <= inner
    assert 0 <= strategy.number("HP22") - report.details["mean_bits"] < 1


def test_slq_fixes_half_then_half_of_the_rest_and_large_clusters_first(context, monkeypatch) -> None:
    shares, least = [], []
    advance = Incremental.advance

    def watched(step: Incremental, phase: int) -> None:
        shares.append([step.share(name) for name in step.layers])
        fixed, weight = step.fixed["hidden"], step.layers["hidden"].weight.detach().abs()
        least.append((float(weight[fixed].min()), float(weight[~fixed].max()) if not fixed.all() else 0.0))
        advance(step, phase)

    monkeypatch.setattr(Incremental, "advance", watched)
    methods.get("SLQ").apply(build("vgg"), SCHEMES["SLQ by magnitude"], context(1))
    for share, wanted in zip(shares, (0.5, 0.75, 0.875, 1.0), strict=True):
        assert min(share) >= wanted
    assert sum(shares[0]) / len(shares[0]) < 0.9
    assert least[0][0] > 0  # zeros are the last in the order of magnitude


def test_mlq_takes_the_layers_that_hurt_most_first(trained: nn.Module, digits: TrainData, context) -> None:
    step = incremental(trained, context, digits, 2)
    step.levels = {n: Levels(2, codebook=kmeans(layer.weight, 3)) for n, layer in step.layers.items()}
    guess = {name: float(rise.sum()) for name, rise in step.sensitivity().items()}
    for number in (1, 2, 3):
        found = portions(step, number)
        assert len(found) == number
        order = [name for names in found for name in names]
        assert sorted(order) == sorted(name for name in step.layers if name not in step.ends)
        assert [guess[name] for name in order] == sorted((guess[name] for name in order), reverse=True)


def test_lengths_of_parts() -> None:
    for total, number in ((10, 4), (3, 4), (7, 1), (100, 8)):
        assert sum(parts(total, number)) == total
        assert max(parts(total, number)) - min(parts(total, number)) <= 1


@pytest.mark.parametrize(
    ("strategy", "said"),
    [("MLQ[HP1=0.1,HP22=3,HP23=1]", "ternary"), ("SLQ[HP1=0.1,HP22=3,HP23=1.5,HP24=loss]", "whole number of rounds"),
     ("SLQ[HP1=0.1,HP22=3,HP23=2,HP24=distance]", "HP24 must be one of loss, magnitude")],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(strategy: str, said: str, context) -> None:
    wanted = Strategy.parse(strategy)
    with pytest.raises(MethodError, match=said):
        methods.get(wanted.method).apply(build("vgg"), wanted, context(1))

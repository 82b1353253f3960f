"""Eq. 3 against NumPy: means, masked loss, scales, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kg.cards import enumerate_strategies
from kg.embedding.experience_net import ExperienceNet, ExperienceTraining, experience_loss, mean_vectors
from kg.embedding.records import Records, map_records
from kg.schema import Experience, Method


@pytest.fixture
def names(methods: tuple[Method, ...]) -> list[str]:
    return [s.id for method in methods for s in enumerate_strategies(method)] + ["A", "B", "K", "T1"]


@pytest.fixture
def records(methods: tuple[Method, ...], experience: tuple[Experience, ...], names: list[str]) -> Records:
    return map_records(experience, methods, {name: row for row, name in enumerate(names)})


def test_mean_is_the_weighted_sum(records: Records, names: list[str]) -> None:
    entities = torch.randn(len(names), 32)
    expected = records.mean.toarray() @ entities.numpy()
    np.testing.assert_allclose(mean_vectors(records, entities), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        mean_vectors(records, entities, np.array([3, 1])), expected[[3, 1]], rtol=1e-4, atol=1e-6
    )


def test_loss_is_masked_weighted_huber() -> None:
    predicted = torch.tensor([[0.5, 3.0], [9.0, -0.2]], requires_grad=True)
    targets = torch.tensor([[0.0, 0.0], [np.nan, 0.2]])
    weights = torch.tensor([1.0, 3.0])
    first = 0.5 * 0.5**2 + (3.0 - 0.5)
    second = 0.5 * 0.4**2
    loss = experience_loss(predicted, targets, weights)
    assert float(loss.detach()) == pytest.approx((first + 3 * second) / 4)
    loss.backward()
    assert predicted.grad is not None
    assert predicted.grad[1, 0] == 0, "an AR that is not known pulls nothing"
    assert torch.isfinite(predicted.grad).all()
    # Robust: an outlier pulls like an error of 1.
    assert float(predicted.grad[0, 1]) == pytest.approx(0.25)


def test_gradient_reaches_the_grid_through_the_mean(records: Records, names: list[str]) -> None:
    entities = nn.Parameter(torch.zeros(len(names), 32))
    mean_vectors(records, entities)[0].sum().backward()
    assert entities.grad is not None
    # r1: HP1 = 0.3 (halfway 0.2 and 0.4), HP2 := 0.2 (halfway), HP8 = l1: four strategies, a quarter each.
    moved = {name: float(row[0]) for name, row in zip(names, entities.grad, strict=True) if row.any()}
    assert moved == pytest.approx({f"A[HP1={a},HP2={b},HP8=l1]": 0.25 for a in (0.2, 0.4) for b in (0.1, 0.3)})


def test_an_epoch_moves_only_what_the_records_touch(records: Records, names: list[str]) -> None:
    torch.manual_seed(0)
    entities = nn.Parameter(torch.randn(len(names), 32) * 0.1)
    before = entities.detach().clone()
    net = ExperienceNet()
    net.fit_scales(records)
    constrained: list[int] = []
    lesson = ExperienceTraining(net, entities, records, seed=0, constrain=lambda: constrained.append(1))
    losses = [lesson.epoch() for _ in range(300)]
    assert losses[-1] < 0.2 * losses[0]
    assert len(constrained) == 300, "clamped after each step"
    touched = np.asarray(records.mean.sum(axis=0)).ravel() > 0
    changed = (entities.detach() != before).any(dim=1).numpy()
    np.testing.assert_array_equal(changed, touched)


def test_every_source_pulls_alike(methods: tuple[Method, ...], experience: tuple[Experience, ...]) -> None:
    # p1 has two rows and p3 one: the first epoch's loss is the mean over sources of their mean losses.
    names = [s.id for method in methods for s in enumerate_strategies(method)] + ["A", "B", "K"]
    rows = [item for item in experience if item.source in ("p1", "p3")]
    records = map_records(rows, methods, {name: row for row, name in enumerate(names)})
    net = ExperienceNet()
    expected = 0.0
    for share, item in zip((0.25, 0.25, 0.5), rows, strict=True):
        expected += share * sum(0.5 * value**2 for value in (item.ar, item.pr) if value is not None)
    lesson = ExperienceTraining(net, nn.Parameter(torch.zeros(len(names), 32)), records, seed=0, constrain=lambda: None)
    assert lesson.epoch() == pytest.approx(expected, rel=1e-4)


def test_scales_of_features(records: Records) -> None:
    net = ExperienceNet()
    net.fit_scales(records)
    scaled = net.scale(records.features)
    # Two tasks: 10 and 100 classes; image size is the same in both; params are known of one only.
    assert scaled[0, 0] == pytest.approx(-1, abs=1e-5)
    assert scaled[3, 0] == pytest.approx(1, abs=1e-5)
    assert scaled[:, 1].abs().max() < 1e-5
    assert scaled[3, 4:].tolist() == [0, 0, 0]
    inputs = net.inputs(records.features, records.excess)
    assert inputs.shape == (5, 15)
    assert inputs[3, 7:14].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert inputs[1, 14] == pytest.approx(0.5)
    far = np.array([[1e9, 32, 3, 5e4, 1e6, 1e8, 0.9]])
    assert net.scale(far)[0, 0] == 3


def test_untaught_predicts_nothing() -> None:
    net = ExperienceNet()
    assert not net.taught
    assert net.predict(torch.randn(4, 32), torch.randn(4, 15)).tolist() == [[0, 0]] * 4

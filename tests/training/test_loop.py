"""The training loop against a plain one, and its laws."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from automc.datasets import DataRef, TrainData, open_data, split
from automc.training.evaluate import accuracy
from automc.training.loop import (
    Diverged,
    batch_sizes,
    batches,
    fit,
    fixed_shapes,
    learning_rate,
    split_evenly,
    train_model,
)
from automc.training.recipe import Recipe
from automc.training.state import FitState

RECIPE = Recipe(batch=16, lr=0.05)
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def net(seed: int = 0, channels: int = 3, classes: int = 4, width: int = 8, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * width, classes),
    )  # fmt: skip


def some(n: int = 70, augment: str = "crop-flip") -> TrainData:
    g = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (n, 3, 8, 8), generator=g).to(torch.uint8)
    return TrainData(x, torch.arange(n) % 4, mean=MEAN, std=STD, augment=augment)  # type: ignore[arg-type]


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([t.detach().flatten().double() for t in model.state_dict().values()])


def plain_training(model: nn.Module, data: TrainData, iterations: int, seed: int) -> list[float]:
    """Written independently: image by image padding and slicing, NCHW, PyTorch's scheduler, one tensor at a time."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, foreach=False
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    g = torch.Generator().manual_seed(seed)
    model.train()
    losses: list[float] = []
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    while len(losses) < iterations:
        order = torch.randperm(data.n, generator=g).tolist()
        offsets = torch.randint(0, 3, (2, data.n), generator=g)
        mirror = torch.rand(data.n, generator=g) < 0.5
        for start in range(0, data.n - 15, 16):
            if len(losses) == iterations:
                break
            images = []
            for position in range(start, start + 16):
                image = F.pad(data.x[order[position]].float() / 255, (1, 1, 1, 1))
                top, left = offsets[:, position].tolist()
                image = image[:, top : top + 8, left : left + 8]
                images.append(((image.flip(2) if mirror[position] else image) - mean) / std)
            labels = torch.tensor([data.y[order[p]] for p in range(start, start + 16)])
            loss = F.cross_entropy(model(torch.stack(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    return losses


def test_same_numbers_as_a_plain_loop() -> None:
    data, one, other = some(), net(), net()
    report = fit(one, data, iterations=11, recipe=RECIPE, seed=3)
    losses = plain_training(other, data, 11, 3)
    assert report.iterations == 11
    assert report.loss == pytest.approx(sum(losses) / 11, rel=1e-4)
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-3, atol=2e-5)
    assert (weights(one) - weights(net())).abs().max() > 0.01


def test_seed_decides_everything() -> None:
    data, start = some(), net(dropout=0.5)

    def trained(seed: int, noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        model = copy.deepcopy(start)
        fit(model, data, iterations=7, recipe=RECIPE, seed=seed)
        return weights(model)

    assert torch.equal(trained(0, 1), trained(0, 2))
    assert not torch.equal(trained(0, 1), trained(1, 1))


def test_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(net(dropout=0.5).train(), some(), iterations=1, recipe=RECIPE, seed=0)
    torch.manual_seed(5)
    model = net()
    state = torch.random.get_rng_state()
    fit(model, some(), iterations=1, recipe=RECIPE, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_frozen_parameters_are_kept(training: bool) -> None:
    model = net().train(training)
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, some(), iterations=2, recipe=RECIPE, seed=0)
    assert model.training is training
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize(
    ("n", "batch", "sizes"),
    [
        (300, 128, [128, 128]), (256, 128, [128, 128]), (255, 128, [128, 127]), (130, 128, [128, 2]),
        (129, 128, [128]), (128, 128, [128]), (50, 50, [50]), (1, 1, [1]), (5000, 128, [128] * 39),
    ],
)  # fmt: skip
def test_last_batch(n: int, batch: int, sizes: list[int]) -> None:
    assert batch_sizes(n, batch) == sizes


@given(n=st.integers(1, 400), batch=st.integers(1, 130))
def test_batches_of_an_epoch(n: int, batch: int) -> None:
    batch = min(n, batch)
    sizes = batch_sizes(n, batch)
    assert sizes
    assert all(0 < size <= batch for size in sizes)
    assert 1 not in sizes or batch == 1
    assert n - sum(sizes) == (n % batch if n >= 2 * batch or n % batch == 1 else 0)


def test_epochs_follow_each_other_without_a_break() -> None:
    data = some(50, "none")
    stream = batches(data, 16, torch.Generator().manual_seed(0))
    drawn = [next(stream)[0].tolist() for _ in range(8)]
    epochs = [[i for batch in drawn[start : start + 3] for i in batch] for start in (0, 3)]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert epochs[0] != epochs[1]
    small = batches(some(20, "none"), 16, torch.Generator().manual_seed(0))
    assert Counter(len(next(small)[0]) for _ in range(6)) == {16: 3, 4: 3}


def test_cosine() -> None:
    rates = [learning_rate(step, 100, 0.2) for step in range(100)]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    for rate in rates:
        assert rate == pytest.approx(scheduler.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        scheduler.step()
    assert rates[0] == 0.2
    assert rates[50] == pytest.approx(0.1)
    assert 0 < rates[-1] < 1e-4


def test_a_cosine_may_end_above_zero() -> None:
    whole = [learning_rate(step, 100, 0.2) for step in range(100)]
    raised = [learning_rate(step, 100, 0.2, floor=0.1) for step in range(100)]
    assert raised == pytest.approx([0.02 + 0.9 * rate for rate in whole])
    assert raised[0] == 0.2
    assert raised[-1] == pytest.approx(0.02, abs=1e-4)


def test_warmup_rises_linearly_to_the_peak() -> None:
    rates = [learning_rate(step, 100, 1.0, warmup=4) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(a >= b for a, b in pairwise(rates[4:]))


def test_hooks_see_every_step_and_can_act() -> None:
    model = net()
    seen: list[tuple[int, float, bool]] = []
    mask = torch.ones(8, 1, 1, 1)
    mask[3] = 0
    done: list[tuple[int, int]] = []

    def gradient(step: int, lr: float, current: nn.Module) -> None:
        seen.append((step, lr, current is model and all(p.grad is not None for p in current.parameters())))

    def update(step: int) -> None:
        assert len(seen) == step + 1
        with torch.no_grad():
            model[0].weight.mul_(mask)

    fit(
        model, some(), iterations=5, recipe=RECIPE, seed=0, gradient_hook=gradient, after_update=update,
        progress=lambda i, total: done.append((i, total)),
    )  # fmt: skip
    assert seen == [(i, learning_rate(i, 5, 0.05), True) for i in range(5)]
    assert done == [(i, 5) for i in range(1, 6)]
    assert bool((model[0].weight[3] == 0).all())
    assert bool((model[0].weight[2] != 0).any())


def test_gradient_hook_changes_the_update_as_a_loss_term_would() -> None:
    penalty = 0.01
    by_hook, by_loss = net(), net()

    def gradient(step: int, lr: float, model: nn.Module) -> None:
        grad = by_hook[1].weight.grad
        assert grad is not None
        grad.add_(penalty * by_hook[1].weight.detach().sign())

    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y) + penalty * by_loss[1].weight.abs().sum()

    fit(by_hook, some(), iterations=6, recipe=RECIPE, seed=0, gradient_hook=gradient)
    fit(by_loss, some(), iterations=6, recipe=RECIPE, seed=0, loss=loss)
    torch.testing.assert_close(weights(by_hook), weights(by_loss), rtol=1e-4, atol=1e-5)
    plain = net()
    fit(plain, some(), iterations=6, recipe=RECIPE, seed=0)
    assert (weights(plain) - weights(by_hook)).abs().max() > 1e-4


def test_bfloat16_trains_float32_weights_to_nearby_values() -> None:
    exact, rounded = net(), net()
    fit(exact, some(), iterations=8, recipe=RECIPE, seed=0)
    fit(rounded, some(), iterations=8, recipe=replace(RECIPE, precision="bfloat16"), seed=0)
    assert all(p.dtype == torch.float32 for p in rounded.parameters())
    difference = (weights(exact) - weights(rounded)).abs().max()
    assert 0 < difference < 0.1


@pytest.mark.parametrize("when", [0, 3, 70])
def test_divergence_is_noticed(when: int) -> None:
    calls = 0

    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return F.cross_entropy(model(x), y) * (math.nan if calls == when + 1 else 1.0)

    model = net().eval()
    with pytest.raises(Diverged, match="lower learning rate"):
        fit(model, some(), iterations=120, recipe=RECIPE, seed=0, loss=loss)
    assert calls <= when + 51
    assert not model.training


def test_divergence_in_the_last_update_is_noticed() -> None:
    def gradient(step: int, lr: float, model: nn.Module) -> None:
        if step == 2:
            next(model.parameters()).grad.fill_(math.inf)  # type: ignore[union-attr]

    with pytest.raises(Diverged, match=r"by iteration 3 of 3 .* Use a lower learning rate"):
        fit(net(), some(), iterations=3, recipe=RECIPE, seed=0, gradient_hook=gradient)


def test_a_tiny_net_learns_digits_without_the_validation_images() -> None:
    data = open_data(DataRef("digits"))
    model = net(channels=1, classes=10, width=16)
    report = train_model(model, data, epochs=12, lr=0.1, seed=0)
    parts = split(data)
    assert report.iterations == round(12 * parts.train.n / 128)
    assert parts.test is not None
    assert accuracy(model, data.data(parts.test)) > 0.9
    assert accuracy(model, data.data(parts.validation)) > 0.9


def test_shapes_are_fixed_while_an_accelerator_trains_and_nothing_of_it_stays() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    for device, tried in (("cuda", True), ("cpu", before)):
        with fixed_shapes(torch.device(device)):
            assert cudnn.benchmark == tried
        assert cudnn.benchmark == before


@pytest.mark.parametrize("iterations", [12, 14])
def test_three_pieces_are_one_run_with_restarts(iterations: int) -> None:
    """Momentum, order, views and dropout go on in the middle of an epoch of four batches, as in a file."""
    data, whole, pieces = some(), net(dropout=0.5), net(dropout=0.5)
    fit(whole, data, iterations=iterations, recipe=RECIPE, seed=3, cycles=3)
    state = FitState()
    for number, length in enumerate(split_evenly(iterations, 3)):
        fit(pieces, data, iterations=length, recipe=RECIPE, seed=3 if number == 0 else 99, state=state)
        state = FitState.of(state.tensors())
    assert state.done == iterations
    assert torch.equal(weights(pieces), weights(whole))


def test_what_a_piece_goes_on_with_matters() -> None:
    """Each part of the state: without it, another result."""
    data, state, first = some(), FitState(), net(dropout=0.5)
    fit(first, data, iterations=5, recipe=RECIPE, seed=3, state=state)

    def then(**changed: Any) -> torch.Tensor:
        model = copy.deepcopy(first)
        fit(model, data, iterations=5, recipe=RECIPE, seed=3, state=replace(state, **changed))
        return weights(model)

    for changed in ({"momentum": {}}, {"random": None}, {"done": 0}, {"seed": 4}):
        assert not torch.equal(then(**changed), then()), changed


def test_restarts_bring_the_learning_rate_back() -> None:
    rates: list[float] = []
    fit(net(), some(), iterations=7, recipe=RECIPE, seed=0, cycles=2, gradient_hook=lambda _, lr, __: rates.append(lr))
    assert rates == [learning_rate(i, n, RECIPE.lr) for n in (4, 3) for i in range(n)]


@pytest.mark.parametrize(("iterations", "parts", "lengths"), [(9, 3, [3, 3, 3]), (2, 3, [1, 1]), (5, 1, [5])])
def test_parts_are_nearly_equal(iterations: int, parts: int, lengths: list[int]) -> None:
    assert split_evenly(iterations, parts) == lengths

"""What a classifier may return, and how many images and channels it may ask for."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from automc.errors import DataError, ModelError
from automc.execution.setup import fitted
from automc.models.load import example_for, prepare
from automc.models.measure import count_flops, latency, latency_of_one
from automc.models.outputs import check_training, logits
from automc.surgery.groups import Groups
from automc.training.loop import cross_entropy

IMAGES = torch.zeros(2, 3, 8, 8)
Pair = namedtuple("Pair", "aux logits")


@dataclass
class Answer:
    loss: Tensor | None
    logits: Tensor


class Heads(nn.Module):
    """Two heads; `train` and `evaluate` say how (logits, auxiliary) leave the network."""

    def __init__(self, train: Callable[..., Any], evaluate: Callable[..., Any] = lambda a, b: a) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc, self.aux, self.leave = nn.Linear(8, 10), nn.Linear(8, 10), (train, evaluate)

    def forward(self, x: Tensor) -> Any:
        pooled = self.a(x).mean((2, 3))
        return self.leave[0 if self.training else 1](self.fc(pooled), self.aux(pooled))


WRAPPED = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, b],
    "nested": lambda a, b: ((a, b), None),
    "named tuple": lambda a, b: Pair(aux=b, logits=a),
    "dict": lambda a, b: {"aux": b, "logits": a},
    "ordered": lambda a, b: OrderedDict(out=a, aux=b),
    "unnamed": lambda a, b: {"main_head": a, "other": b},
    "dataclass": lambda a, b: Answer(None, a),
}


@pytest.mark.parametrize("both", [False, True], ids=["in training", "always"])
@pytest.mark.parametrize("kind", WRAPPED)
def test_the_scores_are_found_and_trained(kind: str, both: bool) -> None:
    model = Heads(WRAPPED[kind], *[WRAPPED[kind]] * both)
    note = check_training(model, IMAGES)
    assert "Heads returns" in note
    assert "left out" in note
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    wanted = nn.functional.cross_entropy(model.fc(model.a(images).mean((2, 3))), labels)
    torch.testing.assert_close(cross_entropy(model.train(), images, labels), wanted)
    wanted.backward()
    assert model.aux.weight.grad is None


def test_the_part_that_evaluation_returns_must_come_first() -> None:
    with pytest.raises(ModelError, match="of which number 2 is what evaluation returns"):
        check_training(Heads(lambda a, b: (b, a)), IMAGES)
    wide = Heads(lambda a, b: (torch.cat([a, b], 1), a))
    with pytest.raises(ModelError, match="of which number 2 is what evaluation returns"):
        check_training(wide, IMAGES)
    both = Heads(lambda a, b: (a, b), lambda a, b: (a + b) / 2)  # neither of them: as distilled transformers do
    assert "the first of 2 is trained" in check_training(both, IMAGES)


def test_features_before_the_scores_are_told_from_too_many_classes(colour: Callable[..., Any]) -> None:
    def both(a: Tensor, b: Tensor) -> Any:
        return torch.cat([a, b], 1), a

    with pytest.raises(ModelError, match="number 2 has the data's 10 classes, not the first"):
        fitted(Heads(both, both), colour(3))


def test_probabilities_are_said() -> None:
    assert "returns probabilities" in check_training(Heads(lambda a, b: a, lambda a, b: a.softmax(1)), IMAGES)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (lambda a, b: (a[:, :4], b), r"scores of shape \(2, 4\) in training and \(2, 10\) in evaluation"),
        (lambda a, b: {"boxes": [1, 2]}, "in training for 2 images it returns a dict of boxes"),
        (lambda a, b: nn.functional.cross_entropy(a, torch.zeros(2).long()), r"a tensor of shape \(\) instead"),
        (lambda a, b: a.nonsense, r"does not train on images.* at line \d+ of test_outputs.py: AttributeError"),
    ],
)
def test_training_that_is_not_understood_is_refused(train: Callable[..., Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        check_training(Heads(train), IMAGES)


class Named(OrderedDict[str, Any]):
    """As libraries of transformers return it: a dict of its own class."""


def test_channels_are_found_behind_a_dict_of_its_own_class() -> None:
    model = Heads(lambda a, b: Named(logits=a), lambda a, b: Named(logits=a, hidden=None))
    assert [group.root for group in Groups(prepare(model, IMAGES), IMAGES).groups] == ["a.0"]


def test_looking_at_training_changes_nothing() -> None:
    model = Heads(WRAPPED["tuple"]).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dice = torch.get_rng_state()
    check_training(model, IMAGES)
    assert torch.equal(torch.get_rng_state(), dice)
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Single(nn.Module):
    """Behaves otherwise for one image: `squeeze()` takes the batch along, or a statistic needs two."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.fc, self.kind = nn.Conv2d(3, 8, 3), nn.Linear(8, 10), kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean((2, 3), keepdim=True)
        if self.kind == "two":
            x = (x - x.mean(0)) / x.std(0, correction=0).clamp_min(0.1)
            assert len(x) > 1, "one image"
        return self.fc(x.squeeze())  # type: ignore[no-any-return]


def test_code_that_squeezes_the_batch_away_is_a_classifier() -> None:
    model = prepare(Single("squeezes"), IMAGES)
    assert logits(model, IMAGES[:1]).shape == (1, 10)
    assert check_training(model, IMAGES) == ""
    assert count_flops(model, IMAGES) == 2 * (36 * 8 * 27 + 80)


def test_code_that_fixes_the_number_of_images_is_refused(colour: Callable[..., Any]) -> None:
    class Pairs(Single):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).view(2, 8, 36).mean(2))  # type: ignore[no-any-return]

    with pytest.raises(ModelError, match=r"runs on 2 images, but not on 3: its code fixes the number.*at line \d+"):
        fitted(Pairs("pairs"), colour(3))
    with pytest.raises(ModelError, match="does not run"):
        latency(Pairs("pairs"), IMAGES[:1])


def test_one_image_is_half_of_two_where_a_model_needs_two() -> None:
    model = prepare(Single("two"), IMAGES)
    assert count_flops(model, IMAGES) == 2 * (36 * 8 * 27 + 80)
    assert latency_of_one(model, IMAGES).batch == 1


class Planes(nn.Module):
    """Its first convolution takes other channels than the images have."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.widths = {"stacked": 4, "mean": 1, "spectrum": 6, "blocks": 12, "patches": 1, "one of three": 1, "grey": 1}
        self.body = nn.Sequential(nn.Conv2d(self.widths[kind], 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "stacked":
            x = torch.cat([x, x.std(1, keepdim=True)], 1)
        elif self.kind == "mean":
            x = (x * x.new_tensor([0.3, 0.6, 0.1]).view(3, 1, 1)).sum(1, keepdim=True)
        elif self.kind == "spectrum":
            found = torch.fft.rfft2(x)
            x = torch.cat([found.real, found.imag], 1)
        elif self.kind == "blocks":
            x = nn.functional.pixel_unshuffle(x, 2)
        elif self.kind == "patches":
            x = nn.functional.unfold(x, 4, stride=4).unsqueeze(1)
        elif self.kind == "one of three":
            x = x[:, 1:2] + 0 * x[:, 2:]
        return self.fc(self.body(x).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["stacked", "mean", "spectrum", "blocks", "patches", "one of three"])
def test_the_network_says_what_images_it_takes(kind: str, colour: Callable[..., Any]) -> None:
    model, _ = fitted(Planes(kind), colour(3))
    assert model(IMAGES).shape == (2, 10)
    assert example_for(Planes(kind), 8, 8).shape == (2, 3, 8, 8)


def test_images_of_another_kind_are_named(colour: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"are colour \(3 channels\), but the model takes grey"):
        fitted(Planes("grey"), colour(3))
    with pytest.raises(ModelError, match=r"does not run on images of shape \(1, 8, 8\)"):
        fitted(Planes("one of three"), colour(1))
    assert example_for(Planes("grey"), 8, 8).shape == (2, 1, 8, 8)


def test_where_the_code_failed_is_said() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(7, -1)

    with pytest.raises(ModelError, match=r"in layer 1 \(Inner\) at line \d+ of test_outputs.py: RuntimeError: shape"):
        prepare(nn.Sequential(nn.Conv2d(3, 4, 3), Inner()), IMAGES)


@pytest.fixture
def colour() -> Callable[..., Any]:
    """Make a data set of 8 × 8 images with 10 classes."""
    from automc.datasets.base import Dataset, Images

    def make(channels: int) -> Dataset:
        pixels = torch.randint(0, 256, (60, channels, 8, 8), generator=torch.Generator().manual_seed(0))
        images = Images(pixels.to(torch.uint8), torch.arange(60) % 10)
        return Dataset(
            name="tiny", train=images, test=None, validation=None, classes=tuple("abcdefghij"),
            mean=(0.5,) * channels, std=(0.25,) * channels, augment="none", hash="0" * 64,
        )  # fmt: skip

    return make

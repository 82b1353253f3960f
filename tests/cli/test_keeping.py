"""What is kept, from the command line to the saved file: layers that the factory froze, and networks with two heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import automc as library
from automc.models import structure

SOURCE = """
import torch
from torch import nn

class Two(nn.Module):
    '''A frozen stem, and a second head in training.'''
    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
        self.fc, self.aux = nn.Linear(16, classes), nn.Linear(8, classes)
        self.stem.requires_grad_(False)
    def forward(self, x):
        a = self.stem(x)
        scores = self.fc(self.body(a).mean((2, 3)))
        return (scores, self.aux(a.mean((2, 3)))) if self.training else scores

def build(classes=10):
    return Two(classes)
"""

CPU = ("--data", "digits", "--device", "cpu", "--precision", "float32")


@pytest.fixture
def spec(automc_home: Path, tmp_path: Path) -> str:
    (tmp_path / "two.py").write_text(SOURCE)
    return f"{tmp_path / 'two.py'}:build"


def state(path: Path, part: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in library.load(str(path)).state_dict().items() if k.startswith(part)}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], v) for k, v in right.items())


def test_what_is_frozen_or_kept_stays_through_training_and_compression(automc, spec, tmp_path):
    first, small, free = (tmp_path / f"{name}.am" for name in ("first", "small", "free"))
    result = automc("train", spec, *CPU, "--epochs", "0.3", "--out", first)
    assert result.exit_code == 0, result.output
    assert "Note: The factory froze 4 of 14 parameters, in stem.0, stem.1" in result.stderr
    assert "Note: In training Two returns a tuple of 2" in result.stderr
    fresh = {k: v for k, v in library.load(spec).state_dict().items() if k.startswith("stem")}
    assert same(state(first, "stem"), fresh)

    quick = (*CPU, "--unit-epochs", "0.05", "--fraction", "0.2", "--scheme", "LFB[HP1=0.1,HP2=0.1,HP15=1,HP16=CE]")
    result = automc("compress", first, *quick, "--keep", "fc", "--keep-shape", "body.0", "--out", small)
    assert result.exit_code == 0, result.output
    assert same(state(small, "stem"), fresh)
    assert same(state(small, "fc"), state(first, "fc"))
    before, after = state(first, "body.0"), state(small, "body.0")
    assert not same(before, after)
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    assert "fc" in structure.read(small).metadata["still"]

    result = automc("train", spec, *CPU, "--epochs", "0.3", "--train-frozen", "--out", free)
    assert "froze" not in result.stderr
    assert not same(state(free, "stem"), fresh)


def test_a_pattern_that_matches_nothing_is_refused(automc, spec, tmp_path):
    words = (*CPU, "--scheme", "NS[HP1=0.1,HP2=0.1,HP6=0.9]", "--out", tmp_path / "x.am", "--keep", "boddy.*")
    result = automc("compress", spec, *words)
    assert result.exit_code == 2, result.output
    assert "--keep 'boddy.*' matches no layer of Two" in result.stderr
    assert "body" in result.stderr

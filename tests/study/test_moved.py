"""A study goes on from another folder, and says which data it misses or does not take."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from study_tools import RECIPE

from automc.datasets import DataRef, located
from automc.errors import StudyError
from automc.models import structure
from automc.models.load import load
from automc.study import Budget, Study
from automc.study import study as studies
from kg.embedding.vectors import Vectors

DATA = """
import numpy as np
def draw(n, seed): return np.random.default_rng(seed).integers(0, 256, (n, 1, 8, 8), dtype=np.uint8), np.arange(n) % 4
def make(): return draw(600, SEED), draw(40, 1)
"""


def test_places_by_their_full_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "digits").mkdir()
    (tmp_path / "data.py").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    assert located(DataRef("photos", val="photos")) == DataRef(str(tmp_path / "photos"), val=str(tmp_path / "photos"))
    assert located(DataRef("data.py:make")).spec == f"{tmp_path / 'data.py'}:make"
    assert located(DataRef("digits")).spec == "digits", "a known name, whatever folders there are"
    assert located(DataRef("cifar10", root="photos")).root == str(tmp_path / "photos")
    assert located(DataRef("nowhere")).spec == "nowhere", "for the reader to refuse"


def test_a_study_goes_on_from_another_folder(
    prepared_home: Path, automc_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, other = tmp_path / "work", tmp_path / "other"
    work.mkdir()
    other.mkdir()
    (work / "data.py").write_text(DATA.replace("SEED", "0"))
    (other / "changed.py").write_text(DATA.replace("SEED", "5"))
    monkeypatch.chdir(work)
    torch.manual_seed(0)
    loaded = load("resnet8", classes=4, channels=1)
    structure.save("net.am", loaded.model, loaded.source, metadata={})
    shutil.copytree(prepared_home, automc_home)
    (file,) = (automc_home / "vectors").glob("*.safetensors")
    with patch.object(studies, "vectors_for", lambda *_: Vectors.load(file)):
        made = Study.create(
            "net.am", DataRef("data.py:make"), budget=Budget.parse("2steps"), recipe=RECIPE, precision="float32",
            device="cpu", workers=1, gamma=0.3, learn_from_trials=False, final=False,
        )  # fmt: skip
    name = made.spec.id
    monkeypatch.chdir(other)
    assert Study.open(name).subject.dataset.hash == made.subject.dataset.hash
    shutil.move(work / "data.py", other / "data.py")
    with pytest.raises(StudyError, match=re.escape(name) + r" cannot be read.*no file .*data\.py.*--data PLACE"):
        Study.open(name)
    with pytest.raises(StudyError, match=rf"changed\.py:make are not those that the study {re.escape(name)} was made"):
        Study.open(name, data="changed.py:make")
    assert Study.open(name, data="data.py:make").spec.data.spec == f"{other / 'data.py'}:make"
    monkeypatch.chdir(tmp_path)
    assert Study.open(name).spec.data.spec == f"{other / 'data.py'}:make", "it keeps what it was told"

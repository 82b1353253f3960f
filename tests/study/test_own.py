"""Studies with a loss, a metric and a teacher of the user's: measured by it, said, kept, and held to it later."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from study_tools import RECIPE, copied, create, run

from automc import api
from automc.errors import AutoMCError, ModelError, StudyError
from automc.models import structure
from automc.report.page import page
from automc.study import Study
from automc.study.place import folder
from automc.study.task import open_subject
from automc.training.own import OwnCodeError

CODE = """
from torch.nn import functional as F

def doubled(outputs, labels):
    return 2 * F.cross_entropy(outputs, labels)

def first_classes(outputs, labels):
    chosen = labels < 5
    return (outputs.argmax(1) == labels)[chosen].float().mean()

def percent(outputs, labels):
    return 97.0

def detached(outputs, labels):
    return F.cross_entropy(outputs.detach(), labels)
"""
SCHEME = "NS[HP1=0.05,HP2=0.2,HP6=0.9]"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    return file


def first_half(model: torch.nn.Module, home: Path) -> float:
    """The metric by hand, on the validation images."""
    subject = open_subject(str(home / "digits.am"), api.data_ref("digits"), device="cpu")
    data = subject.dataset.data(subject.splits.validation)
    with torch.no_grad():
        hit = model.eval()(data.normalised(slice(None))).argmax(1) == data.y
    return float(hit[data.y < 5].float().mean())


def test_a_study_is_measured_by_the_metric_and_held_to_it(prepared_home: Path, mine: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, loss=f"{mine}:doubled", metric=f"{mine}:first_classes")
    with copied(prepared_home, tmp_path / "home") as home:
        plain = create(home, "2steps")
        study = create(home, "2steps", recipe=recipe, teacher_model=str(home / "digits.am"))
        assert study.spec.recipe.teacher == 0.5
        assert study.setup.open().identity != plain.setup.open().identity
        result = run(study)
        best = result.recommendation
        assert best is not None
        assert result.module is not None
        assert best.trial.accuracy == pytest.approx(first_half(result.module, home))
        assert result.base.accuracy == pytest.approx(first_half(structure.read(home / "digits.am").model, home))
        assert result.headline is not None
        assert result.headline.lines()[0].startswith("Test first_classes ")
        assert "interval" not in result.headline.lines()[0]
        assert "test first_classes" in page(study.spec.id)

        again = Study.open(study.spec.id)
        assert again.spec == study.spec
        teacher = folder(study.spec.id) / "teacher.am"
        shutil.move(teacher, tmp_path / "elsewhere.am")
        with pytest.raises(StudyError, match=f"its teacher {teacher} is gone"):
            Study.open(study.spec.id)
        shutil.move(tmp_path / "elsewhere.am", teacher)
        mine.write_text(CODE + "\n# another day\n")
        with pytest.raises(OwnCodeError, match=f"The loss .*mine.py:doubled of the study {study.spec.id} has changed"):
            Study.open(study.spec.id)


@pytest.mark.slow
def test_a_teacher_changes_what_a_step_learns(prepared_home: Path, mine: Path, tmp_path: Path) -> None:
    with copied(prepared_home, tmp_path / "home") as home:
        api.train("resnet8", "digits", out=home / "other.am", epochs=1, precision="float32", device="cpu")
        models = []
        for n, options in enumerate(({}, {"teacher_model": str(home / "other.am")}, {"loss": f"{mine}:doubled"})):
            done = api.compress(
                str(home / "digits.am"), "digits", SCHEME, out=home / f"{n}.am", recipe=RECIPE, precision="float32",
                device="cpu", **options,
            )  # fmt: skip
            models.append(done.module.state_dict())
        for other in models[1:]:
            assert any(not torch.equal(models[0][name], other[name]) for name in other)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"loss": "detached"}, OwnCodeError, "No gradient of the loss .*detached reaches the model"),
        ({"metric": "percent"}, OwnCodeError, r"The metric .*percent returned 97. It must lie in \[0, 1\]"),
        ({"teacher_model": "absent.am"}, AutoMCError, "The teacher absent.am does not fit: .*absent.am"),
        ({"teacher_model": torch.nn.Linear(4, 2)}, ModelError, "does not fit"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    home: Path, mine: Path, options: dict[str, object], error: type[Exception], said: str
) -> None:
    given = {name: f"{mine}:{value}" if name in ("loss", "metric") else value for name, value in options.items()}
    with pytest.raises(error, match=said):
        api.compress(str(home / "digits.am"), "digits", SCHEME, out=home / "x.am", device="cpu", **given)  # type: ignore[arg-type]
    assert not (home / "x.am").exists()

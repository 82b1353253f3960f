"""The paper's experiments on tiny data: planned, stopped, gone on with, done, and tabled beside the paper's figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from automc.study.trial import Trial
from benchmarks.paper import exp1, exp2
from benchmarks.paper.work import near
from benchmarks.resumable import rows
from kg.schema import Scheme


def test_a_searchers_scheme_is_the_most_accurate_of_about_that_size() -> None:
    def trial(ordinal: int, pr: float, accuracy: float, status: str = "ok") -> Trial:
        return Trial(ordinal, 0, Scheme(), status, pr=pr, accuracy=accuracy)  # type: ignore[arg-type]

    trials = [
        trial(1, 0.37, 0.9),
        trial(2, 0.39, 0.7),
        trial(3, 0.49, 0.8),
        trial(4, 0.51, 0.95),
        trial(5, 0.4, 0.9, "crashed"),
    ]
    found = near(trials, 0.4)
    assert found is not None
    assert found.ordinal == 3
    assert near(trials, 0.7) is None


def test_the_second_experiment_asks_for_the_first(automc_home: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"No study of resnet56 by Random.*exp1 first"):
        exp2.main(["--cifar10", "digits", "--out", str(tmp_path), "--plan", "--searchers", "Random", "--device", "cpu"])


@pytest.mark.slow
def test_both_run_on_tiny_data_in_pieces(
    full_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exp1, "NETS", (("resnet8", "cifar10"),))
    monkeypatch.setattr(exp2, "TO", {"resnet8": ("resnet20",)})
    few = [
        "--cifar10", "digits", "--device", "cpu", "--workers", "1", "--precision", "float32", "--epochs", "2",
        "--unit-epochs", "0.05", "--steps", "3", "--searchers", "Random", "--methods", "NS", "--targets", "0.4",
    ]  # fmt: skip
    first, second = tmp_path / "first", tmp_path / "second"
    exp1.main([*few, "--out", str(first), "--plan"])
    said = capsys.readouterr().out
    assert said.startswith("4 of 4 jobs are left, about 0.")
    assert "search resnet8 by Random, 3 steps" in said
    assert not first.exists()

    exp1.main([*few, "--out", str(first), "--piece", "0.01"])
    assert "stopped, goes on with the next piece: train resnet8, 2 epochs" in capsys.readouterr().out
    exp1.main([*few, "--out", str(first)])
    assert capsys.readouterr().out.endswith("all is done\n")
    found = {row["who"]: row for row in rows(first)}
    assert set(found) == {"Random", "NS"}
    assert 0.38 <= float(found["NS"]["pr"]) <= 0.5
    assert 0 <= float(found["NS"]["test_after"]) <= 1
    assert found["Random"]["scheme"] or "no scheme removes about 40%" in found["Random"]["reason"]
    assert "NS[HP1=0.5,HP2=0.4,HP6=0.9]" in (first / "README.md").read_text()

    exp1.main([*few, "--out", str(first)])
    assert capsys.readouterr().out.startswith("0 of 4 jobs are left")
    exp2.main([*few, "--out", str(second)])
    assert [(r["network"], r["found_on"], r["who"]) for r in rows(second)] == [
        ("resnet20", "resnet8", "Random"), ("resnet20", "resnet8", "NS"),
    ]  # fmt: skip

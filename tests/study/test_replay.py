"""A scheme of a study on another model: what is expected, what is written, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from study_tools import RECIPE, copied, create, run

from automc import api, compressing, knowledge, methods
from automc.errors import MethodError, StudyError
from automc.study import replay
from automc.study import stored as studies
from automc.study.trial import Trial
from automc.training.recipe import Recipe
from benchmarks import transfer
from benchmarks.resumable import claim
from kg import studies as in_graph
from kg.errors import NotInGraph
from kg.schema import Scheme

LFB = "LFB[HP1=0.1,HP2=0.137,HP15=1,HP16=MSE]"


@pytest.fixture(scope="module")
def studied(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a study of four trials, and `other.am`, another small network."""
    with copied(prepared_home, tmp_path_factory.mktemp("studied") / "home") as home:
        run(create(home, "4steps"))
        api.train("resnet8-b", "digits", out=home / "other.am", epochs=1, precision="float32", device="cpu")
    return home


@pytest.fixture
def home(studied: Path, automc_home: Path) -> Path:
    """A copy of it for this test alone."""
    shutil.copytree(studied, automc_home)
    return automc_home


def compress(home: Path, scheme: str, **options: object) -> api.Compressed:
    words = {"out": home / "out.am", "recipe": RECIPE, "precision": "float32", "device": "cpu", **options}
    return api.compress(str(home / "other.am"), "digits", scheme, **words)  # type: ignore[arg-type]


def replays() -> list[dict]:
    with knowledge.graph() as store:
        return in_graph.load_replays(store)


def deepest(study: str) -> Trial:
    return max((t for t in studies.load_trials(study) if t.status == "ok"), key=lambda t: len(t.scheme))


def test_a_trial_is_replayed_with_its_forecast_and_both_are_in_the_graph(home: Path) -> None:
    trial = deepest("digits-digits-1")
    told: list[tuple] = []
    done = compress(
        home,
        f"digits-digits-1:{trial.ordinal}",
        on_forecast=lambda *given: told.append((*given, (home / "out.am").exists())),
    )
    ((expected, origin, existed),) = told
    assert (existed, origin.trial, done.scheme) == (False, trial, trial.scheme)
    assert (done.forecast, done.unrecorded, expected.differences) == (expected, "", ())
    # By hand: the study's rates, on the accuracy of the other model.
    assert expected.accuracy_study == pytest.approx(min(1.0, done.before.accuracy * (1 + (trial.ar or 0))))
    assert expected.removed == trial.pr
    by_scheme = {t.scheme: t for t in studies.load_trials("digits-digits-1")}
    parts = [by_scheme[Scheme(trial.scheme.steps[: n + 1])] for n in range(len(trial.scheme))]
    assert [(s.study_ar, s.study_pr) for s in expected.steps] == [(t.step_ar, t.step_pr) for t in parts]

    (row,) = replays()
    assert row["trial"] == f"digits-digits-1/{trial.ordinal}"
    assert row["scheme"] == trial.scheme.id
    assert row["forecast_accuracy_study"] == expected.accuracy_study
    assert row["forecast_accuracy_experience"] == expected.accuracy_experience is not None
    assert (row["accuracy"], row["params"], row["flops"]) == (done.after.accuracy, done.after.params, done.after.flops)
    assert row["pr"] == pytest.approx(1 - done.after.params / done.before.params)
    assert [step["strategy"] for step in row["steps"]] == [step.id for step in trial.scheme.steps]
    assert row["steps"][-1]["params"] == done.after.params

    compress(home, f"digits-digits-1:{trial.ordinal}")
    assert len(replays()) == 1
    # It was measured on another model, so it outlives the study.
    studies.delete("digits-digits-1")
    (kept,) = replays()
    assert (kept["scheme"], kept["trial"], kept["study"]) == (row["scheme"], None, "digits-digits-1")


def test_experience_goes_by_the_size_of_the_step(home: Path) -> None:
    done = compress(home, LFB)
    (step,) = done.forecast.steps
    vectors = knowledge.newest()
    assert vectors is not None
    assert vectors.guess is not None
    n = api.open_subject(str(home / "other.am"), api.data_ref("digits"), fraction=RECIPE.fraction).splits.train.n
    iterations = methods.get("LFB").iterations(done.scheme.steps[0], RECIPE, n)
    share = done.scheme.steps[0].number("HP2")
    ar = -vectors.guess.slope("LFB", iterations, done.before.accuracy) * share / (1 - share)
    assert step.experience_ar == pytest.approx(ar)
    assert ar < 0
    assert done.forecast.accuracy_experience == pytest.approx(min(1.0, done.before.accuracy * (1 + ar)))
    # And it says how little that rests on.
    seen = vectors.coverage["LFB"]["with_ar"]
    assert f"has {seen} of LFB with an accuracy" in done.forecast.basis
    assert (step.study_ar, done.forecast.accuracy_study) == (None, None)
    assert done.forecast.removed == pytest.approx(0.137)


def test_no_forecast_is_above_all_right(home: Path) -> None:
    origin = replay.find("digits-digits-1:1")
    assert origin is not None
    better = replace(origin, trial=replace(origin.trial, ar=9.0))
    subject = api.open_subject(str(home / "other.am"), api.data_ref("digits"), device="cpu")
    expected = replay.forecast(subject, origin.trial.scheme, RECIPE, better)
    assert expected.accuracy_study == 1.0
    assert expected.accuracy_experience is not None
    assert expected.accuracy_experience < subject.accuracy, "no step by size gains"


def test_another_recipe_is_pointed_out(home: Path) -> None:
    origin = replay.find("digits-digits-1:1")
    assert origin is not None
    subject = api.open_subject(str(home / "other.am"), api.data_ref("digits"), device="cpu")
    shutil.rmtree(home / "vectors")
    expected = replay.forecast(subject, origin.trial.scheme, api.Recipe(), origin)
    assert expected.differences == ("unit_epochs 0.05 there, 10.0 here", "fraction 0.2 there, 1.0 here")
    assert expected.accuracy_experience is not None, "what comes with AutoMC is known in every home"


def test_what_is_no_trial_is_refused_before_anything_slow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object, **__: object) -> None:
        raise AssertionError("the data were opened")

    monkeypatch.setattr(compressing, "open_subject", slow)
    for text, said in (
        ("digits-digit-1:1", r"no study 'digits-digit-1'.*Did you mean digits-digits-1\?"),
        ("digits-digits-1:99", r"no trial 99\. Its trials are 1 to 4"),
        ("digits-digits-1:0", "no trial 0"),
        ("digits-digits-1:last", "'last' is no ordinal"),
        ("digits-digits-1:-1", "'-1' is no ordinal"),
    ):
        with pytest.raises(StudyError, match=said):
            compress(home, text)
    with pytest.raises(MethodError, match="cannot be read"):
        compress(home, str(home / "digits-digits-1:1"))
    with pytest.raises(MethodError, match="knowledge only"):
        compress(home, "FPGM[HP2=0.1]")


def test_a_failed_trial_is_refused_with_its_reason(home: Path) -> None:
    with knowledge.graph() as store:
        row = {"ordinal": 9, "round": 9, "status": "diverged", "reason": "The loss is NaN.\nTraceback"}
        in_graph.save_trial(store, "digits-digits-1", {**row, "scheme": Scheme.parse(LFB)})
    with pytest.raises(StudyError, match=r"ended as diverged: The loss is NaN\. Those that are ok: 1, "):
        compress(home, "digits-digits-1:9")


def test_a_file_of_the_same_name(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits-digits-1:1", "my:scheme"):
        (tmp_path / name).write_text(LFB)
    with pytest.raises(StudyError, match=r"both a file and a trial.*\./digits-digits-1:1"):
        replay.find("digits-digits-1:1")
    assert replay.find("./digits-digits-1:1") is None
    assert replay.find("my:scheme") is None


def test_without_a_graph(automc_home: Path) -> None:
    with pytest.raises(NotInGraph, match=r"There is no graph in .*automc kg init"):
        replay.find("digits-digits-1:1")
    assert replay.find("scheme.txt") is None


def test_the_transfer_benchmark_is_stopped_and_continued(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [t for t in studies.load_trials("digits-digits-1") if t.pr is not None]
    best = max(trials, key=lambda t: t.pr or 0.0)
    wanted = round((best.pr or 0.0) - 0.01, 3)
    out = tmp_path / "out"
    words = [
        "--study", "digits-digits-1", "--model", str(home / "other.am"), "--data", "digits", "--out", str(out),
        "--removed", str(wanted), "--methods", "LFB", "--fraction", "0.2", "--unit-epochs", "0.05",
    ]  # fmt: skip
    monkeypatch.setattr(transfer, "forecasts", lambda runs, _: dict.fromkeys((run.key for run in runs), 100.0))
    monkeypatch.setenv("COLUMNS", "200")
    transfer.main([*words, "--plan"])
    said = capsys.readouterr().out
    assert "2 of 2 runs are missing, about 0.06 h of steps" in said
    assert "0.00 of 2 h are spent" in said
    assert not out.exists()
    # The first is within what is left, and then nothing is.
    transfer.main([*words, "--hours", "0.0278"])
    assert "left for a larger --hours: digits-digits-1" in capsys.readouterr().out
    (first,) = transfer.rows(out)
    assert (first["name"], first["model"]) == ("scheme", "other")
    assert float(first["seconds"]) > float(first["step_seconds"]) > 0
    transfer.main(words)
    assert "1 of 2 runs are missing" in capsys.readouterr().out
    again, alone = transfer.rows(out)
    assert again == first
    assert alone["name"] == "LFB"
    trial = next(t for t in trials if str(t.ordinal) == first["trial"])
    assert first["scheme"] == trial.scheme.id
    assert float(alone["pr"]) == pytest.approx(trial.pr or 0.0, abs=0.03)
    text = (out / "README.md").read_text()
    assert f"## other: trial {trial.ordinal} of digits-digits-1" in text
    assert "nan" not in text
    # One run of the scheme, one of the method: both are in the graph, the first with where it comes from.
    assert sorted(r["trial"] or "" for r in replays()) == ["", f"digits-digits-1/{trial.ordinal}"]


def test_the_transfer_benchmark_goes_on_without_the_study(home: Path, tmp_path: Path) -> None:
    trial = studies.load_trials("digits-digits-1")[0]
    found = {"study": "lost-1", "trial": 7, "name": transfer.SCHEME, "scheme": trial.scheme.id, "wanted": 0.41}
    transfer.append(tmp_path, transfer.COLUMNS, found)
    (again,) = transfer.schemes_of("lost-1", tmp_path)
    assert (again.ordinal, again.scheme, again.pr) == (7, trial.scheme, 0.41)
    assert transfer.chosen([again], [0.4]) == [again]
    assert len(transfer.schemes_of("digits-digits-1", tmp_path)) > 1


def test_a_row_of_a_benchmark_is_claimed_once(tmp_path: Path) -> None:
    key = {"study": "lost-1", "trial": "7"}
    with claim(tmp_path, key) as free, claim(tmp_path, key) as second:
        assert (free, second) == (True, False)
    transfer.append(tmp_path, tuple(key), key)
    with claim(tmp_path, key) as free, claim(tmp_path, key | {"trial": "8"}) as other:
        assert (free, other) == (False, True)
    assert [p.name for p in tmp_path.iterdir()] == ["runs.csv"]


def test_a_single_method_removes_as_much_and_trains_as_long() -> None:
    steps = "NS[HP1=0.3,HP2=0.2,HP6=0.9] -> SFP[HP2=0.2,HP9=0.4,HP10=1]"
    trial = Trial(1, 1, Scheme.parse(steps), "ok", accuracy=0.9, pr=0.40123)
    for name in ("NS", "LFB", "SFP", "LeGR", "HOS"):
        one = transfer.single(name, trial)
        assert one.number("HP2") == 0.4012
        assert methods.get(name).iterations(one, Recipe(), 12800) == pytest.approx(700, abs=2)
    short = Trial(1, 1, Scheme.parse("NS[HP1=0.1,HP2=0.2,HP6=0.9]"), "ok", accuracy=0.9, pr=0.2)
    assert transfer.single("LeGR", short).number("HP1") == transfer.SHORTEST


def test_the_scheme_for_a_size_is_the_most_accurate_of_about_that_size() -> None:
    made = [
        Trial(n, 1, Scheme(), "ok", accuracy=accuracy, pr=pr)
        for n, (accuracy, pr) in enumerate([(0.9, 0.39), (0.8, 0.4), (0.85, 0.45), (0.99, 0.1), (0.5, 0.7)], 1)
    ]
    assert [t.ordinal for t in transfer.chosen(made, [0.4, 0.7])] == [3, 5]
    with pytest.raises(SystemExit, match="no scheme that removes 20% to 30%"):
        transfer.chosen(made, [0.2])

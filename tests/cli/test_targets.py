"""Studies that are asked for more than parameters, on really executed steps."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from study_tools import create, in_process, known, run, same, stored

from automc.execution.outcome import StepOutcome
from automc.report.page import command, page
from automc.study import Listener, Study, ending, gauge
from automc.study.ending import Ending
from automc.study.limits import Limit
from automc.study.stored import load_record

QUICK = ("--unit-epochs", "0.05", "--fraction", "0.2", "--precision", "float32", "--device", "cpu", "--workers", "1",
         "--no-own-experience")  # fmt: skip


def options(spec) -> dict[str, str]:
    """The options of the command that repeats a study, by name."""
    words = shlex.split(command(spec))
    return {word: words[i + 1] for i, word in enumerate(words[:-1]) if word.startswith("--")}


class Sayings(Listener):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_several_limits_together_in_a_study_and_after_resuming_it(full_home, automc, tmp_path):
    limits = (Limit("flops", 0.97, True), Limit("file_bytes", 0.95, True), Limit("latency_ms", 30_000.0))
    study = create(full_home, "5steps", gamma=None, limits=limits)
    result = run(study)
    record = load_record(study.spec.id)
    base = full_home / "studies" / study.spec.id / "base.am"
    assert record["base_file_bytes"] == base.stat().st_size
    assert record["base_latency_ms"] > 0

    bench = study.setup.open()
    able = []
    for t in result.trials:
        file = bench.cache.model_path(bench.key(t.scheme))
        assert t.file_bytes == file.stat().st_size
        small = t.flops <= 0.97 * result.base.flops and t.file_bytes <= 0.95 * base.stat().st_size
        assert (t.latency_ms is not None) == small, "measured where everything else is met, and only there"
        able += [t] if small else []
    assert able
    best = max(t.accuracy for t in able)
    error = math.sqrt(best * (1 - best) / record["validation_images"])
    expected = min((t for t in able if t.accuracy >= best - error), key=lambda t: (t.params, -t.accuracy, t.ordinal))
    assert result.recommendation.trial is expected
    assert record["recommended"] == expected.scheme.id
    assert record["why"] == result.recommendation.why
    assert same(stored(study)) == same(result.trials), "also what was measured beyond the steps' outcomes"

    # Resumed: the same is asked for, and nothing is measured anew.
    with patch.object(gauge, "quiet_latencies", side_effect=AssertionError):
        again = run(Study.open(study.spec.id))
    assert again.spec.limits == limits
    assert again.recommendation == result.recommendation
    assert same(again.trials) == same(result.trials)

    given = options(study.spec)
    assert (given["--max-flops"], given["--max-size"], given["--max-latency"]) == ("97%", "95%", "30000ms")
    assert "--gamma" not in given
    assert result.recommendation.why in page(study.spec.id)
    shown = json.loads(automc("show", study.spec.id, "--format", "json").stdout)
    assert shown["why"] == result.recommendation.why
    assert shown["target"] == study.protocol.asked
    assert shown["recommended"]["latency_ms"] == expected.latency_ms
    why = automc("show", study.spec.id, "--why", "recommended").stdout
    assert result.recommendation.why in why

    # A final run that leaves a larger model than its trial had is not what the user gets.
    def larger(setup, scheme, out, **_):
        shutil.copyfile(base, out)
        return StepOutcome("ok", accuracy=0.5)

    listener, record = Sayings(), {}
    spec = replace(study.spec, final=True)
    end = Ending(
        spec, study.setup, study.subject, study.protocol, None, record, lambda **new: record.update(new), listener, 0.0
    )  # fmt: skip
    with patch.object(ending, "final", larger):
        saved = end.of(result.trials)
    chosen = next(t for t in result.trials if t.scheme.id == saved["scheme"])
    assert (saved["params"], saved["file_bytes"]) == (chosen.params, chosen.file_bytes)
    assert Path(saved["path"]).read_bytes() == bench.cache.model_path(bench.key(chosen.scheme)).read_bytes()
    (missed,) = [said for said in listener.said if said.startswith("The model of the final run misses the target: ")]
    assert "FLOPs " in missed
    assert "file size" in missed


def test_the_smallest_within_a_drop_and_what_is_said_of_it(full_home, automc):
    """With a drop that all trials of a study stay within, and with one that none does."""
    words = ("search", full_home / "digits.am", "--data", "digits", "--budget", "2steps", *QUICK, "--final", "none")
    with in_process(), known(full_home):
        done = automc(*words, "--max-drop", "99pp")
    assert done.exit_code == 0, done.output
    assert "search, at most 99pp of validation accuracy lost." in done.stderr
    trials = stored("digits-digits-1")
    smallest = min(trials, key=lambda t: (t.params, -t.accuracy))
    assert smallest.pr > 0
    said = f"Recommended: trial {smallest.ordinal}, the smallest model with at most 99pp of"
    assert said in done.stderr

    with in_process(), known(full_home):
        done = automc(*words, "--max-latency", "1us", "--max-size", "10MB", "--max-drop", "99pp", "--format", "json")
    assert done.exit_code == 3, done.output
    assert json.loads(done.stdout) == []
    assert "--max-size 10000KB is looser than the model itself: " in done.stderr
    times = {t: t.latency_ms + t.latency_iqr_ms / 2 for t in stored("digits-digits-2")}
    nearest = min(times, key=lambda t: times[t])
    assert f"Nearest: trial {nearest.ordinal} removed {nearest.pr:.2%}" in done.stderr
    over = f"{times[nearest] / 0.001 - 1:.1%} over the limit of"
    assert re.search(rf"It misses: latency [\d.,]+ ms \(with .*\), {re.escape(over)} 0\.001 ms\.", done.stderr)
    shown = json.loads(automc("show", "digits-digits-2", "--format", "json").stdout)
    assert (shown["status"], shown["recommended"]) == ("unmet", None)
    assert over in shown["nearest"]
    assert over in page("digits-digits-2")

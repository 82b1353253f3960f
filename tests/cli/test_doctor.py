"""`automc doctor`, and the comparison of `automc measure`."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from inline import Inline

from automc import api, methods, temporary
from automc.execution.outcome import StepOutcome
from automc.models.measure import Latency
from automc.study import doctor

CPU = ("--data", "digits", "--device", "cpu")


@pytest.fixture
def digits(prepared_home: Path, automc_home: Path, tmp_path: Path) -> Path:
    """The small trained network, in a home of its own."""
    return Path(shutil.copyfile(prepared_home / "digits.am", tmp_path / "digits.am"))


def test_it_tries_every_method_and_lists_every_layer(automc, digits, monkeypatch):
    monkeypatch.setattr(doctor, "local_workers", Inline)
    result = automc("doctor", digits, *CPU, "--precision", "float32", "--keep", "layer3.*", "--format", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    by_name = {m["method"]: m for m in found["methods"]}
    known = [name for name in methods.registered() if name in by_name]  # other tests register methods without a card
    assert {"LMA", "LeGR", "NS", "SFP", "HOS", "LFB"} <= set(known)
    for name in known:
        assert by_name[name]["works"], by_name[name]["reason"]
        assert 0 < by_name[name]["shortest_seconds"] <= by_name[name]["longest_seconds"]
        assert 0 < by_name[name]["reach"] <= 0.85
        assert all(level <= by_name[name]["reach"] + 1e-4 for level in by_name[name]["levels"])
        assert by_name[name]["within"] <= by_name[name]["strategies"]
    assert found["searchable"] == sum(m["within"] for m in found["methods"] if m["works"])
    assert found["seconds"] > 0
    layers = {row["name"]: row for row in found["model"]["layers"]}
    assert not layers["layer3.0.conv1"]["prunable"]
    assert layers["layer1.0.conv1"]["prunable"]
    assert not list(Path(digits).parent.glob("**/*scratch-*")), "nothing is left behind"


def test_what_killed_work_left_goes_with_the_next(automc_home):
    def there() -> set[Path]:
        return set(automc_home.glob(".automc-*"))

    with doctor._folder() as alive:
        child = os.fork()
        if child == 0:
            killed = doctor._folder()
            killed.__enter__()
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        assert len(there()) == 2
        temporary.sweep(automc_home)
        assert there() == {alive}
    assert there() == set()


@pytest.mark.slow
def test_its_table_ends_with_what_to_expect(automc, digits):
    result = automc("doctor", digits, *CPU, "--precision", "float32", "--keep-shape", "*")
    assert result.exit_code == 0, result.output
    assert "kept by a pattern" in result.stdout
    assert "Does not work:" in result.stderr
    assert "--keep" in result.stdout, "the reason names the option"


def test_measure_compares_two_models(automc, digits, tmp_path):
    small = tmp_path / "small.am"
    api.compress(str(digits), "digits", "NS[HP1=0.01,HP2=0.4,HP6=0.9]", out=small, precision="float32", device="cpu")
    result = automc("measure", small, "--before", digits, *CPU, "--format", "json")
    assert result.exit_code == 0, result.output
    rows = {row["figure"]: row for row in json.loads(result.stdout)}
    removed = 1 - rows["params"]["after"] / rows["params"]["before"]
    assert removed == pytest.approx(0.4, abs=0.01)
    assert rows["params"]["change"] == f"{-removed:+.1%}"
    assert rows["accuracy"]["change"].endswith("points")
    for name in ("flops", "peak_memory_bytes", "file_bytes"):
        assert rows[name]["after"] < rows[name]["before"], name


def test_a_warning_where_the_time_did_not_fall():
    def measured(flops: int, ms: float) -> api.Measured:
        return api.Measured(10, 320, flops, None, None, Latency(ms, 0.2, 1, 1, 30, "cpu"), 1, 1)

    assert api.no_faster(measured(100, 5.0), measured(60, 3.0)) is None
    assert api.no_faster(measured(100, 5.0), measured(100, 5.0)) is None, "nothing was promised"
    warning = api.no_faster(measured(100, 5.0), measured(60, 4.9))
    assert warning is not None
    assert "40%" in warning


def test_layers_that_cannot_be_looked_at_in_time_are_a_sentence():
    class Late:
        """Workers that lost a job to the limit."""

        def submit(self, job, timeout):
            assert timeout == doctor.LIMIT_SECONDS
            return 1

        def collect(self):
            return [(1, StepOutcome("timeout", "It took more than 300 s."))]

    found = doctor._looked_at(Late())
    assert found.layers == ()
    assert found.pruning == "The layers were not looked at (timeout): It took more than 300 s."

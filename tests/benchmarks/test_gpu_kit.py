"""The kit for people with a card runs here too, in its reduced form."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as kit
from benchmarks.gpu import speed, synthetic
from benchmarks.gpu.page import COLUMNS, page, verdict

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a card the kit is run whole")


def measured(out: Path) -> list[dict[str, str]]:
    with (out / "runs.csv").open() as file:
        return list(csv.DictReader(file))


def row(**values: Any) -> dict[str, str]:
    plain = dict.fromkeys(COLUMNS, "") | {"first_seconds": "0", "peak_mb": "9", "network": "resnet56", "device": "cuda"}
    return plain | {name: str(value) for name, value in values.items()}


def test_it_runs_here_row_by_row_and_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "reduced", lambda: speed.Size(torch.device("cpu"), 16, 4, 2, 1, 0))
    monkeypatch.setattr(speed, "VARIANTS", (speed.VARIANTS[0], speed.BEST))
    kit.main(["--out", str(tmp_path), "--parts", "speed"])
    found = measured(tmp_path)
    assert [r["variant"] for r in found] == [kit.PLAIN, kit.RESIDENT, "float32, channels first", "bfloat16, graph"]
    assert all((r["device"], r["torch"], r["batch"]) == ("cpu", torch.__version__.split("+")[0], "4") for r in found)
    assert all(float(r["value"]) > 0 and not r["note"].startswith("failed") for r in found)
    kit.main(["--out", str(tmp_path), "--parts", "speed"])
    assert measured(tmp_path) == found
    assert "unmeasured" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_workers_tests_and_a_study_run_here_too(tmp_path: Path) -> None:
    kit.main(["--out", str(tmp_path), "--parts", "workers", "tests", "study"])
    found = {(r["part"], r["workers"]): r for r in measured(tmp_path)}
    assert set(found) == {("workers", "1"), ("workers", "2"), ("tests", "1"), ("study", "1")}
    assert not [r["note"] for r in found.values() if "failed" in r["note"]]
    assert "skipped" in found["tests", "1"]["note"]
    assert float(found["study", "1"]["value"]) > 0


def test_what_fails_is_a_row_that_says_so() -> None:
    def broken() -> speed.Timed:
        raise RuntimeError("CUDA out of memory\nand more")

    line = kit.measured(kit.Row("speed", "resnet20", "x", 1, 1.0, broken), kit.reduced())
    assert (line["value"], line["note"]) == (0.0, "failed: CUDA out of memory")


def test_the_target_is_told_once_there_are_rows_of_a_card() -> None:
    plain = row(part="speed", variant="plain loop", workers=1, value=4000)
    some = [row(part="workers", variant="bfloat16, graph", workers=n, value=v) for n, v in ((1, 20000), (8, 39000))]
    assert verdict([]) == verdict([plain]) == "unmeasured"
    assert verdict([plain, *some]) == "not reached, 9.8 times with 8 workers"
    more = row(part="workers", variant="bfloat16, graph", workers=4, value=40400)
    assert verdict([plain, *some, more]) == "reached, 10.1 times with 4 workers"
    text = page([plain, *some, row(part="study", variant="gamma 0.4", workers=4, value=31.25, note="n")])
    assert "No card has run this yet" not in text
    assert "31.2 steps a minute" in text
    assert "No card has run this yet" in page([])


def test_synthetic_images_can_be_told_apart() -> None:
    x, y = synthetic.images(40, 1)
    assert (x.shape, x.dtype, y.tolist()) == ((40, 3, 32, 32), torch.uint8, [i % 10 for i in range(40)])
    distance = torch.cdist(x.flatten(1).float(), x.flatten(1).float()).fill_diagonal_(torch.inf)
    assert (y[distance.argmin(1)] == y).float().mean() > 0.9
    assert not torch.equal(x, synthetic.images(40, 2)[0])

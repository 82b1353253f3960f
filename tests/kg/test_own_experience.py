"""Our own measurements as experience: the committed files are what the committed tables say."""

from __future__ import annotations

import pytest

from benchmarks.own_experience import OUT, ROOT, TABLES, Table, document
from kg.curation.documents import write_document
from kg.experience import read_experience


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.id)
def test_files_are_what_the_script_writes(table: Table) -> None:
    assert (OUT / f"{table.id}.yaml").read_text(encoding="utf-8") == write_document(document(table)), (
        f"{table.path} changed. Write the files anew: python -m benchmarks.own_experience"
    )


def test_every_file_of_ours_has_a_table() -> None:
    assert {path.stem for path in OUT.glob("automc_*.yaml")} == {table.id for table in TABLES}
    assert all((ROOT / table.path).is_file() for table in TABLES)


def test_a_later_step_is_relative_to_its_input() -> None:
    # Lines 2 and 3 of random.csv: 0.8618 and 172,554 parameters; then 0.784 and 118,490 of M's 269,722, planned 0.2.
    first, second = read_experience([OUT / "automc_random.yaml"])[0][:2]
    assert first.ar == pytest.approx(0.8618 / 0.935 - 1)
    assert (second.task.accuracy, second.task.params) == (pytest.approx(0.8618), 172_554)
    assert second.ar == pytest.approx(0.784 / 0.8618 - 1)
    assert second.pr == pytest.approx(1 - 118_490 / 172_554)
    assert second.strategy.number("HP2") == pytest.approx(0.2 * 269_722 / 172_554, abs=1e-5)
    assert (second.iterations, second.train_images, second.code, second.seed) == (78, 5_000, "a3ed3f9", 0)

"""What figures and tables look like to a person; machine formats keep them raw."""

from __future__ import annotations

import json

import pytest

from automc.cli.figures import duration, shown
from automc.cli.front import show_trials
from automc.cli.output import PIPE_COLUMNS, Format, show, show_record
from automc.study.headline import Headline, Share
from automc.study.protocol import Protocol
from automc.study.trial import Trial
from kg.schema import Scheme


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.97493, "97.49%"), ("test_accuracy_low", 0.9, "90.00%"), ("validation_after", 1.0, "100.00%"),
        ("forecast_validation_study", 0.5, "50.00%"), ("removed", 0.3, "30.00%"), ("bits_removed", 0.25, "25.00%"),
        ("ar", -0.0153, "-1.53%"), ("params", 75002, "75,002"), ("Strategy nodes", 4525, "4,525"),
        ("accuracy_images", 5000, "5,000"), ("file_bytes", 307_249, "307 kB"), ("file_bytes", 12, "12 bytes"),
        ("peak_memory_bytes", 21_474_836_480, "21.5 GB"), ("weights_bytes", 1_700_000, "1.7 MB"),
        ("latency_median_ms", 0.35421, "0.354 ms"), ("seconds", 0.42, "0.42 s"), ("seconds", 5000, "83 min"),
        ("seed", 123456, 123456), ("time_ratio", 1.05, 1.05), ("uncounted", "nothing", "nothing"), ("opset", 20, 20),
        ("test_accuracy", None, None), ("reached", True, "yes"), ("recovery", False, "no"),
        ("added", {"Method": 2, "Experience": 3046}, "Method 2, Experience 3,046"), ("pending_migrations", [], "none"),
        ("ratios", [0.123456, 2], "0.1235, 2"), ("nested", [{"a": 1}], [{"a": 1}]),
    ],
)  # fmt: skip
def test_figures_are_printed_by_their_names(name, value, text):
    assert shown(name, value) == text


def test_times_are_printed_in_the_unit_that_fits():
    assert [duration(s) for s in (0.9, 40.2, 600, 7200)] == ["0.9 s", "40 s", "10 min", "2.0 h"]


def test_machine_formats_stay_raw(capsys):
    record = {"accuracy": 0.97493, "params": 75002, "file_bytes": 307_249}
    show_record(record, Format.json)
    assert json.loads(capsys.readouterr().out) == record
    show_record(record, Format.csv)
    assert capsys.readouterr().out.splitlines()[1:] == ["accuracy,0.97493", "params,75002", "file_bytes,307249"]


def test_a_table_fits_into_a_hundred_columns(capsys):
    show([f"column {n}" for n in range(9)], [["word " * 12] * 9] * 2, Format.table)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert max(map(len, lines)) <= PIPE_COLUMNS == 100


def test_what_is_recommended_has_a_row_also_beside_the_front(capsys):
    base = {"accuracy": 0.9, "params": 1000, "flops": 10**6}
    first, other = (
        Trial(
            n, n, Scheme.parse(text), "ok", accuracy=a, params=p, flops=10**5, ar=0.0, pr=1 - p / 1000, fr=0.9, sr=0.5
        )
        for n, text, a, p in (
            (1, "NS[HP1=0.1,HP2=0.2,HP6=0.9]", 0.8, 300),
            (2, "SFP[HP2=0.2,HP9=0.1,HP10=1]", 0.7, 310),
        )
    )
    protocol = Protocol(0.6, (), None, base, 100)
    test = Headline(Share.of(0.75, 100), Share.of(0.7, 100), None, 0.9)
    show_trials([first], other, Format.json, "", protocol, test)
    rows = json.loads(capsys.readouterr().out)
    assert [(row["trial"], row["recommended"], row["test_accuracy"]) for row in rows] == [(2, "*", 0.75), (1, "", None)]
    show_trials([first], other, Format.table, "", protocol)
    assert "trial 2 is recommended for what came of it" in capsys.readouterr().out
    show_trials([first], first, Format.table, "", protocol)
    assert "trial 2" not in capsys.readouterr().out

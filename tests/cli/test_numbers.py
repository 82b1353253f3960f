"""Every number that an option takes: what is infinite, huge or negative is refused at once, by all commands alike."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import pytest
import typer

from automc import bounds
from automc.cli.main import app
from automc.datasets import DataRef
from automc.errors import AutoMCError, StudyError
from automc.study import Budget
from automc.study.limits import parse_bytes
from automc.training.recipe import Recipe

NEVER = ("nan", "-inf", "-7", "1e30", "1" + "0" * 30, "")
TEXTS = {
    "--budget": ("inf", "nan", "-1h", "0s", "1e5h", "9" * 400 + "h", "9" * 400 + "steps", "infsteps", "99999999999h",
                 "99999999999999steps", ""),
    "--cache-size": ("inf", "-1", "nan", "1e30", "9" * 400, "-5GiB", "999999999999TiB", ""),
    "--to": ("inf", "-1", "nan", "9" * 400, "999999999999TiB", ""),
    "--max-flops": ("inf", "nan", "-1M", "9" * 400 + "M", "0%", "nan%", "inf%", "1e9M", ""),
    "--max-size": ("inf", "9" * 400 + "KB", "nan%", "0KB", ""),
    "--max-latency": ("inf", "9" * 400 + "ms", "nan", "0ms", ""),
    "--round-to": ("inf", "-1", "0", "nan", "1e30", "9" * 400, "1.5", "automatic", ""),
    "--max-drop": ("inf", "nanpp", "9" * 400 + "pp", "-1pp", "100pp", ""),
    "--mean": ("nan", "inf", "1e30", "-50", "125.3", "0.5,", " ", ""),
    "--std": ("nan", "inf", "0", "-1", "1e-320", "1e30", ""),
}  # fmt: skip
"""Of options that take numbers as text."""
QUICK = ("--data", "digits", "--precision", "float32", "--device", "cpu")
BASE: dict[tuple[str, ...], tuple[str, ...]] = {
    ("search",): ("absent.am", *QUICK, "--budget", "1step"),
    ("resume",): ("no-such-study",),
    ("compress",): ("absent.am", *QUICK, "--scheme", "NS[HP1=0.01,HP2=0.12,HP6=0.9]", "--unit-epochs", "0.1"),
    ("doctor",): ("absent.am", *QUICK),
    ("train",): ("resnet8", *QUICK, "--epochs", "0.1", "--out", "t.am"),
    ("measure",): ("absent.am", "--data", "digits", "--device", "cpu"),
    ("export",): ("absent.am", "--out", "x.onnx", "--int8", "--data", "digits"),
    ("kg", "query"): ("MATCH (m:Method) RETURN m.id",),
    ("kg", "similar"): ("NS[HP1=0.2,HP2=0.12,HP6=0.9]",),
    ("kg", "embed"): (),
    ("kg", "up"): ("--no-docker",),
    ("kg", "logs"): (),
    ("cache", "prune"): (),
    ("board",): ("--no-open",),
    ("latency", "calibrate"): ("absent.am",),
    ("latency", "check"): ("absent.am",),
}
"""What each command with numbers needs besides. There is no absent.am, which is found out after the numbers."""


def commands(group: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Callable[..., Any]]]:
    """Every command by its words, with what it calls."""
    for one in group.registered_commands:
        assert one.callback is not None
        yield (*path, one.name or one.callback.__name__), one.callback
    for inner in group.registered_groups:
        yield from commands(inner.typer_instance, (*path, str(inner.name)))


def options(command: Callable[..., Any]) -> Iterator[tuple[str, set[Any]]]:
    """Each option of a command by its first name, with the types that it takes."""
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind, *notes = get_args(parameter.annotation)
        for note in notes:
            if isinstance(note, typer.models.OptionInfo):
                names = [str(name) for name in (note.default, *(note.param_decls or ())) if str(name).startswith("-")]
                kinds = set(get_args(kind)) if get_origin(kind) is not list and get_args(kind) else {kind}
                names.sort(key=lambda name: not name.startswith("--"))
                yield (names or [f"--{parameter.name.replace('_', '-')}"])[0].split("/")[0], kinds - {NoneType}


NUMBERS = [
    (words, option, TEXTS.get(option) or NEVER)
    for words, command in commands(app)
    for option, kinds in options(command)
    if kinds & {int, float} or option in TEXTS
    if (words, option) != (("kg", "copy"), "--to")
]


def test_every_option_with_a_number_has_a_range():
    assert {option for _, option, values in NUMBERS if values is NEVER} <= set(bounds.RANGES)
    assert {words for words, _, _ in NUMBERS} <= set(BASE)
    assert len(NUMBERS) > 50


@pytest.mark.parametrize(
    ("words", "option", "values"), NUMBERS, ids=lambda v: " ".join(v) if v in BASE else str(v)[:20]
)
def test_numbers_that_no_option_takes(automc, automc_home, tmp_path, monkeypatch, words, option, values):
    monkeypatch.chdir(tmp_path)
    given = list(BASE[words])
    if option in given:
        del given[given.index(option) : given.index(option) + 2]
    given += {"--mean": ["--std", "0.5"], "--std": ["--mean", "0.5"]}.get(option, [])
    for value in values:
        result = automc(*words, *given, *([f"{option}={value}"] if option.startswith("--") else [option, value]))
        assert result.exit_code == 2, (value, result.output)
        assert result.stdout == ""
        # The command line's own message is wrapped to the terminal, in a frame.
        assert option in re.sub(r"\s*│?\n│?\s*", "", result.stderr) or option in result.stderr, (value, result.stderr)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("field", ["unit_epochs", "batch", "lr", "momentum", "weight_decay", "fraction", "round_to",
                                   "recalibration_images", "teacher", "sparsity"])  # fmt: skip
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 10**400, "1", None, True])
def test_recipes_in_python(field, value):
    with pytest.raises(StudyError, match=r"must (lie|be a whole number) in"):
        replace(Recipe(), **{field: value})


def test_other_entries_in_python(tmp_path: Path):
    with pytest.raises(StudyError, match="precision must be one of"):
        Recipe(precision="float16")  # type: ignore[arg-type]
    for bad in ({"seconds": float("inf")}, {"steps": 0}, {"steps": 1.5}, {}, {"steps": 1, "seconds": 1.0}):
        with pytest.raises(StudyError, match="budget"):
            Budget(**bad)
    with pytest.raises(AutoMCError, match=r"--mean must lie in \[-10, 10\] for pixels in \[0, 1\], it is 123.7"):
        DataRef("digits", mean=(123.7,), std=(1.0,))
    with pytest.raises(AutoMCError, match="--size must be a whole number in"):
        DataRef("digits", size=1.5)  # type: ignore[arg-type]
    assert parse_bytes("0") == 0
    assert parse_bytes("1.5 KiB") == 1536
    assert parse_bytes("20GiB") == 20 * 2**30


def test_ends_of_a_range():
    share, count = bounds.RANGES["--teacher"], bounds.RANGES["--batch"]
    assert [value in share for value in (0, 0.999, 1)] == [True, True, False]
    assert [value in count for value in (1, 10**6, 0, 1.0, True)] == [True, True, False, False, False]

"""Names that nothing has: an error that says which, and the near one."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import Result


def expect_refused(result: Result, *said: str) -> None:
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.startswith("Error: ")
    for words in said:
        assert words in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("experience", "list", "--source", "he2018"), ("--source he2018", "he2018_sfp", "Did you mean he2018_")),
        (("experience", "list", "--source", "XX"), ("--source XX: no record comes from it",)),
        (("experience", "list", "--method", "NSS"), ("There is no method NSS", "Did you mean NS?")),
        (("experience", "retire", "sfp_0001", "--because", "x"), ("'sfp_0001'", "Did you mean sfp_001?")),
        (("method", "show", "LEGRR"), ("There is no method LEGRR",)),
        (("kg", "query", "MATCH (m:Method) RETURN m.id", "--param", "m=NS"), ("--param m: the statement has no $m",)),
        (("kg", "query", "MATCH (m:Method {id: $m}) RETURN m", "--param", "n=NS"), ("--param n: ",)),
        (("kg", "query", "RETURN '$m' // $m", "--param", "m=NS"), ("--param m: the statement has no $m",)),
        (("kg", "query", "--saved", "front", "--param", "studyy=a"), ("--param studyy",)),
        (("kg", "explain", "NS[HP99=1]"), ("NS has no hyperparameter HP99; it has HP1, HP2, HP6",)),
    ],
)  # fmt: skip
def test_names_in_the_graph(automc, home, words, said):
    expect_refused(automc(*words), *said)


def test_a_parameter_that_is_used_is_taken(automc, home):
    answer = automc("kg", "query", "MATCH (m:Method {id: $m}) RETURN m.id AS id", "--param", "m=NS", "--format", "csv")
    assert answer.stdout == "id\nNS\n"


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ("NS[HP2=0.1]", "Step 1, NS[HP2=0.1]: HP1, HP6 is missing. NS has HP1, HP2, HP6"),
        ("NS[HP1=0.1,HP2=0.1,HP6=0.9,HP99=1]", "there is no HP99. NS has HP1, HP2, HP6"),
        ("NS[HP1=0.1,HP2=0.1,HP6=0.9] -> NS[HP1=0.1,HP2=0.1,HP5=0.9]", "HP5=0.9]: HP6 is missing"),
        ("NS[HP1=-5,HP2=0.1,HP6=0.9]", "HP1 must lie between 0 and 1000"),
        ("NS[HP1=0.1,HP2=0.1,HP6=7]", "HP6 must lie between 0 and 1"),
        ("NS[HP1=1e8,HP2=0.1,HP6=0.9]", "HP1 must lie between 0 and 1000"),
        ("NS[HP1=1e99,HP2=0.1,HP6=0.9]", "1e99 is too large"),
        ("NS[HP1=nan,HP2=0.1,HP6=0.9]", "'nan' is not a value"),
        ("NS[HP1=0.1,HP2=lots,HP6=0.9]", "HP2 must be a number"),
        ("NS[HP1=0.1,HP2=0.1,HP2=0.2,HP6=0.9]", "sets a hyperparameter twice"),
        ("LFB[HP1=0.1,HP2=0.1,HP15=x,HP16=MSE]", "HP15 must be a number"),
        ("LFB[HP1=0.1,HP2=0.1,HP15=1,HP16=XYZ]", "HP16 must be one of"),
        ("legr[HP1=0.1,HP2=0.1]", "There is no code for a method 'legr': it is knowledge only, or unknown"),
        ("legr[HP1=0.1,HP2=0.1]", "Did you mean LeGR?"),
        ("CURL[HP2=0.1]", "There is no code for a method 'CURL'"),
        ("NS HP1=0.1", "cannot be read"),
    ],
)  # fmt: skip
def test_schemes_are_checked_before_anything_is_opened(automc, automc_home: Path, scheme, said):
    expect_refused(automc("compress", "absent.am", "--data", "digits", "--scheme", scheme), said)
    assert not automc_home.exists()


@pytest.mark.parametrize("text", ["\ufeffNS[HP1=0.1,HP2=0.1,HP6=7]\r\n", "NS[HP1=0.1, HP2=0.1, HP6=7]  # comment\n\n"])
def test_scheme_files_as_editors_leave_them(automc, automc_home, tmp_path, text):
    (tmp_path / "scheme.txt").write_bytes(text.encode())
    said = "NS[HP1=0.1,HP2=0.1,HP6=7]: HP6 must lie between 0 and 1"
    expect_refused(automc("compress", "absent.am", "--data", "digits", "--scheme", tmp_path / "scheme.txt"), said)


@pytest.mark.parametrize("name", ["ns", "XX", ""])
def test_only_names_methods_with_code(automc, automc_home, name):
    said = "There is no code for a method"
    expect_refused(automc("search", "absent.am", "--data", "digits", f"--only={name}", "--budget", "1step"), said)

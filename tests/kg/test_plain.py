"""YAML that is only data: what is read, what is refused and where, and that what is written reads back."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import KINDS_OF_INPUT, fuzz
from kg.cards import read_cards
from kg.curation import documents
from kg.curation.documents import Source, read_text
from kg.errors import CardInvalid
from kg.plain import read_yaml, write_yaml

# Each line stands for ten of the line before.
BOMB = "l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"l{i + 1}: &l{i + 1} [{', '.join([f'*l{i}'] * 10)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: *x\n", ":2: "),
        ("a:\n- &a [*a]\n", ":2: the alias *a holds itself"),
        (BOMB, ":7: up to here there are more than 2,000,000 values"),
        ("a: 1\n\nb: !!set {x, y}\n", ":3: the tag"),
        ("a: !!binary aGVsbG8=\n", ":1: the tag"),
        ("a: !!timestamp 2020-01-01\n", ":1: the tag"),
        ("a: !!python/object/apply:os.getcwd []\n", ":1: the tag"),
        ("a: 1\nb: 1\na: 2\n", ":3: 'a' is given twice"),
        ("? [1, 2]\n: 3\n", ":1: a field's name is a word"),
        ("a: .inf\n", ":1: .inf is no finite number"),
        ("a: 1\nb: .nan\n", ":2: .nan is no finite number"),
        ("a: 1e999\n", ":1: 1e999 is no finite number"),
        ("a: 99999999999999999999\n", "is no finite number of at most 64 bits"),
        ("a: 1\n---\nb: 2\n", ":2: a second document"),
        ("a: " + "[" * 60 + "]" * 60, ":1: this is nested deeper than 50 levels"),
        ("a:\n\t- 1\n", ":2: "),
        ("a: 1\nb: [1\n", ":3: "),
        ("a: 1\nb: \x00\n", ":2: a control character"),
        ('a: "\\x07"\n', ":1: a control character"),
        ("a: 1\nformat: 2020-01-01\n", "format: Input should be 1 (line 2)"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_with_its_line(text, said):
    with pytest.raises(CardInvalid) as caught:
        read_cards([Source("card.yaml", text)])
    assert str(caught.value).startswith("card.yaml")
    assert said in str(caught.value)


def test_what_is_read():
    text = "a: 2020-01-01\nb: [no, 1:30, 0x10, 1e3, -.5, ~, true, '7', 2020-13-45]\nc: {<<: x}\n"
    content, lines = read_yaml(text)
    words = ["no", "1:30", "0x10", 1000.0, -0.5, None, True, "7", "2020-13-45"]
    assert content == {"a": "2020-01-01", "b": words, "c": {"<<": "x"}}
    assert (lines[("a",)], lines[("b", 3)], lines[("c", "<<")]) == (1, 2, 3)
    assert read_yaml("") == (None, {})
    assert read_yaml("a: &x {b: 1}\nc: [*x, *x]\n")[0] == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}


PRINTED = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\n\t"), max_size=20)
NUMBERS = (
    st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
)
WORDS = st.sampled_from(
    ["1e-5", "08", "+5", "yes", "null", "2020-01-01", "~", ".inf", "1e999", "9" * 30, "1_000", "- a"]
)
DATA = st.recursive(
    PRINTED | NUMBERS | WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PRINTED, inner, max_size=3)
)


@given(DATA)
def test_what_is_written_reads_back(content):
    assert read_yaml(write_yaml({"a": content, "b": content}))[0] == {"a": content, "b": content}


@settings(max_examples=40)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | WORDS)
def test_other_readers_read_the_same(text):
    if text.isprintable():
        assert yaml.safe_load(write_yaml({"a": text})) == {"a": text}


def test_files_as_editors_leave_them(tmp_path, monkeypatch):
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    assert read_text(path, CardInvalid) == "a\nb\n"
    for content, said in ((b"\xff\xfea\0", "is not UTF-8 text"), (b"x" * 11, "is larger than")):
        path.write_bytes(content)
        monkeypatch.setattr(documents, "MAX_BYTES", 10)
        with pytest.raises(CardInvalid, match=said):
            read_text(path, CardInvalid)
    with pytest.raises(CardInvalid, match="cannot be read: Is a directory"):
        read_text(tmp_path, CardInvalid)


@pytest.mark.parametrize("kind", KINDS_OF_INPUT)
def test_mutated_input_is_read_or_refused(kind):
    counts = fuzz(kind, 100, seed=1)
    assert counts.foreign == []
    assert counts.outcomes["refused"] > 30

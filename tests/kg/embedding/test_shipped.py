"""The vectors that come with the package are those of the knowledge that comes with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from kg.cards import enumerate_strategies, on_grid, read_cards
from kg.embedding.fingerprint import fingerprint
from kg.embedding.law import fit, judge, lessons
from kg.embedding.learn import EPOCHS
from kg.embedding.vectors import Vectors, is_current
from kg.errors import VectorsInvalid
from kg.experience import read_experience
from kg.resources import vectors_dir
from kg.schema import Method

Triple = tuple[str, str, str]


def test_they_were_learned_from_these_cards_and_this_experience(
    triples_of: Callable[[Sequence[Method]], list[Triple]],
) -> None:
    (file,) = vectors_dir().glob("*.safetensors")
    methods, (experience, _) = on_grid(read_cards()), read_experience()
    shipped = Vectors.load(file)
    now = fingerprint(triples_of(methods), (record.mark for record in experience if not record.idle))
    assert shipped.fingerprint == now, "cards or experience changed: make vectors, and commit data/vectors"
    assert file.name == f"{shipped.id}.safetensors"
    assert shipped.strategies == tuple(s.id for method in methods for s in enumerate_strategies(method))
    assert shipped.epochs >= EPOCHS
    again = "the law by size is fitted in another way: make vectors"
    assert shipped.law == fit(lessons(experience)), again
    assert shipped.verdict == judge(experience), again


def test_a_record_that_says_something_else_is_another_fingerprint(
    triples_of: Callable[[Sequence[Method]], list[Triple]],
) -> None:
    (file,) = vectors_dir().glob("*.safetensors")
    experience, _ = read_experience()
    marks = [record.mark for record in experience if not record.idle]
    assert fingerprint(triples_of(on_grid(read_cards())), marks[1:]) != Vectors.load(file).fingerprint


def test_a_file_of_the_earlier_kind_is_read_but_nothing_goes_on_from_it(tmp_path: Path) -> None:
    (file,) = vectors_dir().glob("*.safetensors")
    with safe_open(file, framework="numpy") as kept:
        about = json.loads(kept.metadata()["vectors"])
        arrays = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 (not a mapping)
    old = tmp_path / "old.safetensors"
    save_file(arrays, old, metadata={"vectors": json.dumps({**about, "format": 1, "graph": "abc"})})
    assert Vectors.load(old).strategies == Vectors.load(file).strategies
    assert is_current(file)
    assert not is_current(old)
    save_file(arrays, old, metadata={"vectors": json.dumps({**about, "format": 3})})
    with pytest.raises(VectorsInvalid, match="newer AutoMC"):
        Vectors.load(old)

"""From an empty home to embeddings on the command line, with small cards: `kg init`, `kg embed`, and what ages them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from automc import knowledge
from automc.cli.kg import app
from kg.embedding.vectors import Vectors
from kg.experience import read_experience as read_packaged
from kg.nodes import experience_row
from kg.sync import read_experience


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(scope="module")
def filled(small_cards: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose graph was filled once by `kg init`; tests that write clean up."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOMC_HOME", str(folder))
        patch.delenv("AUTOMC_GRAPH", raising=False)
        result = run("init", "--format", "json")
        assert result.exit_code == 0, result.output
        created = {row["kind"]: row["created"] for row in json.loads(result.stdout)}
        assert created["Strategy"] >= small_cards
        assert created["Experience"] == len(read_packaged()[0])
        assert "Applied migration" in result.stderr
        yield folder


@pytest.fixture(scope="module")
def learned(filled: Path, small_cards: int) -> Vectors:
    """Vectors of one epoch, by `kg embed`."""
    assert run("similar", "NS[HP1=0.2,HP2=0.12,HP6=0.9]").exit_code == 2
    assert json.loads(run("status", "--format", "json").stdout)["embedding"] == "none"
    result = run("embed", "--epochs", "1", "--seed", "3", "--format", "json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["strategies"], said["seed"]) == (small_cards, 3)
    assert "embedding: 1/1" in result.stderr
    again = run("embed", "--format", "json")
    assert json.loads(again.stdout) == said
    assert "1/1" not in again.stderr
    return knowledge.vectors()


def test_a_method_off_the_default_grid_is_learned_where_it_is_named(learned):
    assert not [id for id in learned.strategies if id.startswith("UQ[")]
    named = knowledge.ablated(only=("UQ", "NS"), epochs=1)
    assert {id.partition("[")[0] for id in named.strategies} == {"UQ", "NS"}
    assert named.vectors.shape == (4 + 8, 32)
    with knowledge.graph() as store:
        assert store.read("MATCH (s:Strategy)-[:OF_METHOD]->(m:Method {id: 'UQ'}) RETURN s.id AS id").rows == []


def test_new_knowledge_makes_the_embeddings_stale_and_learning_goes_on(learned):
    first = learned
    with knowledge.graph() as store:
        ours = replace(read_experience(store)[0], id="later", origin="trial", source="study-1")
        store.upsert_nodes("Experience", [experience_row(ours)])
        store.upsert_rels("OF_STRATEGY", "Experience", "Strategy", [{"from": "later", "to": ours.strategy.id}])
        store.upsert_rels("ON_TASK", "Experience", "Task", [{"from": "later", "to": ours.task.id}])
    try:
        result = run("status", "--format", "json")
        assert json.loads(result.stdout)["embedding"] == "stale"
        assert "Run `automc kg embed`" in result.stderr
        assert knowledge.vectors(own_trials=False).fingerprint == first.fingerprint
        gone_on = knowledge.vectors(epochs=1)
        assert gone_on.fingerprint != first.fingerprint
        assert (gone_on.epochs, gone_on.seed) == (first.epochs + 1, first.seed)
        assert json.loads(run("status", "--format", "json").stdout)["embedding"] == "fresh"
    finally:
        run("query", "MATCH (e:Experience {id: 'later'}) DETACH DELETE e", "--write")


@pytest.mark.slow
def test_full_learns_anew_and_deterministically(filled, learned):
    again = knowledge.vectors(epochs=1, seed=3, full=True)
    other = knowledge.vectors(epochs=1, seed=6)
    assert (again.seed, other.seed, again.epochs) == (3, 6, 1)
    assert np.array_equal(learned.vectors, again.vectors)
    assert not np.array_equal(learned.vectors, other.vectors)
    assert knowledge.learnable().run["seed"] == 6
    knowledge.vectors(seed=3)
    assert knowledge.learnable().run["seed"] == 3


def test_damaged_vectors_are_said_and_learned_anew(filled, learned):
    for path in (filled / "vectors").glob("*.safetensors"):
        path.write_bytes(b"not tensors")
    result = run("embed")
    assert result.exit_code == 2
    assert "automc kg embed --full" in result.stderr
    assert run("embed", "--full", "--epochs", "1").exit_code == 0
    assert run("embed").exit_code == 0

"""Sizes in bits: what a study asks of them, how floats and a quantiser meet them, and what it says where none can."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from study_tools import create_fully, of_methods, run, same

from automc import methods
from automc.errors import StudyError
from automc.methods.quantising import quantisable
from automc.models import zoo
from automc.models.bits import stored
from automc.models.stored import Stored
from automc.search.base import meets
from automc.study import Budget, Study
from automc.study import study as studies
from automc.study.bits import Kinds, quantiser
from automc.study.spec import StudySpec
from kg.cards import enumerate_strategies, on_grid, read_cards
from kg.embedding.vectors import Vectors
from kg.schema import Strategy

UQ = next(tuple(enumerate_strategies(m)) for m in on_grid(read_cards(), ["UQ"]) if m.id == "UQ")


def counted(name: str) -> Stored:
    model = zoo.build(name)
    return stored(model, quantisable(model).values())


def with_uq(vectors: Vectors) -> Vectors:
    """Vectors of NS and LFB, and of UQ, which has been learned from nothing."""
    base = of_methods(vectors, ("NS", "LFB"))
    ids, n = tuple(s.id for s in UQ), len(base.strategies)
    own = np.random.default_rng(0).normal(0, 0.1, (len(ids), base.entity_vectors.shape[1])).astype(np.float32)
    return replace(
        base, strategies=base.strategies + ids, entities=(*base.strategies, *ids, *base.entities[n:]),
        entity_vectors=np.concatenate([base.entity_vectors[:n], own, base.entity_vectors[n:]]),
    )  # fmt: skip


@contextmanager
def learned(home: Path) -> Iterator[None]:
    (file,) = (home / "vectors").glob("*.safetensors")
    with patch.object(studies, "vectors_for", lambda *_: with_uq(Vectors.load(file))):
        yield


def create(home: Path, budget: str = "8steps", **options: Any) -> Study:
    with learned(home):
        return create_fully(home, budget, **{"gamma_of": "size", "gamma": 0.9, "workers": 1, **options})


def test_the_papers_grid_is_what_it_was_and_the_quantiser_is_beside_it() -> None:
    # Table 1 of the paper: its six methods span 4,525 strategies.
    paper = [m for m in read_cards() if m.label]
    assert [m.label for m in sorted(paper, key=lambda m: m.label)] == ["C1", "C2", "C3", "C4", "C5", "C6"]
    assert sum(len(list(enumerate_strategies(m))) for m in paper) == 4525
    # Beside them TRP, which is searched by default since it ended first in docs/results/pays.
    assert sum(len(list(enumerate_strategies(m))) for m in on_grid(read_cards())) == 4525 + 225
    assert len(UQ) == 30


def test_kinds_are_methods_and_widths() -> None:
    kinds = Kinds([Strategy.parse("NS[HP1=0.1,HP2=0.2,HP6=0.9]"), *UQ])
    assert kinds.of[0] == -1
    assert len(kinds.strategies) == 6
    assert {s.number("HP22") for s in kinds.strategies} == {2, 3, 4, 5, 6, 8}
    model = counted("resnet20")
    by_bits = dict(zip((s.number("HP22") for s in kinds.strategies), kinds.kept(model), strict=True))
    # One minus the size ratios of the whole network, but for the ends, which take 8 bits.
    assert by_bits[8] == pytest.approx(1 - 0.7436, abs=5e-5)
    assert by_bits[4] == pytest.approx(1 - 0.8679, abs=6e-4)
    assert kinds.kept(replace(model, layers=0)) == ()


@pytest.mark.parametrize("aim", [0.85, 0.9, 0.95])
@pytest.mark.parametrize("name", ["resnet20", "resnet56", "vgg16"])
def test_floats_go_so_far_that_the_quantiser_meets_the_aim(name: str, aim: float) -> None:
    model, kinds = counted(name), Kinds(UQ)
    ways = kinds.ways(model, aim, 0.84)
    assert ways
    for way in ways:
        # All that goes is weights: nothing else is smaller when stored.
        gone = round(way.removed * model.params)
        left = replace(model, params=model.params - gone, weights=model.weights - gone, bits=model.bits - 32 * gone)
        strategy = kinds.strategies[way.kind]
        known = quantiser("UQ")
        assert known is not None
        ratio = 1 - known.bits_after(strategy, left) / (32 * model.params)
        assert meets(ratio, aim)
        assert ratio == pytest.approx(aim, abs=1e-4) or not way.removed
        assert way.widened >= way.removed
    assert [way.guess for way in ways] == sorted(way.guess for way in ways)


def test_the_space_goes_both_ways_with_quantisers(full_home: Path) -> None:
    study = create(full_home)
    space = study_space(study)
    aim = 0.9
    assert space.reachable(5) > 0.98
    whole = space.closing_at(aim)
    ahead = [
        i for i, s in enumerate(whole.space.strategies) if i >= len(space.strategies) and not whole.space.closing[i]
    ]
    assert ahead
    for i in ahead[:: max(1, len(ahead) // 20)]:
        scheme = whole.scheme((i, 0))
        assert whole.indices(scheme) == (i, 0)
        assert not whole.on_grid(scheme)
        assert whole.space.hp2[i] == scheme.steps[0].number("HP2")
    # After a quantiser a closing step removes as many parameters as the missing bits need.
    closing = int(np.flatnonzero(whole.space.closing)[0])
    assert whole.step(closing, 0.85, 0.15).number("HP2") == pytest.approx(0.05 / 0.15, abs=1e-4)


def study_space(study: Study) -> Any:
    from automc.study.opening import counts
    from automc.study.space import StrategySpace

    model = counts(study.spec, study.subject, ())
    return StrategySpace(
        study.vectors, study.subject.task(), {}, study.spec.recipe, study.subject.splits.train.n, model=model
    )


def test_only_a_size_brings_quantisers(full_home: Path) -> None:
    study = create(full_home)
    space = study_space(study)
    quantises = space.space.quantises
    assert quantises.sum() == 30
    assert space.space.mask[quantises].any()
    plain = replace(study.spec, gamma=0.3, gamma_of="params")
    assert not plain.sized
    study.spec = plain
    assert not study_space(study).space.mask[quantises].any()


def test_a_search_for_size_finds_floats_and_a_quantiser(full_home: Path) -> None:
    study = create(full_home, "8steps")
    result = run(study)
    done = {t.scheme: t for t in result.trials}
    assert all(t.status == "ok" for t in result.trials), [t.reason for t in result.trials]
    first = [t for t in result.trials if len(t.scheme) == 2 and t.scheme.steps[1].method == "UQ"]
    assert {t.scheme.steps[0].method for t in first} >= {"NS", "LFB"}
    for trial in first[:2]:
        assert not trial.grid
        assert trial.quantised
        assert trial.pr == pytest.approx(done[trial.scheme.parent].pr)
        assert meets(trial.removed, 0.9)
        assert trial.removed < 0.93
    assert result.front
    assert all(meets(t.removed, 0.9) for t in result.front)
    for trial in result.trials:
        names = [s.method for s in trial.scheme.steps]
        assert names.count("UQ") <= 1
        assert "UQ" not in names or not any(methods.get(n).factors for n in names[names.index("UQ") :])
    more = run(Study.open(study.spec.id, budget=Budget.parse("10steps")))
    assert same(more.trials[:8]) == same(result.trials)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gamma": 0.989, "max_length": 1}, r"--gamma 0.989 of the bits is out of reach: .*UQ can store 2 bits"),
        ({"gamma": 0.98, "keep": ("*",), "keep_shape": ()}, r"No parameter of"),
        ({"gamma": 0.9, "keep_shape": ("*",)}, r"No layer of this model can be quantised by UQ"),
        ({"gamma": 0.9, "only": ("NS",)}, r"No quantiser takes part"),
        ({"gamma": 0.3, "gamma_of": "params", "only": ("UQ",)}, r"UQ: fewer bits .*; --gamma-of size counts bits\."),
        ({"gamma": 0.995}, r"--gamma of the size must lie in \(0, 0.99\]"),
        ({"gamma_of": "bytes"}, r"--gamma-of 'bytes' is neither params nor size"),
    ],
)
def test_what_no_width_meets_is_refused(full_home: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said) as refused:
        create(full_home, **options)
    assert getattr(refused.value, "exit_code", None) == 2


def test_old_specs_are_of_parameters(full_home: Path) -> None:
    values = create(full_home).spec.as_dict()
    del values["gamma_of"]
    assert StudySpec.from_dict({**values, "gamma": 0.3}).gamma_of == "params"
    with pytest.raises(StudyError, match=r"--gamma must .* it is 0\.9"):
        replace(StudySpec.from_dict({**values, "gamma": 0.3}), gamma=0.9)

"""Quantisers in a search: sizes by arithmetic, one a scheme, nothing that factors after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from automc.search.base import MORE, Limits, Outcome, Space, bare, grains, meets, sizes
from automc.search.history import History
from automc.search.linear import FirstGuess, LinearModel, cut
from benchmarks.tab.measures import searchers

KEPT = (0.26, 0.135, 0.075)
BITS = (8.0, 4.0, 2.0)
LIMITS = Limits(0.9, 0.9, max_length=3)
MADE = searchers()


@pytest.fixture
def sized(new_space: Callable[..., Space]) -> Space:
    """Three methods that remove parameters, the last of which factors, and a quantiser of three widths and lengths."""
    space = new_space(known=False)
    n = len(space.mask)
    kind = np.repeat(np.arange(3), 2)
    own = (f"Q[HP1={c},HP22={BITS[k]:g}]" for k, c in zip(kind, [0, 1] * 3, strict=True))
    return replace(
        space,
        strategies=(*space.strategies, *own),
        methods=(*space.methods, "Q"),
        method=np.append(space.method, np.full(6, 3)),
        embeddings=np.concatenate([space.embeddings, np.zeros((6, 32))]),
        hp2=np.append(space.hp2, np.zeros(6)),
        cost=np.append(space.cost, [1.0, 2.0] * 3),
        mask=np.ones(n + 6, dtype=bool),
        closing=np.zeros(n + 6, dtype=bool),
        bits=np.append(space.bits, np.array(BITS)[kind]),
        kind=np.append(space.kind, kind),
        kept=KEPT,
        factors=np.append(space.method == 2, np.zeros(6, dtype=bool)),
    )  # fmt: skip


def after(scheme: tuple[int, ...], pr: float, sr: float, kept: tuple[float, ...] = ()) -> Outcome:
    return Outcome(scheme, "ok", 0.85, pr, -0.05, 0.1, 1.0, True, sr=sr, kept=kept)


def test_a_model_of_floats_has_the_size_of_its_parameters() -> None:
    floats, quantised = Outcome((1,), "ok", 0.8, 0.3), after((1, 50), 0.3, 0.9)
    np.testing.assert_allclose(sizes([floats, quantised]), [0.3, 0.9])
    np.testing.assert_allclose(grains([floats, quantised]), [1.0, 0.1 / 0.7])


def test_plans_are_arithmetic(sized: Space) -> None:
    counted = (0.28, 0.15, 0.09)
    prefixes = [after((), 0.0, 0.0), after((3,), 0.36, 0.36, counted), after((45,), 0.0, 0.74)]
    planned = sized.planned(prefixes, 0.9)
    np.testing.assert_allclose(planned[0, 45:], np.repeat([0.74, 0.865, 0.925], 2))
    # What was counted of a prefix holds, and not what M had.
    np.testing.assert_allclose(planned[1, 45:], np.repeat(0.64 * (1 - np.array(counted)), 2))
    np.testing.assert_allclose(planned[0, :45], sized.hp2[:45])
    # Parameters of a quantised model are as small as their bits.
    np.testing.assert_allclose(planned[2, :45], 0.26 * sized.hp2[:45])


def test_steps_that_were_not_executed_are_foreseen(sized: Space) -> None:
    history = History(sized, LIMITS)
    found = history.foreseen((0, 47))
    assert found.pr == pytest.approx(0.04)
    assert found.sr == pytest.approx(1 - 0.96 * 0.135)
    more = history.foreseen((0, 47, 0))
    assert more.pr == pytest.approx(0.08)
    assert more.sr == pytest.approx(1 - 0.92 * 0.135)


def test_a_quantiser_is_admissible_where_the_rest_can_follow_it(sized: Space) -> None:
    history = History(sized, LIMITS)
    assert history.admissible(())[45:].all(), "8 bits leave 26%; two more steps remove 80% of that"
    alone = History(sized, replace(LIMITS, max_length=1)).admissible(())
    assert not alone[:49].any(), "neither 85% of the parameters nor 4 bits are 90%"
    assert alone[49:].all()
    two = History(sized, replace(LIMITS, max_length=2)).admissible(())
    assert two[47:].all()
    # 8 bits: γ after a step of at most 40% is out of reach.
    assert not two[45:47].any()
    # Of floats those after which some width is enough: 2 bits are.
    assert two[:45].all()


def test_one_quantiser_a_scheme_and_nothing_that_factors_after_it(sized: Space) -> None:
    history = History(sized, LIMITS)
    history.record([after((47,), 0.0, 0.865)])
    allowed = history.admissible((47,))
    assert not allowed[45:].any()
    assert not allowed[:45][sized.factors[:45]].any()
    assert allowed[:45][~sized.factors[:45] & (sized.hp2[:45] >= 0.3)].all()


def test_exact_lengths_hold_too(sized: Space) -> None:
    history = History(sized, LIMITS)
    last = history.admissible((), further=0)
    assert set(np.flatnonzero(last)) == {49, 50}
    assert history.admissible((), further=1)[:45].all()
    assert not history.admissible((47,), further=0)[45:].any()


def test_without_quantisers_the_same_as_ever(new_space: Callable[..., Space], sized: Space) -> None:
    plain, limits = new_space(known=False), Limits(0.5, 0.9)
    masked = replace(sized, mask=~sized.quantises, factors=np.zeros(51, dtype=bool))
    old, new = History(plain, limits), History(masked, limits)
    told = [Outcome((3,), "ok", 0.8, 0.11), Outcome((3, 5), "ok", 0.8, 0.24)]
    old.record(told)
    new.record(told)
    for prefix in ((), (3,), (3, 5), (20,), (7, 8)):
        np.testing.assert_array_equal(old.admissible(prefix), new.admissible(prefix)[:45])


def test_what_accuracy_hangs_on_is_parameters_and_rounding(sized: Space) -> None:
    prefixes = [after((), 0.0, 0.0), after((0,), 0.5, 0.5)]
    gone = sized.planned(prefixes, 0.9)
    found = cut(sized, prefixes, gone)
    np.testing.assert_allclose(found[:, :45], gone[:, :45])
    # Relative squared errors of uniform levels: .19 at 2 bits, .012 at 4, next to nothing at 8.
    np.testing.assert_allclose(found[0, [45, 47, 49]], [0.00005, 0.0117, 0.1875], atol=1e-4)
    np.testing.assert_allclose(found[1, 45:], 0.5 * found[0, 45:])
    guess = FirstGuess(sized, LIMITS).predict(prefixes[:1])[0]
    assert guess[45, 0] > guess[47, 0] > guess[49, 0]
    assert guess[45, 0] > guess[sized.hp2 == 0.4, 0].max(), "eight bits cost less than 40% of the parameters"
    np.testing.assert_allclose(guess[45:, 1], gone[0, 45:])


def test_the_model_learns_a_quantisers_accuracy_and_leaves_its_size_alone(sized: Space) -> None:
    model, start = LinearModel(sized, LIMITS), after((), 0.0, 0.0)
    steps = [(start, replace(after((i,), 0.0, 1 - kept), step_ar=-0.2)) for i, kept in ((45, 0.26), (47, 0.135))]
    before = model.predict([start])[0]
    model.learn(steps)
    found = model.predict([start])[0]
    assert (found[45:, 0] < before[45:, 0]).all()
    np.testing.assert_allclose(found[45:, 1], np.repeat(1 - np.array(KEPT), 2), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in MADE if not name.startswith("optuna")])
def test_every_searcher_finds_sizes(name: str, sized: Space) -> None:
    limits = replace(LIMITS, max_length=3)
    search = MADE[name](sized, limits, seed=2)
    told: dict[tuple[int, ...], Outcome] = {(): after((), 0.0, 0.0)}
    met = 0
    for _ in range(12):
        new = []
        for scheme in search.ask(2):
            kinds = sized.kind[list(bare(scheme))]
            assert (kinds >= 0).sum() <= 1
            if (kinds >= 0).any():
                assert not sized.factors[list(bare(scheme))][int(np.argmax(kinds >= 0)) :].any()
            for length in range(1, len(scheme) + 1):
                part = scheme[:length]
                if part not in told:
                    before, on = told[part[:-1]], part[-1] == MORE
                    planned = replace(before, scheme=part) if on else sized.after(before, part[-1], limits.gamma)
                    told[part] = replace(planned, accuracy=0.85, step_ar=-0.02, step_pr=0.1, seconds=1.0)
                    new.append(told[part])
        search.tell(new)
        met += sum(meets(o.size or 0.0, 0.9) for o in new)
    assert met


def test_some_strategies_may_follow_where_they_may_among_all(sized: Space) -> None:
    history = History(sized, LIMITS)
    history.record([after((3,), 0.36, 0.36, (0.28, 0.15, 0.09)), after((47,), 0.0, 0.865)])
    history.record([replace(after((3, step), 0.4, 0.4), status="infeasible", pr=None, sr=None) for step in (0, 1, 5)])
    history.expect([(7,), (3, 8)])
    among = np.array([0, 2, 3, 7, 8, 20, 46, 47, 50])
    for prefix in ((), (3,), (47,), (3, 0)):
        np.testing.assert_array_equal(history.unexplored(prefix, among), history.unexplored(prefix)[among])

"""The operators that NSGA-II is made of here, and that it is better than chance on executed steps."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from automc.search.base import Limits, Outcome
from automc.search.evolution import (
    POPULATION,
    Admissible,
    Change,
    EvolutionSearch,
    Known,
    Splice,
    decode,
    encode,
    winners,
)
from automc.search.history import START, History
from benchmarks.tab.table import TREE, Table, search

LIMITS = Limits(gamma=0.3, base_accuracy=0.9, max_length=4)
PROBLEM = SimpleNamespace(n_var=4)


def test_genes_are_schemes():
    schemes = [(3, 3, 0, 1), (7,), (0, 2)]
    genes = encode(schemes, 4)
    assert genes.shape == (3, 4)
    assert [decode(row) for row in genes] == schemes


def test_children_are_a_beginning_of_one_parent_and_an_end_of_the_other():
    a, b = (1, 2, 3), (11, 12, 13, 14)
    parents = np.stack([encode([a] * 200, 4), encode([b] * 200, 4)])
    children = Splice()._do(PROBLEM, parents, random_state=np.random.default_rng(0))
    assert children.shape == (2, 200, 4)
    possible = [
        {(x[:i] + y[j:])[:4] for i in range(len(x) + 1) for j in range(len(y) + 1)} for x, y in ((a, b), (b, a))
    ]
    for found, allowed in zip(children, possible, strict=True):
        schemes = {decode(row) for row in found}
        assert schemes <= allowed
        assert len(schemes) > 10


def test_mutation_replaces_inserts_and_removes_within_the_mask(new_space):
    space = new_space()
    space.mask[30:] = False
    genes = encode([(4, 17)] * 600, 4)
    changed = [decode(row) for row in Change(space)._do(PROBLEM, genes.copy(), random_state=np.random.default_rng(1))]
    assert {len(scheme) for scheme in changed} == {1, 2, 3}
    assert max(max(scheme) for scheme in changed) < 30
    replaced = [scheme for scheme in changed if len(scheme) == 2 and scheme[0] != 4]
    # Chance 1/4 a step, and half of the replacements keep the method.
    assert 0.15 < len(replaced) / 600 < 0.3
    same = np.mean([space.method[scheme[0]] == space.method[4] for scheme in replaced])
    assert 0.5 < same < 0.95
    assert (4, 17) in changed


def test_repair_leaves_only_admissible_steps(new_space):
    history = History(new_space(), LIMITS)
    history.record([Outcome((40,), "crashed"), Outcome((5,), "ok", 0.85, 0.15, -0.05, 0.15)])
    rng = np.random.default_rng(2)
    drawn = encode([tuple(rng.integers(0, 45, rng.integers(1, 5))) for _ in range(300)], 4)
    repaired = [decode(row) for row in Admissible(history)._do(PROBLEM, drawn, random_state=rng)]
    for before, after in zip(map(decode, drawn), repaired, strict=True):
        assert len(after) <= len(before)
        assert [history.space.method[i] for i in after] == [history.space.method[i] for i in before[: len(after)]]
        assert all(history.admissible(after[:n])[after[n]] for n in range(len(after)))
    assert any(before != after for before, after in zip(map(decode, drawn), repaired, strict=True))


def individuals(schemes):
    return [SimpleNamespace(X=row) for row in encode(schemes, 4)]


def test_what_was_told_and_repeats_are_left_out(new_space):
    history = History(new_space(), LIMITS)
    history.record([Outcome((1,), "ok", 0.8, 0.1, 0.0, 0.0)])
    known = Known(history)
    pop = individuals([(1,), (2,), (2,), START, (3,)])
    assert known._do(pop, None, np.zeros(5, dtype=bool)).tolist() == [True, False, True, True, False]
    assert known._do(pop, individuals([(3,)]), np.zeros(5, dtype=bool)).tolist() == [True, False, True, True, True]


def test_the_smaller_violation_then_the_better_front_then_the_lonelier_one_wins():
    def one(violation, rank, crowding):
        data = {"rank": rank, "crowding": crowding}
        return SimpleNamespace(CV=np.array([violation]), get=data.get)

    population = [one(0.1, None, None), one(0.2, None, None), one(0, 1, 9.0), one(0, 0, 0.1), one(0, 0, np.inf)]
    pairs = np.array([(1, 0), (2, 0), (2, 3), (4, 3), (3, 4)])
    assert winners(population, pairs).tolist() == [[0], [2], [3], [4], [4]]


def test_the_population_prefers_what_meets_the_target(new_space, new_table):
    table = new_table(new_space(), LIMITS)
    evolution = EvolutionSearch(table.space, LIMITS, 0)
    table.search(evolution, 4, 25)
    assert len(evolution._population) == POPULATION
    survivors = {decode(one.X) for one in evolution._population}
    meeting = {o.scheme for o in evolution.history.measured() if o.pr >= 0.3}
    assert len(meeting) > POPULATION
    assert survivors <= meeting
    front = {(o.accuracy, o.pr) for o in evolution.history.front()}
    assert front <= {(table.told[s].accuracy, table.told[s].pr) for s in survivors}


def test_it_beats_chance_on_executed_steps():
    """Mean over five seeds after 100 steps; nothing about the margin is promised."""
    from automc.search.random_search import RandomSearch

    table = Table.load(TREE)

    def volume(make):
        told = (
            [o.scheme for r in search(make(table.space, table.limits(0.3), seed), table, 100) for o in r.told]
            for seed in range(5)
        )
        return np.mean([table.volume(schemes, 0.3) for schemes in told])

    assert volume(EvolutionSearch) > volume(RandomSearch)


@pytest.mark.parametrize("k", [1, 3])
def test_children_need_a_population(new_space, new_table, k):
    """Before twenty schemes are measured, schemes are random, and never more than asked."""
    search = EvolutionSearch(new_space(), LIMITS, 0)
    assert len(search.ask(k)) == k


def test_a_guaranteed_accuracy_is_a_constraint(new_space):
    evolution = EvolutionSearch(new_space(), replace(LIMITS, least_accuracy=0.85), 1)
    evolution.tell([Outcome((s,), "ok", a, pr, 0.0, pr) for s, a, pr in ((1, 0.9, 0.1), (2, 0.8, 0.4), (3, 0.86, 0.3))])
    found = {decode(one.X): one.G[0] for one in evolution._population}
    assert found == pytest.approx({(1,): 0.2, (2,): 0.05, (3,): 0.0})

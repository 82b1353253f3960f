"""Hierarchical evolution: who moves up, when, and at which cost."""

from __future__ import annotations

from collections import Counter

import pytest

from automc.search.base import MORE, Limits, Outcome, bare, level_of
from automc.search.eco import CHILDREN, LIFE, EcoSearch, ranks

LIMITS = Limits(gamma=0.3, base_accuracy=0.9, max_length=3)


def told(search: EcoSearch, *figures: tuple[tuple[int, ...], float, float]) -> None:
    for scheme, accuracy, removed in figures:
        search.tell([Outcome(scheme, "ok", accuracy, removed, 0.0, 0.0, 1.0, True)])


def promoted(search: EcoSearch, count: int = 3) -> list[tuple[int, ...]]:
    return [scheme for scheme in search.ask(count) if MORE in scheme]


def test_of_four_two_are_trained_on_and_one_for_all_its_length(new_space, new_table):
    table = new_table(new_space(), LIMITS)
    table.search(EcoSearch(table.space, LIMITS, 1), 1, 60)
    levels = Counter(level_of(scheme) for scheme in table.told)
    cycles = levels[1] // CHILDREN
    assert cycles >= 6
    assert cycles - 1 <= levels[3] <= cycles
    assert 2 * (cycles - 1) <= levels[2] <= 2 * cycles
    thirds = sum(levels.values())
    assert thirds <= 3 * 0.59 * (levels[1] + CHILDREN), "what a cycle costs at most, in full lengths"


def test_who_meets_the_target_and_adds_most_to_the_front_moves_up_first(new_space):
    search = EcoSearch(new_space(), LIMITS, 1)
    told(search, ((0,), 0.89, 0.1), ((1,), 0.8, 0.35), ((2,), 0.7, 0.3), ((3,), 0.75, 0.5))
    assert promoted(search) == [(3, MORE), (1, MORE)], "not the most accurate one, and not the dominated one"
    told(search, ((1, MORE), 0.81, 0.35), ((3, MORE), 0.83, 0.5))
    assert promoted(search) == [(3, MORE, MORE)]


def test_who_meets_nothing_moves_up_by_what_is_missing(new_space):
    search = EcoSearch(new_space(), LIMITS, 1)
    told(search, ((0,), 0.89, 0.1), ((1,), 0.5, 0.2), ((2,), 0.88, 0.15), ((3,), 0.9, 0.05))
    assert promoted(search) == [(1, MORE), (2, MORE)]


def test_levels_are_not_compared(new_space):
    """A scheme of the second level is judged beside those of the second level, however good the first is."""
    search = EcoSearch(new_space(), LIMITS, 1)
    told(search, ((0,), 0.6, 0.3), ((1,), 0.5, 0.3), ((2,), 0.4, 0.3), ((3,), 0.3, 0.3))
    told(search, ((0, MORE), 0.2, 0.3), ((1, MORE), 0.25, 0.3))
    assert promoted(search) == [(1, MORE, MORE)]


def test_nobody_moves_up_twice_or_while_under_way(new_space):
    search = EcoSearch(new_space(), LIMITS, 1)
    told(search, ((0,), 0.8, 0.3), ((1,), 0.7, 0.3), ((2,), 0.6, 0.3), ((3,), 0.5, 0.3))
    assert search.ask(1) == [(0, MORE)]
    assert search.ask(1, [(0, MORE)]) == [(1, MORE)]
    assert MORE not in search.ask(1, [(0, MORE), (1, MORE)])[0]
    search.tell([Outcome((0, MORE), "crashed")])
    assert search.ask(1) == [(1, MORE)]


def test_the_old_die(new_space):
    search = EcoSearch(new_space(), LIMITS, 1)
    told(search, ((0,), 0.95, 0.4))
    told(search, *(((i,), 0.5 + i / 1000, 0.3) for i in range(1, (LIFE + 1) * CHILDREN)))
    assert all(bare(scheme) != (0,) for scheme in promoted(search, 4))


@pytest.mark.parametrize("level", [1, 2])
def test_children_are_of_the_first_level_whatever_their_parents_are(new_space, new_table, level):
    table = new_table(new_space(), LIMITS)
    search = EcoSearch(table.space, LIMITS, 2)
    table.search(search, 1, 20)
    parents = search._alive(level)
    children = [scheme for scheme in search.ask(30) if MORE not in scheme]
    assert parents
    assert any(child[: len(bare(p.scheme))] == bare(p.scheme) for child in children for p in parents)


def test_ranks_are_layers_of_fronts():
    points = [(0.9, 0.1), (0.8, 0.3), (0.8, 0.2), (0.7, 0.1), (0.7, 0.1)]
    assert list(ranks([Outcome((i,), "ok", a, pr) for i, (a, pr) in enumerate(points)])) == [0, 0, 1, 2, 2]
    assert list(ranks([])) == []

"""The triples that TransR is trained on: the graph's five relations, told more finely.

On a full grid, one HAS_SETTING for all hyperparameters sets values of different ones against each other, and nothing
says which values lie side by side. So TransR learns

    (strategy) HAS_SETTING/HP2 (HP2=0.12)           a relation for each hyperparameter
    (strategy) BETWEEN/HP2 (HP2=0.04..0.12)         the gaps on both sides of its number on its method's grid:
                                                    neighbours share one, other values none
    (strategy) OF_METHOD/USES_TECHNIQUE (TE3)       what its method is made of, so that it says something of strategies

and the graph's other links as they are. All of it follows from the links of the graph, which keeps the relations of the
AutoMC paper (section 3.2): a link that is held out takes what follows from it along.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

from kg.embedding.fingerprint import Triple
from kg.schema import parse_value

SETTING, METHOD, TECHNIQUE, GAP = "HAS_SETTING", "OF_METHOD", "USES_TECHNIQUE", "BETWEEN"


def finer(triples: Iterable[Triple]) -> list[Triple]:
    """Return what TransR learns of the graph's triples, sorted."""
    triples = set(triples)
    method = {head: tail for head, relation, tail in triples if relation == METHOD}
    techniques, grids = defaultdict[str, set[str]](set), defaultdict[tuple[str, str], set[float]](set)
    for head, relation, tail in triples:
        if relation == TECHNIQUE:
            techniques[head].add(tail)
        elif relation == SETTING and (number := _number(tail)) is not None:
            grids[method.get(head, ""), number[0]].add(number[1])
    gaps = {place: _gaps(place[1], sorted(values)) for place, values in grids.items()}
    found = [(head, finer_relation(relation, tail), tail) for head, relation, tail in triples]
    for head, relation, tail in triples:
        if relation == METHOD:
            found += [(head, f"{METHOD}/{TECHNIQUE}", technique) for technique in techniques[tail]]
        elif relation == SETTING and (number := _number(tail)) is not None:
            name, value = number
            found += [(head, f"{GAP}/{name}", gap) for gap in gaps[method.get(head, ""), name].get(value, ())]
    return sorted(found)


def finer_relation(relation: str, tail: str) -> str:
    """Return the relation that a link of the graph is learned as."""
    return f"{SETTING}/{tail.partition('=')[0]}" if relation == SETTING else relation


def _number(setting: str) -> tuple[str, float] | None:
    """Return hyperparameter and value of a setting that is a number."""
    name, _, text = setting.partition("=")
    value = parse_value(text)
    return None if isinstance(value, str) else (name, float(value))


def _gaps(name: str, values: list[float]) -> Mapping[float, list[str]]:
    """Return the names of the gaps beside each value of a grid; between two values alone nothing is nearer."""
    beside = defaultdict[float, list[str]](list)
    if len(values) > 2:
        for low, high in pairwise(values):
            gap = f"{name}={low:g}..{high:g}"
            beside[low].append(gap)
            beside[high].append(gap)
    return beside

"""All that is known in a home before any trial: what comes with AutoMC, and what was added to the graph."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automc.knowledge.cards import card_paths
from automc.knowledge.store import graph, graph_exists
from kg.errors import NotInGraph
from kg.schema import Experience, Method, Paper

if TYPE_CHECKING:
    from kg.curation.documents import Readable, Source
    from kg.store import GraphStore


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known before any own trial: what comes with AutoMC and its packages, and what was added."""

    methods: tuple[Method, ...]
    experience: tuple[Experience, ...]
    papers: tuple[Paper, ...]
    cards: Mapping[str, Source]
    """Added cards, by method."""
    files: Mapping[str, Source]
    """Added experience files, by paper."""


def everything(store: GraphStore | None, but: str = "") -> Known:
    """Read all that is known, and check it.

    Args:
        store: the graph with what was added; None where there is none.
        but: the method or paper of an added document that is left out.

    Raises:
        CardInvalid, ExperienceInvalid: a file or an added document breaks a rule.
    """
    from kg.curation.additions import added

    cards = added(store, "Method") if store else {}
    files = added(store, "Paper") if store else {}
    cards.pop(but, None)
    files.pop(but, None)
    return combine(cards, files)


@contextmanager
def opened(create: bool = False) -> Iterator[GraphStore | None]:
    """The graph of this home; None where there is none and none is to be made."""
    if not create and not graph_exists():
        yield None
        return
    with graph(create=create) as store:
        yield store


def known() -> Known:
    """Read all that is known in this home; see `everything`."""
    with opened() as store:
        return everything(store)


def known_methods() -> tuple[Method, ...]:
    """Read the method cards that are known in this home, retired ones included."""
    from kg.cards import read_cards
    from kg.curation.additions import added

    with opened() as store:
        return read_cards([*card_paths(), *(added(store, "Method").values() if store else ())])


def known_method(id: str) -> Method:
    """Return one method that is known in this home by its id, whatever its case.

    Raises:
        NotInGraph: there is none of that name.
    """
    methods = known_methods()
    for method in methods:
        if method.id.lower() == id.lower():
            return method
    names = [method.id for method in methods]
    grids = [method.id for method in methods if method.hyperparameters]
    more = f" and {len(names) - len(grids)} more (automc method list)" if len(names) > len(grids) else ""
    raise NotInGraph(f"There is no method {id[:80]}. Known: {', '.join(grids)}{more}.{did_you_mean(id, names)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name that is nearest to one that is not known; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def origins(label: Any) -> dict[str, dict[str, Any]]:
    """Return who added or retired what of a label, by id; nothing where there is no graph."""
    from kg.curation.additions import origins

    with opened() as store:
        return origins(store, label) if store else {}


def combine(cards: Mapping[str, Source], files: Mapping[str, Source], *, consistent: bool = True) -> Known:
    """Read what comes with AutoMC together with added cards and files; with `consistent`, without contradictions."""
    from kg.cards import read_cards
    from kg.experience import packaged_experience, read_experience

    methods = read_cards([*card_paths(), *cards.values()])
    places: list[Readable] = [*packaged_experience(), *files.values()]
    experience, papers = read_experience(places, None, methods, consistent=consistent)
    return Known(methods, experience, papers, cards, files)

"""Knowledge that a person adds, corrects or retires: checked as a whole before anything is written to the graph."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automc.knowledge.cards import real_size
from automc.knowledge.known import Known, combine, everything, known, opened
from automc.knowledge.store import graph
from automc.knowledge.upkeep import knowledge_files
from kg.errors import CardInvalid, ExperienceInvalid, NotInGraph

if TYPE_CHECKING:
    from kg.curation.additions import Provenance
    from kg.curation.changes import Change
    from kg.curation.documents import Readable, Source
    from kg.experience_file import ExperienceFile, RecordEntry
    from kg.store import GraphStore


@dataclass(frozen=True, slots=True)
class Edition:
    """What an addition changes, and whether that was written."""

    changes: tuple[Change, ...]
    written: bool
    notes: tuple[str, ...] = ()


def add_method(card: Readable, *, by: str = "", write: bool = True) -> Edition:
    """Add a method card to the graph, or a new version of one that was added.

    Raises:
        CardInvalid: it breaks a rule, or its method comes with AutoMC; nothing was written.
        ExperienceInvalid: a record no longer fits the method; nothing was written.
    """
    from kg.cards import Card
    from kg.curation.documents import as_source, read_document

    place = as_source(card, CardInvalid)
    new = read_document(place, Card, CardInvalid)
    return _put_card(new.method, place, card.name, by, write)


def edit_method(method: str, text: str, *, by: str = "", source: str = "an edit") -> Edition:
    """Replace the card of an added method.

    Raises:
        NotInGraph: it was not added to this graph.
        CardInvalid, ExperienceInvalid: see `add_method`.
    """
    from kg.cards import Card
    from kg.curation.documents import Source, read_document

    document("Method", method)
    place = Source(source, text)
    if (found := read_document(place, Card, CardInvalid).method) != method:
        raise CardInvalid(f"{source}: method: {found} is another method than {method}. Add it as a card of its own.")
    return _put_card(method, place, source, by, True)


def _before(store: GraphStore | None, id: str) -> Known:
    """All that is known; where an added document breaks a rule by now, without the one that is about to be replaced."""
    try:
        return everything(store)
    except (CardInvalid, ExperienceInvalid):
        return everything(store, but=id)


def _put_card(method: str, place: Source, source: str, by: str, write: bool) -> Edition:
    from kg.cards import Card
    from kg.curation.additions import same
    from kg.curation.documents import read_document

    new = read_document(place, Card, CardInvalid)
    with opened(create=write) as store:
        before = _before(store, method)
        old = before.cards.get(method)
        if old is not None and same(read_document(old, Card, CardInvalid), new):
            return Edition((), False)
        after = combine({**before.cards, method: place}, before.files)
        return _write(store, "Method", method, place.text, before, after, (), provenance(by, source), write)


def add_experience(
    file: Readable, *, rows: Path | None = None, by: str = "", because: str = "", sizes: bool = True, write: bool = True
) -> Edition:
    """Add an experience file to the graph: its paper with its records, or more records of a paper that is known.

    Records that were added before are replaced by those of the same id. A step that a study of this home measured
    itself, or that came with another file, is left out: nothing counts twice.

    Args:
        file: paper and tasks, and records.
        rows: a CSV file with more records (`kg.rows.read_rows`).
        by: who adds it; "" for the user of this process.
        because: why records that contradict known ones have other figures.
        sizes: build the architectures that tasks name, and compare params and FLOPs.
        write: False only says what would change.

    Raises:
        ExperienceInvalid: it breaks a rule, or contradicts what is known and nobody said why; nothing was written.
    """
    from kg.curation.documents import Source, as_source, read_document, write_document
    from kg.experience import read_experience
    from kg.experience_file import ExperienceFile
    from kg.rows import read_rows

    place = as_source(file, ExperienceInvalid)
    new = read_document(place, ExperienceFile, ExperienceInvalid)
    if rows is not None:
        new = new.model_copy(update={"records": (*new.records, *read_rows(rows))})
        place = Source(f"{file} with {rows}", write_document(new))
    with opened(create=write) as store:
        before = everything(store)
        # By itself first, so that what is wrong is said of this file.
        read_experience([place], real_size if sizes else None, before.methods, consistent=not because)
        return _put_file(store, before, place, new, provenance(by, file.name), because, write)


def check_experience(file: Path, *, rows: Path | None = None) -> Edition:
    """Check an experience file with all that is known, and say what adding it would change.

    A new version of a file that comes with AutoMC is checked in its place.

    Raises:
        ExperienceInvalid: see `add_experience`.
    """
    from kg.curation.documents import read_document
    from kg.experience import packaged_experience, read_experience
    from kg.experience_file import ExperienceFile

    new = read_document(file, ExperienceFile, ExperienceInvalid)
    shipped = _shipped(new.paper.id)
    if not {entry.id for entry in new.records} & shipped.keys():
        return add_experience(file, rows=rows, sizes=False, write=False)
    with opened() as store:
        now = everything(store)
    others = [path for path in packaged_experience() if path.stem != new.paper.id]
    added = [place for paper, place in now.files.items() if paper != new.paper.id]
    read_experience([*others, file, *added], None, now.methods)
    return Edition((), False, (f"It stands in the place of {new.paper.id}, which comes with AutoMC.",))


def edit_experience(paper: str, text: str, *, by: str = "", because: str = "", source: str = "an edit") -> Edition:
    """Replace the experience file that was added for a paper; records that it no longer has are removed.

    Raises:
        NotInGraph: none was added for it to this graph.
        ExperienceInvalid: see `add_experience`.
    """
    from kg.curation.documents import Source, read_document
    from kg.experience_file import ExperienceFile

    document("Paper", paper)
    place = Source(source, text)
    new = read_document(place, ExperienceFile, ExperienceInvalid)
    if new.paper.id != paper:
        raise ExperienceInvalid(f"{source}: paper.id: {new.paper.id} is another paper than {paper}. Add it by itself.")
    with opened(create=True) as store:
        before = _before(store, paper)
        return _put_file(store, before, place, new, provenance(by, source), because, True, replace=True)


def _put_file(
    store: GraphStore | None, before: Known, place: Source, new: ExperienceFile, who: Provenance, because: str,
    write: bool, *, replace: bool = False,
) -> Edition:  # fmt: skip
    """Bring the file of a paper into the graph, merged with the one it has unless it replaces that."""
    from kg.curation.additions import changed_records, explain, merge, same, without
    from kg.curation.documents import Source, read_document, write_document
    from kg.experience_file import ExperienceFile

    paper = new.paper.id
    kept = before.files.get(paper)
    old = read_document(kept, ExperienceFile, ExperienceInvalid) if kept else None
    file = new
    notes: list[str] = []
    repeated = _repeated(store, before, new)
    if repeated:
        file = without(file, repeated)
        notes.append(f"{len(repeated)} of its records are known already, from elsewhere, and are left out.")
    if old is not None and not replace:
        try:
            file = merge(old, file)
        except ExperienceInvalid as error:
            raise ExperienceInvalid(f"{place}: {error}") from None
    if (old is not None and same(old, file)) or (repeated and not file.records):
        return Edition((), False, tuple(notes))
    records = [entry.id for entry in changed_records(old, file)]
    # As it was written, comments and all, where that says the same.
    source = place if same(file, new) else Source(place.name, write_document(file))
    after = combine(before.cards, {**before.files, paper: source}, consistent=False)
    reasons = _contradicting(before, after, records, because, str(place), corrected=replace)
    if reasons:
        source = Source(place.name, write_document(explain(file, reasons)))
        after = combine(before.cards, {**before.files, paper: source})
    edition = _write(store, "Paper", paper, source.text, before, after, records, who, write)
    return Edition(edition.changes, edition.written, tuple(notes))


def _repeated(store: GraphStore | None, before: Known, file: ExperienceFile) -> list[str]:
    """Records that are known from elsewhere: those that come with AutoMC word by word, and trials of any study."""
    from kg.curation.additions import same

    shipped = _shipped(file.paper.id)
    known = {entry.id for entry in file.records if entry.id in shipped and same(entry, shipped[entry.id])}
    trials = [entry.id for entry in file.records if entry.id.startswith("trial:")]
    known |= {one.id for one in before.experience if one.source != file.paper.id} & set(trials)
    if store and trials:
        query = "UNWIND $ids AS id MATCH (e:Experience {id: id, origin: 'trial'}) RETURN e.id AS id"
        known |= set(store.read(query, {"ids": trials}).column("id"))
    return [entry.id for entry in file.records if entry.id in known]


def _shipped(paper: str) -> dict[str, RecordEntry]:
    """The records of a paper's file that comes with AutoMC, by id; none where there is no such file."""
    from kg.curation.documents import read_document
    from kg.experience import packaged_experience
    from kg.experience_file import ExperienceFile

    path = next((path for path in packaged_experience() if path.stem == paper), None)
    records = read_document(path, ExperienceFile, ExperienceInvalid).records if path else ()
    return {entry.id: entry for entry in records}


def _contradicting(
    before: Known, after: Known, records: Sequence[str], because: str, where: str, *, corrected: bool
) -> dict[str, str]:
    """Return why each contradicting record has other figures.

    A record that an edit corrects does not contradict what it was itself.

    Raises:
        ExperienceInvalid: there are some, and nobody said why.
    """
    from kg.curation.contradictions import contradictions

    methods = {method.id: method for method in after.methods}
    fresh = [one for one in after.experience if one.id in set(records)]
    old = [one for one in before.experience if not (corrected and one.id in set(records))]
    found = contradictions(fresh, [*old, *fresh], methods)
    if found and not because:
        lines = "\n".join(f"  {one}" for one in found)
        raise ExperienceInvalid(
            f"{where}: {len(found)} of its records contradict what is known:\n{lines}\n"
            "Correct them, or say why they differ with --differs-because."
        )
    return {one.record.id: because for one in found}


def _write(
    store: GraphStore | None, label: Any, id: str, text: str, before: Known, after: Known, records: Sequence[str],
    who: Provenance, write: bool,
) -> Edition:  # fmt: skip
    from kg.curation import additions
    from kg.curation.changes import compare, facts
    from kg.fresh import note as note_sync
    from kg.resources import migrations_dir
    from kg.store.migrate import migrate

    changes = compare(
        facts(before.methods, before.experience, before.papers), facts(after.methods, after.experience, after.papers)
    )
    if write and store:
        migrate(store, migrations_dir())
        knowledge = (after.methods, after.experience, after.papers)
        additions.write(store, label, id, text, who, knowledge, records)
        note_sync(store, knowledge_files())
    return Edition(changes, write)


def document(label: Any, id: str) -> str:
    """Return an added card or experience file as text.

    Raises:
        NotInGraph: none was added under this id; the message says where it comes from.
    """
    from kg.curation.additions import added

    what, noun = ("method", "card") if label == "Method" else ("experience", "file")
    with opened() as store:
        found = added(store, label) if store else {}
    if id in found:
        return found[id].text
    if any(one.id == id for one in (known().methods if label == "Method" else known().papers)):
        raise NotInGraph(
            f"{id} comes with AutoMC, so its {noun} is not edited here. Retire what is wrong (`automc {what} retire`), "
            "and add what is right."
        )
    raise NotInGraph(f"No {noun} was added for '{id}'. Added: {', '.join(found) or 'none yet'}.")


def retire_method(method: str, because: str, *, by: str = "", undo: bool = False) -> None:
    """Stop using a method: its card stays, but nothing of it is embedded or searched; or take that back.

    Raises:
        NotInGraph: there is no graph, or no such method in it.
    """
    from kg.fresh import note as note_sync
    from kg.sync import sync

    with graph(create=False) as store:
        all_known = everything(store)

        def work() -> None:
            _retire(store, "Method", [method], because, by, undo)
            sync(store, all_known.methods, all_known.experience, all_known.papers)

        store.atomically(work)
        note_sync(store, knowledge_files())


def retire_experience(name: str, because: str, *, by: str = "", undo: bool = False) -> list[str]:
    """Stop learning from a record, or from all records of a paper, or take that back; return the records' ids.

    Raises:
        NotInGraph: there is no graph, or no such record or paper in it.
    """
    with graph(create=False) as store:
        ids = store.read(
            "MATCH (e:Experience)-[:REPORTED_IN]->(:Paper {id: $id}) RETURN e.id AS id ORDER BY id", {"id": name}
        ).column("id")
        _retire(store, "Experience", ids or [name], because, by, undo)
    return ids or [name]


def _retire(store: GraphStore, label: Any, ids: list[str], because: str, by: str, undo: bool) -> None:
    from kg.curation import additions

    if undo:
        additions.restore(store, label, ids)
    else:
        additions.retire(store, label, ids, provenance(by, "").by, because)


def share(study: str) -> tuple[str, int]:
    """Return a study's experience as the text of an experience file, and its number of records.

    Raises:
        NotInGraph: there is no such study, or it measured nothing.
    """
    from kg.curation.sharing import study_document

    with graph(create=False) as store:
        return study_document(store, study)


def provenance(by: str, source: str) -> Provenance:
    """Return who, from where and when: now, and the user of this process unless somebody is named."""
    from kg.curation.additions import Provenance

    if not by:
        try:
            by = getpass.getuser()
        except (KeyError, OSError):
            by = "unknown"
    return Provenance(by, source)

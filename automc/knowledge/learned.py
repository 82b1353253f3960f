"""The strategies' vectors: learned from the graph, kept in this home, written back to the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automc.bounds import check
from automc.errors import EnvironmentFault
from automc.home import home
from automc.knowledge.store import graph
from kg.errors import NotInGraph
from kg.schema import LABELS, Experience, Method

if TYPE_CHECKING:
    from kg.embedding.vectors import Vectors

EPOCHS = 40
"""Epochs of learning the vectors from nothing, as `kg.embedding.learn.EPOCHS`, which costs an import."""
CONTINUED_EPOCHS = 20
"""Epochs of learning on from the vectors at hand, where knowledge changed."""

EXACT = 2000
"""Records of own trials up to which `status` looks at each one."""
RUN = ("id", "seed", "epochs", "continued_from", "new_strategies", "triples", "experience")
"""What `status` says of an embedding run."""

Progress = Callable[[int, int, Mapping[str, float]], None]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What vectors are learned from, read from the graph."""

    methods: tuple[Method, ...]
    triples: list[tuple[str, str, str]]
    experience: tuple[Experience, ...]
    fingerprint: str
    run: Mapping[str, Any] | None
    """The embedding run whose vectors the graph holds."""


def learnable(own_trials: bool = True, named: Sequence[str] = ()) -> Knowledge:
    """Return what vectors are learned from: of the experience, what teaches anything.

    Args:
        own_trials: count what our own trials measured, besides the published records.
        named: methods whose grid is learned although it is off the default one.

    Raises:
        NotInGraph: the graph has not been filled.
    """
    from kg import sync
    from kg.cards import on_grid
    from kg.embedding.fingerprint import fingerprint

    with graph(create=False) as store:
        triples = sync.triples(store)
        if not triples:
            raise NotInGraph("The graph holds no strategies. Run `automc kg init`.")
        methods = on_grid(sync.read_methods(store), named)
        for method in methods:
            if not method.default_grid and method.id in named:
                triples += sync.grid_triples(method)
        experience = sync.read_experience(store, idle=False, own=own_trials)
        mark = fingerprint(triples, [e.mark for e in experience])
        return Knowledge(methods, triples, experience, mark, sync.latest_run(store))


def vectors(
    *,
    epochs: int | None = None,
    seed: int | None = None,
    full: bool = False,
    own_trials: bool = True,
    named: Sequence[str] = (),
    progress: Progress | None = None,
    say: Say | None = None,
) -> Vectors:
    """Return the strategies' vectors for what the graph knows now, and keep the graph's copy up to date.

    Vectors learned before from the same knowledge, in this home or for the package, are used as they are. Where the
    knowledge changed, learning goes on from the newest ones for a few epochs, in which mainly what is new moves, and
    NN_exp alone learns where only experience is new (`kg.embedding.learn.learn`); with `full`, or a seed of which there
    are none, it starts from nothing.

    Args:
        epochs: of learning; None for 40 from nothing and 20 going on.
        seed: of learning; None accepts vectors of any seed and learns with 0. Another seed learns from nothing.
        full: learn from nothing.
        own_trials: count what our own trials measured.
        named: methods whose strategies are wanted although they are off the default grid: learned on top of the others,
            and kept apart from them.
        progress: called with (epoch, epochs, losses).
        say: called with a sentence about what is going to be learned, and one about the first guess.

    Raises:
        NotInGraph: the graph has not been filled.
        VectorsInvalid: the file of vectors is damaged; learn them with `full`.
        EnvironmentFault: they cannot be saved.
    """
    from kg.embedding.vectors import PREFIX, Vectors

    _check(epochs, seed)
    known = learnable(own_trials)
    kept = [] if full else _kept(seed)
    path = next((path for path in kept if path.name.startswith(known.fingerprint[:PREFIX])), None)
    if path is not None:
        found = Vectors.load(path)
        if path.parent != home() / "vectors":
            _saved(found, home() / "vectors" / path.name)
    else:
        start = Vectors.load(kept[0]) if kept else None
        epochs = epochs or (CONTINUED_EPOCHS if start else EPOCHS)
        if say:
            say(_intention(known, start, epochs))
        found = _learn(known, epochs, seed or 0, start, progress)
    _publish(known, found)
    if say and found.verdict:
        say(f"{found.verdict.text} {_taught_by(known)}")
    more = [m.id for m in known.methods if m.id in named and not m.default_grid]
    return _with_named(found, more, own_trials, progress) if more else found


def _with_named(start: Vectors, named: Sequence[str], own_trials: bool, progress: Progress | None) -> Vectors:
    """Return vectors that go on from others by the grids of methods off the default one."""
    from kg.embedding.learn import learn
    from kg.embedding.vectors import PREFIX

    known = learnable(own_trials, named)
    path = home() / "vectors" / "named" / f"{known.fingerprint[:PREFIX]}-seed{start.seed}.safetensors"
    if path.is_file():
        from kg.embedding.vectors import Vectors

        return Vectors.load(path)
    found = learn(
        known.methods, known.triples, known.experience, epochs=CONTINUED_EPOCHS, seed=start.seed, start=start,
        progress=progress,
    )  # fmt: skip
    return _saved(found, path)


def newest() -> Vectors | None:
    """Return the newest vectors that this home has learned, else those that come with AutoMC, without learning any.

    Raises:
        VectorsInvalid: the file is damaged.
    """
    from kg.embedding.vectors import Vectors

    kept = _kept(None)
    return Vectors.load(kept[0]) if kept else None


def ablated(
    *,
    use_graph: bool = True,
    use_experience: bool = True,
    only: Sequence[str] = (),
    own_trials: bool = True,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Vectors:
    """Return vectors learned from a part of what the graph knows: one of the ablations of the AutoMC paper.

    Learned from nothing and kept in this home, apart from the others: nothing continues from them, and the graph
    never holds them.

    Args:
        use_graph: learn the links; without them the vectors start random and only experience moves them.
        use_experience: learn the experience.
        only: methods that are learned, with their links and experience; () for all.
        own_trials: count what our own trials measured.

    Raises:
        NotInGraph: the graph has not been filled, or `only` names a method without card.
        VectorsInvalid: the file of vectors is damaged.
        EnvironmentFault: they cannot be saved.
    """
    from kg.embedding.learn import learn
    from kg.embedding.vectors import PREFIX, Vectors

    known = learnable(own_trials, only)
    parts = [known.fingerprint[:PREFIX], f"seed{seed}", f"{epochs}epochs", *sorted(only)]
    parts += [name for name, used in (("no-graph", use_graph), ("no-experience", use_experience)) if not used]
    path = home() / "vectors" / "ablated" / f"{'-'.join(parts)}.safetensors"
    if path.is_file():
        return Vectors.load(path)
    found = learn(
        known.methods, known.triples, known.experience, epochs=epochs, seed=seed, use_graph=use_graph,
        use_experience=use_experience, only_methods=tuple(only) or None, progress=progress,
    )  # fmt: skip
    return _saved(found, path)


def _taught_by(known: Knowledge) -> str:
    """Say whose records teach the first guess."""
    from kg.embedding.law import lessons

    taught = lessons(known.experience)
    here = sum(item.origin == "trial" for item in taught)
    own = sum(item.own for item in taught) - here
    papers = len(taught) - own - here
    return f"It rests on {papers} published results, {own} steps that AutoMC measured and {here} trials of this home."


def _intention(known: Knowledge, start: Vectors | None, epochs: int) -> str:
    """Say what is going to be learned, and how much of it is new."""
    from kg.cards import enumerate_strategies

    now = {strategy.id: method.id for method in known.methods for strategy in enumerate_strategies(method)}
    if start is None:
        return f"Embeddings: learning {len(now):,} strategies from nothing, {epochs} epochs."
    old = set(start.strategies)
    new = Counter(method for id, method in now.items() if id not in old)
    gone = len(old - now.keys())
    more = f"{new.total():,} new strategies" + (
        f" ({', '.join(f'{name} {n:,}' for name, n in new.items())})" if new else ""
    )
    what = (
        f"{more}, {gone:,} gone. What was learned before hardly moves"
        if new or gone
        else "the strategies are the same, and what experience says of them is learned"
    )
    return f"Embeddings: continuing from {start.id}, {epochs} epochs: {what}; automc kg embed --full learns all anew."


def _learn(known: Knowledge, epochs: int, seed: int, start: Vectors | None, progress: Progress | None) -> Vectors:
    """Learn and keep vectors; going on keeps the seed that `start` had."""
    from kg.embedding.learn import learn

    found = learn(
        known.methods,
        known.triples,
        known.experience,
        epochs=epochs,
        seed=start.seed if start else seed,
        start=start,
        progress=progress,
    )
    return _saved(found, home() / "vectors" / f"{found.id}.safetensors")


def _saved(vectors: Vectors, path: Path) -> Vectors:
    try:
        vectors.save(path)
    except OSError as error:
        raise EnvironmentFault(f"The vectors cannot be saved: {error}. Make room, or set AUTOMC_HOME.") from None
    return vectors


def quality(*, epochs: int = EPOCHS, seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """Measure how good the vectors are: whether settings can be read and neighbours are right, in the newest ones; then
    held-out links, and AR of papers that were left out.

    Raises:
        NotInGraph: the graph has not been filled.
        VectorsInvalid: the file of the newest vectors is damaged.
    """
    from kg.embedding.report import report

    _check(epochs, seed)
    known = learnable(own_trials=False)
    return report(
        known.methods, known.triples, known.experience, seed=seed, epochs=epochs, vectors=newest(), progress=progress
    )


def _check(epochs: int | None, seed: int | None) -> None:
    for option, value in (("--epochs", epochs), ("--seed", seed)):
        if value is not None:
            check(option, value)


def _kept(seed: int | None) -> list[Path]:
    """Files of vectors in this home, newest first, then the package's own; only those of a seed where one is given.

    Nothing goes on from files of an older format, nor are they used, so they are left out.
    """
    from kg.embedding.vectors import is_current
    from kg.resources import vectors_dir

    ending = "-seed*.safetensors" if seed is None else f"-seed{seed}.safetensors"
    files = (home() / "vectors").glob(f"*{ending}")
    newest = sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    return [path for path in (*newest, *vectors_dir().glob(f"*{ending}")) if is_current(path)]


def _publish(known: Knowledge, vectors: Vectors) -> None:
    """Write vectors to the graph unless it holds them."""
    from kg import sync
    from kg.curation.changes import snapshot

    run = {
        "id": vectors.id,
        "fingerprint": vectors.fingerprint,
        "seed": vectors.seed,
        "epochs": vectors.epochs,
        "continued_from": vectors.continued_from,
        "new_strategies": vectors.new_strategies,
        "triples": len(known.triples),
        "experience": len(known.experience),
        "knowledge": snapshot(known.triples, known.experience),
        "losses": vectors.losses,
    }
    if known.run is not None and all(known.run.get(name) == run[name] for name in ("id", "epochs", "continued_from")):
        return
    with graph() as store:
        sync.write_embeddings(store, vectors.strategies, vectors.vectors, run)


def status() -> dict[str, Any]:
    """Say what the graph is and holds: store, nodes per label, pending migrations, and how old the embeddings are.

    `embedding` is "none", "fresh", or "stale" where the knowledge has changed since they were learned;
    `changed_since_embedding` then says what. `added` and `retired` count what a person did to the knowledge.
    Where there are more than `EXACT` records of our own trials, they are counted by study and not compared one by one.
    """
    from kg.resources import migrations_dir
    from kg.store.migrate import pending

    with graph(create=False) as store:  # opened once for all that is read
        waiting = list(pending(store, migrations_dir()))
        nodes = {label: store.read(f"MATCH (n:{label}) RETURN count(n) AS n").rows[0][0] for label in LABELS}
        said: dict[str, Any] = {"store": store.kind, "place": store.place, "version": store.version()}
        figures = "count(n) AS n, count(n.added_at) AS added, count(n.retired_at) AS retired"
        methods = store.read(f"MATCH (n:Method) RETURN {figures}").dicts()[0]
        records = store.read(f"MATCH (n:Experience) RETURN n.origin AS origin, n.source AS source, {figures}").dicts()
        for name in ("added", "retired"):
            said[name] = {"Method": methods[name], "Experience": sum(row[name] for row in records)}
        said |= {"pending_migrations": waiting, "nodes": nodes, "embedding": "none"}
        if nodes["EmbeddingRun"] and nodes["Strategy"]:
            own = {row["source"]: row["n"] - row["retired"] for row in records if row["origin"] == "trial"}
            # A retired method takes its records along, which only reading them tells.
            counted = sum(own.values()) > EXACT and not methods["retired"]
            said |= _age(learnable(own_trials=not counted), own if counted else None)
    return said


def _age(known: Knowledge, own: Mapping[str, int] | None) -> dict[str, Any]:
    """Say how old the embeddings are.

    Args:
        known: what they would be learned from now; without the records of own trials where those are only counted.
        own: how many there are, by study.
    """
    from kg.curation.changes import since, snapshot

    if known.run is None:
        return {}
    said: dict[str, Any] = {}
    fresh, then = known.run.get("fingerprint") == known.fingerprint, known.run.get("knowledge")
    if then is not None:
        said["changed_since_embedding"] = since(then, snapshot(known.triples, known.experience), own)
        fresh = fresh or (own is not None and not said["changed_since_embedding"])
    said["embedding_run"] = {k: known.run.get(k) for k in RUN}
    return {"embedding": "fresh" if fresh else "stale", **said}

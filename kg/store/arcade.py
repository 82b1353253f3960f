"""The embedded store: ArcadeDB inside this process, in one folder, without a server."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, NoReturn, TypeVar

from kg.errors import GraphLocked, GraphUnavailable, KGError, QueryInvalid
from kg.store import lock
from kg.store.base import (
    COUNTERS,
    WRITE_SECONDS,
    GraphStore,
    Table,
    TransactionState,
    missing_parameters,
    timed_out,
    write_refused,
)
from kg.store.text import returned
from kg.store.values import iso

T = TypeVar("T")

# -Xrs leaves Ctrl-C and SIGTERM to Python. The quick compiler and the serial collector halve the processor time of a
# process that lives for seconds. The same options at every open: the JVM takes them once per process.
_JVM = {
    "heap_size": "512m",
    "jvm_args": [
        "-Xrs",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        f"-Djava.util.logging.config.file={Path(__file__).with_name('logging.properties')}",
    ],
}
_CAMEL = re.compile(r"_([a-z])")
_CLASS_NAMES = re.compile(r"\b(?:[a-z]\w*\.)+[A-Z]\w*(?:Exception|Error)\b:?\s*")


class _Handle:
    """An open database, shared by all stores of this process on the same folder."""

    def __init__(self, database: Any, file: IO[str]) -> None:
        self.database = database
        self.file = file
        self.users = 1
        self.state = TransactionState()
        self.limit_ms: int | None = None


_open: dict[Path, _Handle] = {}


class ArcadeStore(GraphStore):
    """A graph in a folder; open in one process at a time, so open it late and close it early.

    The first opening in a process takes about a second, later ones hundredths of one.

    Raises:
        GraphLocked: another process holds the folder, and still does after 2 s, or 10 s on a crowded machine.
        GraphUnavailable: the folder cannot be made, read or opened.
    """

    kind: ClassVar[Literal["embedded", "neo4j"]] = "embedded"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = Path(os.path.expanduser(folder)).absolute()
        self.place = str(self.folder)
        handle = _open.get(self.folder)
        if handle is None:
            handle = _open[self.folder] = _connect(self.folder)
        else:
            handle.users += 1
        self._handle: _Handle | None = handle
        self._state = handle.state

    def schema(self, statement: str) -> None:
        """Run one schema statement at once, outside any transaction."""
        self._limit(WRITE_SECONDS)
        _translated(lambda: self._database.command("opencypher", statement), WRITE_SECONDS)

    def gather(self, query: str, params: Mapping[str, Any]) -> Any:
        """As ever, but through the engine's JSON: to take rows over value by value is five times as long."""
        self._limit(WRITE_SECONDS)

        def work() -> Any:
            with self._database.query("opencypher", query, dict(params)) as found:
                (value,) = json.loads(str(found._java_result_set.next().toJSON())).values()
                return value

        return _translated(work, WRITE_SECONDS)

    def version(self) -> str:
        """Name and version of the engine."""
        import jpype

        return f"ArcadeDB {jpype.JClass('com.arcadedb.Constants').getRawVersion()} (embedded)"

    def close(self) -> None:
        """Give the store back; the last user in this process closes the database and frees the folder."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        handle.users -= 1
        if not handle.users:
            del _open[self.folder]
            try:
                _translated(handle.database.close, None)
            finally:
                lock.release(handle.file)

    @property
    def _database(self) -> Any:
        if self._handle is None:
            raise GraphUnavailable(f"The graph in {self.folder} was closed already; connect again.")
        return self._handle.database

    def _run(
        self, query: str, params: dict[str, Any], timeout: float | None, limit: int | None, *, write: bool
    ) -> Table:
        database = self._database
        self._limit(timeout)
        if not write:
            return _translated(lambda: _table(database.query("opencypher", query, params), query, limit), timeout)
        if self._state.depth:
            return _translated(lambda: _table(database.command("opencypher", query, params), query, limit), timeout)

        def work() -> Table:
            with database.transaction():
                return _table(database.command("opencypher", query, params), query, limit)

        return _translated(work, timeout)

    def _begin(self) -> None:
        self._limit(WRITE_SECONDS)
        _translated(self._database.begin, None)

    def _commit(self) -> None:
        _translated(self._database.commit, None)

    def _rollback(self) -> None:
        # A commit that failed has ended the transaction already.
        if self._database.is_transaction_active():
            _translated(self._database.rollback, None)

    def _limit(self, seconds: float | None) -> None:
        """Set the time limit of the next statements, at every open anew: the folder may have kept another.

        Not by the statement there is for it: that alone would load the SQL reader, a third of a second.
        """
        milliseconds = 0 if seconds is None else max(1, round(seconds * 1000))
        handle = self._handle
        if handle is not None and handle.limit_ms != milliseconds:
            import jpype

            option = jpype.JClass("com.arcadedb.GlobalConfiguration").COMMAND_TIMEOUT
            handle.database._java_db.getConfiguration().setValue(option, jpype.JLong(milliseconds))
            handle.limit_ms = milliseconds


def exists(folder: Path) -> bool:
    """Whether a folder holds an embedded graph."""
    return (folder / "configuration.json").is_file() or (folder / "schema.json").is_file()


def _connect(folder: Path) -> _Handle:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GraphUnavailable(
            f"The graph cannot be kept in {folder}: {error.strerror}: {error.filename}. "
            "Set AUTOMC_HOME to a folder that can be written."
        ) from None
    began = time.monotonic()
    arcadedb = _engine()
    file = lock.acquire(folder.with_name(folder.name + ".lock"), began)
    try:
        return _Handle(_database(arcadedb, folder), file)
    except BaseException:
        lock.release(file)
        raise


def _engine() -> Any:
    """Bring the engine up. It takes half a second or more, so not while the lock keeps others waiting."""
    try:
        import arcadedb_embedded as arcadedb
        from arcadedb_embedded.jvm import start_jvm
    except ImportError as error:
        raise GraphUnavailable(
            f"The embedded graph store is not available here: {error}. Install arcadedb-embedded, or use a Neo4j "
            "server (AUTOMC_GRAPH=bolt://…)."
        ) from None
    with _quiet():
        start_jvm(**_JVM)
    if threading.current_thread() is not threading.main_thread():
        # At the process's end the JVM would wait for threads that have used it, such as a server's, for ever. Whatever
        # is closed is on the disk.
        import jpype.config

        jpype.config.destroy_jvm = False
    return arcadedb


def _database(arcadedb: Any, folder: Path) -> Any:
    """Open or create the database, waiting for a holder that does not know our lock file."""
    _check_whole(folder)
    enter = arcadedb.open_database if exists(folder) else arcadedb.create_database
    deadline = time.monotonic() + lock.patience()
    while True:
        try:
            database = enter(str(folder), jvm_kwargs=_JVM)
            # Every commit reaches the disk: what was told to a search is never lost, not even to a power cut.
            database.set_wal_flush("yes_full")
            return database
        except arcadedb.ArcadeDBError as error:
            names, message = _java(error)
            if "LockException" not in names:
                raise GraphUnavailable(f"The graph in {folder} cannot be opened: {message}") from None
            if time.monotonic() > deadline:
                raise lock.locked(folder.with_name(folder.name + ".lock"), "") from None
        time.sleep(0.1)


def _check_whole(folder: Path) -> None:
    """Refuse a damaged schema: the engine would take it for an empty one, and overwrite it when it closes."""
    schema = folder / "schema.json"
    if not schema.exists():
        return
    try:
        json.loads(schema.read_bytes())
    except (OSError, ValueError) as error:
        raise GraphUnavailable(
            f"The graph in {folder} is damaged: {schema.name} cannot be read ({error}). Put a copy of the folder back, "
            f"or try the older {schema.with_name('schema.prev.json').name} beside it."
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the JVM's greeting off stderr while it starts; anything else it says is passed on."""
    import jpype

    if jpype.isJVMStarted():
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            for line in said.read().decode(errors="replace").splitlines():
                if line.strip() and "incubator modules" not in line:
                    os.write(2, f"{line}\n".encode())


def _translated(work: Callable[[], T], timeout: float | None) -> T:
    """Run `work`, turning the engine's errors into ours."""
    try:
        return work()
    except KGError:
        raise
    except Exception as error:
        _raise(error, timeout)


def _raise(error: Exception, timeout: float | None) -> NoReturn:
    import jpype
    from arcadedb_embedded import ArcadeDBError

    if not isinstance(error, ArcadeDBError | jpype.JException):
        raise error
    names, message = _java(error)
    if "QueryNotIdempotentException" in names:
        raise write_refused() from None
    if "TimeoutException" in names:
        raise timed_out(timeout) from None
    if "DuplicatedKeyException" in names:
        raise QueryInvalid(f"The write breaks a uniqueness constraint: {message}") from None
    if "LockException" in names:
        raise GraphLocked(f"The graph is locked: {message}") from None
    if names & {"CommandParsingException", "CommandSemanticException"}:
        raise QueryInvalid(f"The query cannot be read: {message}") from None
    if "CommandParameterMissingException" in names:
        raise missing_parameters(message.rpartition(":")[2].strip()) from None
    if names & {"IOException", "DatabaseIsClosedException", "DatabaseIsReadOnlyException", "DatabaseMetadataException"}:
        raise GraphUnavailable(f"The graph cannot be read or written: {message}") from None
    raise QueryInvalid(f"The query failed: {message}") from None


def _java(error: BaseException) -> tuple[set[str], str]:
    """Class names of an error and its causes, and what its first Java exception says, without class names."""
    names: set[str] = set()
    message = ""
    cause: Any = error
    while cause is not None and len(names) < 20:
        if hasattr(cause, "getClass"):
            names.add(str(cause.getClass().getSimpleName()))
            said = cause.getMessage()
            if said is not None:
                # The lock's own message is the cause's; a query's is the first.
                message = message or str(said)
                if "LockException" in names or "Error on creating new database instance" in message:
                    message = str(said)
            cause = cause.getCause()
        else:
            cause = cause.__cause__
    text = _CLASS_NAMES.sub("", message or str(error)).strip()
    return names, text or type(error).__name__


def _table(result: Any, query: str, limit: int | None) -> Table:
    if result is None:
        return Table((), [])
    with result:
        rows = result.to_list() if limit is None else list(islice(result.iter_dicts(), limit + 1))
        counters = _counters(result._java_result_set)
    # An empty answer of the engine has lost its columns.
    columns = tuple(rows[0]) if rows else returned(query)
    kept = rows if limit is None else rows[:limit]
    values = [tuple(map(_value, row.values())) for row in kept]
    return Table(columns, values, truncated=len(kept) < len(rows), counters=counters)


def _counters(result: Any) -> dict[str, int]:
    """What a write changed; the Python package does not pass it on."""
    found = result.getStatistics()
    if not found.isPresent():
        return {}
    counts = json.loads(str(found.get().toJSON()))
    return {name: n for name in COUNTERS if (n := counts.get(_CAMEL.sub(lambda m: m[1].upper(), name), 0))}


def _value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        # An embedding is thousands of numbers: look at one of them.
        return value if value and isinstance(value[0], float) else [_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _value(item) for name, item in value.items()}
    if hasattr(value, "isoformat"):
        return iso(value.isoformat())
    return _element(value)


def _element(value: Any) -> Any:
    """A node, relationship, path or time of the engine."""
    import jpype

    graph = jpype.JPackage("com.arcadedb.graph")
    for kind, tag in ((graph.Vertex, "_label"), (graph.Edge, "_type")):
        if isinstance(value, kind):
            from arcadedb_embedded.type_conversion import convert_java_to_python

            properties = value.propertiesAsMap()
            return {tag: str(value.getTypeName())} | {
                str(name): _value(convert_java_to_python(properties.get(name)))
                for name in sorted(properties.keySet(), key=str)
            }
    if hasattr(value, "getVertices") and hasattr(value, "getEdges"):
        nodes, edges = list(value.getVertices()), list(value.getEdges())
        steps = [step for pair in zip(nodes, edges, strict=False) for step in pair] + nodes[-1:]
        return [_value(step) for step in steps]
    return iso(str(value))

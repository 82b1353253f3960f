"""The server store: Neo4j over Bolt through the official driver."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypeVar, cast
from urllib.parse import urlsplit

from kg.errors import AddressInvalid, GraphUnavailable, KGError, QueryInvalid
from kg.store.base import COUNTERS, WRITE_SECONDS, GraphStore, Table, missing_parameters, timed_out, write_refused
from kg.store.text import returned
from kg.store.values import iso

if TYPE_CHECKING:
    from neo4j import ManagedTransaction, Result, Session, Transaction
    from neo4j.exceptions import DriverError, Neo4jError

T = TypeVar("T")

_OLDEST = (5, 26)
_CONNECT_SECONDS = 5.0
_RETRY_SECONDS = 2.0
_SCHEMES = tuple(f"{scheme}{security}://" for scheme in ("neo4j", "bolt") for security in ("", "+s", "+ssc"))


class Neo4jStore(GraphStore):
    """A graph on a Neo4j server, 5.26 or newer; user and database come from the environment.

    AUTOMC_GRAPH_USER (default neo4j), AUTOMC_GRAPH_DATABASE (default neo4j); without a password, no authentication.

    Raises:
        AddressInvalid: `url` is not the address of a Neo4j server.
        GraphUnavailable: the server does not answer within seconds, is too old, refuses the password, or lacks the
            database.
    """

    kind: ClassVar[Literal["embedded", "neo4j"]] = "neo4j"

    def __init__(self, url: str, password: str | None = None) -> None:
        super().__init__()
        import neo4j
        from neo4j.exceptions import ConfigurationError

        self.place = url
        self.user = os.environ.get("AUTOMC_GRAPH_USER") or "neo4j"
        self.database = os.environ.get("AUTOMC_GRAPH_DATABASE") or "neo4j"
        # What goes wrong arrives as an exception; the driver need not print it as well.
        logging.getLogger("neo4j").addHandler(logging.NullHandler())
        try:
            if not url.startswith(_SCHEMES):
                raise ValueError(f"it must start with one of {', '.join(_SCHEMES)}")
            _ = urlsplit(url).port  # refuses what is no port, or no address
            self._driver = neo4j.GraphDatabase.driver(
                url,
                auth=(self.user, password) if password else None,
                connection_timeout=_CONNECT_SECONDS,
                connection_acquisition_timeout=2 * _CONNECT_SECONDS,
                max_transaction_retry_time=_RETRY_SECONDS,
                notifications_min_severity="OFF",
            )
        except (ConfigurationError, ValueError) as error:
            raise AddressInvalid(
                f"AUTOMC_GRAPH={url} is not the address of a Neo4j server: {error}. Write it like bolt://localhost:7687."
            ) from None
        self._session: Session | None = None
        self._transaction: Transaction | ManagedTransaction | None = None
        try:
            with self._open(write=False) as session:
                greeting = self._translated(lambda: session.run("RETURN 1 AS one").consume(), _CONNECT_SECONDS)
            self._check_age(greeting.server.agent)
        except ValueError as error:  # the driver's word for a host that no name server knows
            self._driver.close()
            raise GraphUnavailable(
                f"No Neo4j answers at {url}: {error}. Correct AUTOMC_GRAPH, or unset it to use the embedded graph."
            ) from None
        except BaseException:
            self._driver.close()
            raise

    def _check_age(self, agent: str) -> None:
        match = re.match(r"Neo4j/(\d+)\.(\d+)", agent)
        if match and tuple(map(int, match.groups())) < _OLDEST:
            raise self._too_old(agent)

    def _too_old(self, what: str) -> GraphUnavailable:
        return GraphUnavailable(
            f"The server at {self.place} is too old: {what}. AutoMC needs Neo4j {'.'.join(map(str, _OLDEST))} or "
            "newer. Upgrade it, start one with `automc kg up`, or unset AUTOMC_GRAPH to use the embedded graph."
        )

    def schema(self, statement: str) -> None:
        """Run one schema statement in a transaction of its own; it may be run again, see `atomically`.

        Several machines that begin with an empty server at once lock each other out, which passes.
        """
        with self._open(write=True) as session:
            self._translated(lambda: session.execute_write(lambda managed: managed.run(statement).consume()), None)

    def version(self) -> str:
        """Name and version of the server, as it gives them."""
        info = self._translated(self._driver.get_server_info, None)
        return f"{info.agent} (Bolt {'.'.join(map(str, info.protocol_version))})"

    def close(self) -> None:
        """Close the connection; an open transaction is undone."""
        self._end()
        self._driver.close()

    def _open(self, *, write: bool) -> Session:
        return self._driver.session(database=self.database, default_access_mode="WRITE" if write else "READ")

    def _run(
        self, query: str, params: dict[str, Any], timeout: float | None, limit: int | None, *, write: bool
    ) -> Table:
        from neo4j import unit_of_work

        transaction = self._transaction
        if transaction is not None:
            return self._translated(lambda: _table(transaction.run(query, params), query, limit), timeout)

        @unit_of_work(timeout=timeout)
        def work(managed: ManagedTransaction) -> Table:
            return _table(managed.run(query, params), query, limit)

        with self._open(write=write) as session:
            enter = session.execute_write if write else session.execute_read
            return self._translated(lambda: enter(work), timeout)

    def atomically(self, work: Callable[[], T]) -> T:
        """Run `work` in one of the driver's managed transactions; see `GraphStore.atomically`."""
        from neo4j import unit_of_work

        state = self._state
        if state.depth:
            return super().atomically(work)

        @unit_of_work(timeout=WRITE_SECONDS)
        def managed(transaction: ManagedTransaction) -> T:
            self._transaction, state.depth = transaction, 1
            try:
                done = work()
                if state.failed:
                    raise QueryInvalid("A statement of this transaction failed, so none of it was kept.")
                return done
            except KGError as error:
                # The driver decides by its own errors whether to run it again.
                raise _reason(error) or error from None
            finally:
                self._transaction, state.depth, state.failed = None, 0, False

        with self._open(write=True) as session:
            return self._translated(lambda: session.execute_write(managed), WRITE_SECONDS)

    def _begin(self) -> None:
        self._session = self._open(write=True)
        self._transaction = self._translated(
            lambda: cast("Session", self._session).begin_transaction(timeout=WRITE_SECONDS), None
        )

    def _commit(self) -> None:
        try:
            self._translated(cast("Transaction", self._transaction).commit, None)
        finally:
            self._end()

    def _rollback(self) -> None:
        self._end()

    def _end(self) -> None:
        """Close the transaction, undoing what was not committed, and its session."""
        transaction, self._transaction = self._transaction, None
        session, self._session = self._session, None
        if transaction is not None:
            self._translated(cast("Transaction", transaction).close, None)
        if session is not None:
            self._translated(session.close, None)

    def _translated(self, work: Callable[[], T], timeout: float | None) -> T:
        from neo4j.exceptions import DriverError, Neo4jError

        try:
            return work()
        except (Neo4jError, DriverError, OSError) as error:
            self._raise(error, timeout)

    def _raise(self, error: Exception, timeout: float | None) -> NoReturn:
        from neo4j.exceptions import AuthError, ConfigurationError, Neo4jError, ServiceUnavailable

        if isinstance(error, AuthError):
            raise GraphUnavailable(
                f"The Neo4j at {self.place} refused user '{self.user}'. "
                "Set AUTOMC_GRAPH_USER and AUTOMC_GRAPH_PASSWORD."
            ) from None
        if not isinstance(error, Neo4jError):
            # No protocol in common, or one that lacks what the driver was told to use.
            if isinstance(error, ConfigurationError):
                raise self._too_old("it does not speak the protocol of today's driver") from None
            if isinstance(error, ServiceUnavailable | OSError):
                raise GraphUnavailable(
                    f"No Neo4j answers at {self.place}: {_first_line(error)}. Start it (`automc kg up` starts one "
                    "here), correct AUTOMC_GRAPH, or unset AUTOMC_GRAPH to use the embedded graph."
                ) from None
            raise GraphUnavailable(f"The connection to {self.place} failed: {_first_line(error)}.") from None
        code, message = error.code or "", error.message or str(error)
        raise self._meaning(code, message, timeout) from None

    def _meaning(self, code: str, message: str, timeout: float | None) -> KGError:
        if code.endswith("Statement.AccessMode"):
            return write_refused()
        if "ReadOnly" in code:
            return GraphUnavailable(
                f"The database '{self.database}' at {self.place} is read-only, so nothing was written: {message} Make "
                "it writable, or name another server in AUTOMC_GRAPH."
            )
        if ".Security." in code:
            return GraphUnavailable(f"The Neo4j at {self.place} does not let user '{self.user}' do this: {message}")
        if "TimedOut" in code:
            return timed_out(timeout)
        if code.endswith("Schema.ConstraintValidationFailed"):
            return QueryInvalid(f"The write breaks a uniqueness constraint: {message}")
        if "DatabaseNotFound" in code or "DatabaseUnavailable" in code:
            return GraphUnavailable(
                f"The Neo4j at {self.place} has no database '{self.database}' to offer: {message} "
                "Correct AUTOMC_GRAPH_DATABASE."
            )
        if code.endswith("Statement.ParameterMissing"):
            return missing_parameters(message.rpartition(":")[2].strip())
        # A server that stops ends what is under way; the driver counts that among the client's errors.
        stopped = code.endswith(("Transaction.Terminated", "Transaction.LockClientStopped"))
        if (".ClientError." in code or ".DatabaseError.Statement." in code) and not stopped:
            return QueryInvalid(f"The query cannot be read: {message}")
        return GraphUnavailable(f"The Neo4j at {self.place} could not do this: {message} ({code}). Try again.")


def _reason(error: KGError) -> DriverError | Neo4jError | None:
    """Return the driver's error behind ours, None where there is none."""
    from neo4j.exceptions import DriverError, Neo4jError

    return error.__context__ if isinstance(error.__context__, DriverError | Neo4jError) else None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".:")


def _table(result: Result, query: str, limit: int | None) -> Table:
    columns = tuple(result.keys())
    records = list(result) if limit is None else result.fetch(limit + 1)
    summary = result.consume()
    kept = records if limit is None else records[:limit]
    rows = [tuple(map(_value, record.values())) for record in kept]
    counters = {name: n for name in COUNTERS if (n := getattr(summary.counters, name))}
    return Table(columns or returned(query), rows, truncated=len(kept) < len(records), counters=counters)


def _value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        # An embedding is thousands of numbers: look at one of them.
        return value if value and isinstance(value[0], float) else [_value(item) for item in value]
    if isinstance(value, dict):
        return {name: _value(item) for name, item in value.items()}
    return _element(value)


def _element(value: Any) -> Any:
    """A node, relationship, path or time of the driver."""
    from neo4j.graph import Node, Path, Relationship

    if isinstance(value, Node):
        return {"_label": ":".join(sorted(value.labels))} | {name: _value(value[name]) for name in sorted(value)}
    if isinstance(value, Relationship):
        return {"_type": value.type} | {name: _value(value[name]) for name in sorted(value)}
    if isinstance(value, Path):
        steps = [step for pair in zip(value.nodes, value.relationships, strict=False) for step in pair]
        return [_value(step) for step in (*steps, value.end_node)]
    if hasattr(value, "iso_format"):
        return iso(value.iso_format())
    return str(value)

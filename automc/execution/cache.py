"""The prefix cache: what a scheme's last step came to, and the model after it, by key.

Outcomes are small JSON files kept for ever; weights are kept least-recently-used within a limit. Any number
of processes may share one folder: files appear by rename, room is made under a lock, and a killed process
leaves nothing behind but a temporary file that a later one removes.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from automc import temporary
from automc.errors import EnvironmentFault
from automc.execution.outcome import StepOutcome

DEFAULT_LIMIT = 20 << 30
"""Bytes of weights."""

REUSABLE = frozenset({"ok", "infeasible", "diverged"})
"""Statuses that follow from the key alone; a crash, a time-out or a lack of memory may end otherwise next time."""

STATE = "-state"
"""Ends the key of the state of a training beside its model's."""

_STALE_LOCK_SECONDS = 86400.0
"""A lock's file is as old as the last attempt to take it."""


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """Size of a cache; `weights_bytes` never exceeds `limit_bytes` after a put."""

    folder: Path
    outcomes: int
    models: int
    pinned: int
    weights_bytes: int
    limit_bytes: int


class PrefixCache:
    """Outcomes and models by key.

    Guarantees: a reader sees a whole file or none; after every `put` the weights take at most `limit_bytes`,
    also with several processes writing; pinned models are never evicted, and what finds no room beside them
    is not kept; a damaged file counts as absent.
    """

    def __init__(self, folder: Path, limit_bytes: int = DEFAULT_LIMIT) -> None:
        """Open the cache in `folder`, making it where it is missing.

        Raises:
            EnvironmentFault: the folder cannot be made or written.
        """
        self.folder = Path(folder).absolute()
        self.limit_bytes = limit_bytes
        self._outcomes = self.folder / "outcomes"
        self._weights = self.folder / "weights"
        self._pins = self.folder / "pins"
        self._locks = self.folder / "locks"
        self._temporary = self.folder / "tmp"
        try:
            for path in (self._outcomes, self._weights, self._pins, self._locks, self._temporary):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(f"The cache {self.folder} cannot be made: {error.strerror or error}.") from None
        self._room = FileLock(self.folder / "room.lock")
        temporary.sweep(self._temporary)

    def outcome(self, key: str) -> StepOutcome | None:
        """Return what was recorded for `key`, marked `cached`; None where nothing usable is."""
        try:
            stored = json.loads(self._outcome_path(key).read_text(encoding="utf-8"))
            names = {field.name for field in fields(StepOutcome)}
            found = StepOutcome(**{name: value for name, value in stored.items() if name in names})
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        return replace(found, cached=True) if found.status in REUSABLE else None

    def put(self, key: str, outcome: StepOutcome, model: Path | None = None) -> None:
        """Record an outcome, and move its model, a file from `temporary`, into the cache.

        An outcome that cannot be reused is not recorded; a model for which there is no room is removed.
        """
        if model is not None:
            self.keep(key, model)
        if outcome.status in REUSABLE:
            _write(self._outcome_path(key), replace(outcome, cached=False).as_dict(), self._temporary)

    def model_path(self, key: str) -> Path | None:
        """Return the file of the model after `key`'s scheme and count it as used; None where it is not kept.

        Another process may evict it at any time: a file that is gone when read counts as absent.
        """
        path = self._model_path(key)
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def content(self, key: str) -> bytes | None:
        """Return the file of `key`'s model as it is; None where it is not kept."""
        path = self.model_path(key)
        try:
            return None if path is None else path.read_bytes()
        except OSError:
            return None

    def add(self, key: str, content: bytes) -> None:
        """Keep a model's file that comes from another cache, unless there is one.

        Raises:
            OSError: it cannot be written.
        """
        with self._room:
            if not self._model_path(key).exists():
                with self.temporary(key) as path:
                    path.write_bytes(content)
                    self.keep(key, path)

    def drop(self, key: str) -> None:
        """Forget the model of `key`: it turned out to be damaged."""
        self._model_path(key).unlink(missing_ok=True)

    def pin(self, keys: Iterable[str], owner: str = "default") -> None:
        """Keep the models of `keys` from eviction; replaces what this owner (a study) had pinned before."""
        with self._room:
            _write(self._pins / f"{owner}.json", sorted(set(keys)), self._temporary)

    def unpin(self, owner: str) -> None:
        """Release all pins of an owner."""
        with self._room:
            (self._pins / f"{owner}.json").unlink(missing_ok=True)

    def pinned(self) -> frozenset[str]:
        """Keys pinned by any owner."""
        keys: set[str] = set()
        for path in self._pins.glob("*.json"):
            with suppress(OSError, ValueError, TypeError):
                keys.update(json.loads(path.read_text(encoding="utf-8")))
        return frozenset(keys)

    def status(self) -> CacheStatus:
        """Count and measure what is kept."""
        models = self._models()
        pinned = self.pinned()
        return CacheStatus(
            folder=self.folder,
            outcomes=sum(1 for _ in self._outcomes.glob("*/*.json")),
            models=len(models),
            pinned=sum(key in pinned for _, key, _ in models),
            weights_bytes=sum(size for _, _, size in models),
            limit_bytes=self.limit_bytes,
        )

    def prune(self, limit_bytes: int) -> int:
        """Evict models, least recently used first and never pinned ones, down to `limit_bytes`; return bytes freed."""
        with self._room:
            before = sum(size for _, _, size in self._models())
            return before - self._evict(limit_bytes)

    @contextmanager
    def lock(self, key: str, poll: float = 0.05) -> Iterator[None]:
        """Hold `key` alone among all processes; the lock of a killed process is free at once."""
        with FileLock(self._locks / f"{key}.lock").acquire(poll_interval=poll):
            yield

    def is_locked(self, key: str) -> bool:
        """Tell whether another process holds `key` just now."""
        lock = FileLock(self._locks / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    @contextmanager
    def temporary(self, key: str) -> Iterator[Path]:
        """Give a path on the cache's file system to write a model to; whatever is left there is removed."""
        path = self._temporary / f"{temporary.prefix()}{time.monotonic_ns()}-{key[:12]}.am"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _outcome_path(self, key: str) -> Path:
        return self._outcomes / key[:2] / f"{key}.json"

    def _model_path(self, key: str) -> Path:
        return self._weights / f"{key}.am"

    def keep(self, key: str, model: Path) -> None:
        """Move a file from `temporary` into the cache, or remove it where there is no room."""
        with self._room:
            self._sweep()
            size = model.stat().st_size
            target = self._model_path(key)
            # A file of the same key is replaced, so it does not count against the room of its successor.
            target.unlink(missing_ok=True)
            pinned = self.pinned()
            if size + sum(bytes_ for _, other, bytes_ in self._models() if other in pinned) > self.limit_bytes:
                model.unlink()
                return
            self._evict(self.limit_bytes - size)
            os.utime(model)
            os.replace(model, target)

    def _models(self) -> list[tuple[int, str, int]]:
        """All kept models as (last use, key, bytes), least recently used first."""
        found = []
        with os.scandir(self._weights) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    info = entry.stat()
                    found.append((info.st_mtime_ns, Path(entry.name).stem, info.st_size))
        return sorted(found)

    def _evict(self, limit: int) -> int:
        """Evict down to `limit` bytes as far as pins allow; return the bytes that remain. Holds the lock."""
        models = self._models()
        total = sum(size for _, _, size in models)
        if total <= limit:
            return total
        kept = self.pinned()
        for _, key, size in models:
            if total <= limit:
                break
            if key not in kept:
                self._model_path(key).unlink(missing_ok=True)
                total -= size
        return total

    def _sweep(self) -> None:
        """Remove temporary files of processes that are gone, and the files of locks that nobody took for a day."""
        now = time.time()
        for path in self._locks.iterdir():
            with suppress(OSError, Timeout):
                if now - path.stat().st_mtime > _STALE_LOCK_SECONDS:
                    with FileLock(path).acquire(timeout=0):
                        path.unlink()
        temporary.sweep(self._temporary)


def _plain(value: Any) -> Any:
    """Turn what methods put into details (NumPy or torch scalars, tuples of them) into JSON values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def _write(path: Path, content: Any, beside: Path) -> None:
    """Write JSON so that a reader, or a power failure, finds the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=beside, prefix=temporary.prefix())
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, default=_plain)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise

"""What travels to a node that has a folder of its own, with a job and back.

The prefix cache of the machine that searches is the study's. A node's own one holds copies of parts of it: what a job
needs is sent with it, and what the job has made is sent back, so that a node that is lost takes no model with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automc import temporary
from automc.execution.cache import STATE, PrefixCache
from automc.execution.outcome import StepOutcome
from automc.execution.versions import RESTS_ON, versions
from kg.schema import LEVELS, Scheme

if TYPE_CHECKING:
    from automc.execution.setup import Setup


@dataclass(frozen=True, slots=True)
class Parcel:
    """Records and files of a cache by its keys; a file is its content, or where its content is."""

    outcomes: Mapping[str, StepOutcome] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    """Keys of what the sender lacks, and wants back."""


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """What a node must know to work on a study: whether it sees the study's folder, and what it needs if not."""

    home: Path
    mark: Path
    """A file in the cache that lies there while the search runs: who sees it sees the cache."""
    cache_bytes: int
    decoded: bool
    """Whether decoded images are kept."""
    versions: Mapping[str, str]
    """Of packages that results rest on."""
    models: Mapping[str, Any]
    """Files of M and the teacher, by the setup's fields."""

    def own_folder(self) -> Path | None:
        """Return where this node keeps its copies; None where it sees the study's folder and has no other one.

        That is `AUTOMC_HOME` as it is on the node, else a folder among the user's caches.
        """
        given = os.environ.get("AUTOMC_HOME")
        own = Path(os.path.expanduser(given)).absolute() if given else None
        if own in (None, self.home) and self.mark.exists():
            return None
        return own or Path.home() / ".cache" / "automc"

    def other_versions(self) -> str:
        """Say which packages this node has in another version; "" where all are the same."""
        here = versions(self.versions)
        return ", ".join(
            f"{name} {here[name] or 'is missing'}, not {v}" for name, v in self.versions.items() if here[name] != v
        )


class Carrier:
    """The end of the machine that searches: says what a job needs, and keeps what comes back."""

    def __init__(self, setup: Setup) -> None:
        """Prepare for the jobs of a setup; nothing is opened."""
        self._setup = setup
        self._cache = PrefixCache(setup.cache, setup.cache_bytes)
        self._mark = self._cache.folder / "tmp" / f"{temporary.prefix()}cluster"

    def open(self, put: Callable[[bytes], Any]) -> StudyFolder:
        """Mark the cache, and return what nodes must know; `put` says where nodes find a content."""
        setup = self._setup
        models = {"base": setup.base, "teacher": setup.teacher}
        found = {name: put(file.read_bytes()) for name, file in models.items() if file is not None}
        self._mark.touch()
        return StudyFolder(
            self._cache.folder.parent, self._mark, setup.cache_bytes, setup.data_cache is not None,
            versions(("automc", *RESTS_ON)), found,
        )  # fmt: skip

    def close(self) -> None:
        """Remove the mark."""
        self._mark.unlink(missing_ok=True)

    def errand(self, job: Any) -> Parcel:
        """Return what the cache has of a job and of what comes before it, files as paths, and what is wanted back.

        Of models only the last one that is there, with the state of its training where the next step goes on with it.
        """
        if not isinstance(job, Scheme):
            return Parcel()
        key, cache = self._setup.key, self._cache
        outcomes, files, wanted = dict[str, StepOutcome](), dict[str, Path](), list[str]()
        after: Scheme | None = None
        for scheme in reversed(job.beginnings or (job,)):
            name = key(scheme)
            if (known := cache.outcome(name)) is not None:
                outcomes[name] = known
            names = (name, name + STATE) if 0 < scheme.level < LEVELS else (name,)
            kept = {one: path for one in names if (path := cache.model_path(one)) is not None}
            wanted += [one for one in names if one not in kept or name not in outcomes]
            needed = () if after is None else names if after.level > 1 else (name,)
            if needed and not files and kept.keys() >= set(needed):
                files = {one: kept[one] for one in needed}
            after = scheme
        return Parcel(outcomes, files, tuple(wanted))

    def keep(self, parcel: Parcel) -> None:
        """Put into the cache what a node has sent.

        Raises:
            OSError: the disk refuses.
        """
        unpack(self._cache, parcel)


def unpack(cache: PrefixCache, parcel: Parcel) -> None:
    """Put into a cache what it lacks of a parcel, whose files are contents.

    Raises:
        OSError: the disk refuses.
    """
    for key, content in parcel.files.items():
        cache.add(key, content)
    for key, outcome in parcel.outcomes.items():
        if cache.outcome(key) is None:
            cache.put(key, outcome)


def pack(cache: PrefixCache, keys: Iterable[str]) -> Parcel:
    """Return what a cache has of keys."""
    outcomes, files = {}, {}
    for key in keys:
        if (known := cache.outcome(key)) is not None:
            outcomes[key] = known
        if (content := cache.content(key)) is not None:
            files[key] = content
    return Parcel(outcomes, files)

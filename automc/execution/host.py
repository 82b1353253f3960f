"""What a process of Ray's does on a node: it hosts one worker process, as on a single machine.

It reads neither the worker's order nor its jobs, and so has no need of torch.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from automc import temporary
from automc.errors import AutoMCError, EnvironmentFault
from automc.execution.cache import PrefixCache
from automc.execution.carrying import Parcel, StudyFolder, pack, unpack
from automc.execution.worker import Packed
from automc.execution.workers import LocalWorkers


class Host:
    """One worker process, and what of the study lies on this node. Every answer is a value; only a lost host raises."""

    def __init__(self, order: bytes, threads: int, paths: list[str], study: StudyFolder | None) -> None:
        """Start the worker; `paths` are where the searching process imports from."""
        sys.path.extend(path for path in paths if path not in sys.path)
        temporary.sweep(Path(tempfile.gettempdir()))  # what lost hosts have left
        self._cache: PrefixCache | None = None
        self._fault = ""
        try:
            self._workers = LocalWorkers(Packed(order, threads, self._moved(study)), 1)
            self._workers.start()
        except (AutoMCError, OSError) as error:
            self._fault = str(error)

    def _moved(self, study: StudyFolder | None) -> dict[str, Any]:
        """Return where things lie on this node, by the setup's fields; nothing where it sees the study's folder.

        Raises:
            EnvironmentFault: this node has other versions of packages that results rest on.
        """
        if study is None:
            return {}
        if other := study.other_versions():
            raise EnvironmentFault(f"A node of the cluster has {other}. Install the same versions on all nodes.")
        folder = study.own_folder()
        if folder is None:
            return {}
        import ray

        self._cache = PrefixCache(folder / "cache", study.cache_bytes)
        models = Path(tempfile.mkdtemp(prefix=temporary.prefix()))
        moved: dict[str, Any] = {"cache": self._cache.folder}
        if study.decoded:
            moved["data_cache"] = folder / "data"
        for name, reference in study.models.items():
            moved[name] = models / f"{name}.am"
            moved[name].write_bytes(ray.get(reference))
        return moved

    def ready(self) -> tuple[str, bool]:
        """Say why this node cannot work, "" where it can, and whether it has a folder of its own."""
        return self._fault, self._cache is not None

    def run(self, job: bytes, timeout: float | None, parcel: Parcel) -> tuple[str, Any, Parcel]:
        """Run a pickled job; return ("done", outcome), or ("failed", error) where the worker cannot open the study.

        And what came of it that the sender lacks.
        """
        if self._cache is not None:
            self._receive(self._cache, parcel)
        self._workers.submit(Packed(job), timeout)
        try:
            while not (found := self._workers.collect(3600.0)):
                pass
        except AutoMCError as error:
            return "failed", error, Parcel()
        return "done", found[0][1], Parcel() if self._cache is None else pack(self._cache, parcel.wanted)

    @staticmethod
    def _receive(cache: PrefixCache, parcel: Parcel) -> None:
        """Get the files that are not here yet. Where the disk refuses, the steps before are run again."""
        import ray

        with suppress(OSError):
            lacking = [key for key in parcel.files if cache.model_path(key) is None]
            contents = ray.get([parcel.files[key] for key in lacking])
            unpack(cache, Parcel(parcel.outcomes, dict(zip(lacking, contents, strict=True))))

    def end(self) -> None:
        """End this process, and so its worker: also where the cluster's head is lost, which would have it killed."""
        os._exit(0)

    def progress(self) -> tuple[int, int, float]:
        """Iterations done, iterations in all, seconds: of the step under way."""
        running = self._workers.running()
        return (running[0].done, running[0].of, running[0].seconds) if running else (0, 0, 0.0)

"""Fills a cache for the tests, also from processes of their own: python cache_writer.py FOLDER LIMIT SEED."""

from __future__ import annotations

import hashlib
import os
import random
import sys
from pathlib import Path

from automc.execution.cache import PrefixCache
from automc.execution.outcome import StepOutcome

OK = StepOutcome("ok", accuracy=0.5, params=10, flops=20, reached=True, seconds=1.5, iterations=7)


def key(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def put(cache: PrefixCache, name: object, size: int, outcome: StepOutcome = OK) -> None:
    with cache.temporary(key(name)) as path:
        path.write_bytes(os.urandom(size))
        cache.put(key(name), outcome, path)


if __name__ == "__main__":
    folder, limit, seed = sys.argv[1:]
    shared = PrefixCache(Path(folder), int(limit))
    chance = random.Random(int(seed))
    sys.stdout.write("up\n")
    sys.stdout.flush()
    while True:
        put(shared, chance.randrange(40), chance.randrange(1_000, 30_000))

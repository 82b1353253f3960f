"""Laws of the prefix cache: the limit holds, pins hold, nothing half-written is ever seen."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cache_writer import OK, key, put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from automc import temporary
from automc.errors import EnvironmentFault
from automc.execution.cache import PrefixCache
from automc.execution.outcome import StepOutcome


def weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "weights").iterdir())


def test_an_outcome_comes_back_as_it_was_and_marked(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path)
    details = {"rank": np.int64(3), "ratios": np.array([0.5, 0.25]), "pair": (1, 2), "name": "x"}
    cache.put(key(1), StepOutcome("ok", accuracy=0.1 + 0.2, params=1, seconds=2.5, details=details))
    found = PrefixCache(tmp_path).outcome(key(1))
    assert found is not None
    assert (found.accuracy, found.params, found.seconds, found.cached) == (0.1 + 0.2, 1, 2.5, True)
    assert found.details == {"rank": 3, "ratios": [0.5, 0.25], "pair": [1, 2], "name": "x"}
    assert cache.outcome(key(2)) is None
    assert cache.model_path(key(1)) is None


@pytest.mark.parametrize("status", ["infeasible", "diverged"])
def test_failures_that_follow_from_the_key_are_kept(tmp_path: Path, status: str) -> None:
    cache = PrefixCache(tmp_path)
    cache.put(key(1), StepOutcome(status, "no batch norm"))  # type: ignore[arg-type]
    found = cache.outcome(key(1))
    assert found is not None
    assert (found.status, found.reason) == (status, "no batch norm")


@pytest.mark.parametrize("status", ["crashed", "timeout", "out_of_memory"])
def test_failures_of_the_day_are_not_reused(tmp_path: Path, status: str) -> None:
    cache = PrefixCache(tmp_path)
    cache.put(key(1), StepOutcome(status))  # type: ignore[arg-type]
    assert cache.outcome(key(1)) is None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), min_size=1, max_size=25),
    pins=st.sets(st.integers(0, 9), max_size=3),
)
def test_the_limit_holds_after_every_put_and_pins_stay(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]], pins: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    cache = PrefixCache(folder, limit_bytes=100)
    cache.pin([key(name) for name in pins], "study-1")
    for name, size in sizes:
        held = {n for n in pins if cache.model_path(key(n))}
        put(cache, name, size)
        assert weights(folder) <= 100
        assert all(cache.model_path(key(n)) for n in held - {name})
        assert not list((folder / "tmp").iterdir())
        assert cache.outcome(key(name)) is not None
    assert cache.status().weights_bytes == weights(folder)


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path, limit_bytes=30)
    for name in "abc":
        put(cache, name, 10)
    assert cache.model_path(key("a")) is not None
    put(cache, "d", 10)
    assert [bool(cache.model_path(key(name))) for name in "abcd"] == [True, False, True, True]


def test_pins_of_two_studies_are_independent(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path, limit_bytes=20)
    put(cache, "a", 10)
    put(cache, "b", 10)
    cache.pin([key("a")], "one")
    cache.pin([key("a"), key("b")], "two")
    cache.pin([], "one")
    put(cache, "c", 10)
    assert cache.model_path(key("c")) is None
    assert cache.prune(0) == 0
    cache.unpin("two")
    put(cache, "c", 10)
    assert [bool(cache.model_path(key(name))) for name in "abc"] == [False, True, True]


def test_a_model_larger_than_the_limit_evicts_nothing(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path, limit_bytes=20)
    put(cache, "a", 10)
    put(cache, "huge", 21)
    assert cache.model_path(key("a")) is not None
    assert cache.model_path(key("huge")) is None


def test_damaged_outcomes_count_as_absent(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path)
    cache.put(key(1), OK)
    [path] = tmp_path.glob("outcomes/*/*.json")
    whole = path.read_text()
    for damaged in (whole[: len(whole) // 2], "", "[]", "null", "{}", json.dumps({"status": "nonsense"})):
        path.write_text(damaged)
        assert cache.outcome(key(1)) is None, damaged
    path.write_bytes(b"\xff\xfe\x00")
    assert cache.outcome(key(1)) is None
    cache.put(key(1), OK)
    assert cache.outcome(key(1)) is not None


def test_an_older_or_newer_outcome_file_is_read(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path)
    cache.put(key(1), OK)
    [path] = tmp_path.glob("outcomes/*/*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "added_later": 1}))
    found = cache.outcome(key(1))
    assert found is not None
    assert found.accuracy == 0.5


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="file/cache"):
        PrefixCache(tmp_path / "file" / "cache")


def writer(folder: Path, seed: int) -> subprocess.Popen[str]:
    script = Path(__file__).parent / "cache_writer.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(script), str(folder), "100000", str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_two_writers_killed_at_random_never_break_the_limit_or_a_file(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path, limit_bytes=100_000)
    put(cache, "front", 40_000)
    cache.pin([key("front")], "study")
    content = (tmp_path / "weights" / f"{key('front')}.am").read_bytes()
    chance = random.Random(0)
    most = 0
    for turn in range(3):
        pair = [writer(tmp_path, 2 * turn), writer(tmp_path, 2 * turn + 1)]
        for process in pair:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
        # Killed at some moment after they have filled the cache.
        sizes, looks = [0], chance.randrange(200)
        while sum(sizes) <= 60_000 or (looks := looks - 1) > 0:
            sizes = []
            for path in (tmp_path / "weights").iterdir():
                try:
                    sizes.append(path.stat().st_size)
                except FileNotFoundError:
                    continue
            most = max(most, sum(sizes))
        for process in pair:
            process.send_signal(signal.SIGKILL)
            process.wait()
        # The locks of the dead are free, and what they left is whole.
        put(cache, f"after {turn}", 1_000)
        assert weights(tmp_path) <= 100_000
        for path in tmp_path.glob("outcomes/*/*.json"):
            assert json.loads(path.read_text())["accuracy"] == 0.5
    # A listing is no snapshot: it may count a file that left and one that came, never more than one each.
    assert 60_000 < most <= 130_000
    assert (tmp_path / "weights" / f"{key('front')}.am").read_bytes() == content


def test_remains_of_dead_processes_are_removed_those_of_the_living_stay(tmp_path: Path) -> None:
    cache = PrefixCache(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = f"{temporary.prefix()}1-x.am"
    for name in (mine.replace(str(os.getpid()), str(gone.pid)), mine):
        (tmp_path / "tmp" / name).write_bytes(b"half")
    put(cache, "a", 10)
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == [mine]


def test_locks_that_nobody_took_for_a_day_are_removed_those_that_are_held_stay(tmp_path: Path) -> None:
    cache, old = PrefixCache(tmp_path), time.time() - 2 * 86400
    for name in ("used", "held", "new"):
        with cache.lock(key(name)):
            pass
    with cache.lock(key("held")):
        for name in ("used", "held"):
            os.utime(tmp_path / "locks" / f"{key(name)}.lock", (old, old))
        put(cache, "a", 10)
        assert {path.stem for path in (tmp_path / "locks").iterdir()} == {key("held"), key("new")}
        assert PrefixCache(tmp_path).is_locked(key("held"))
    with cache.lock(key("used")):
        assert PrefixCache(tmp_path).is_locked(key("used"))


def test_a_key_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    holders, most = [], []

    def hold() -> None:
        cache = PrefixCache(tmp_path)
        with cache.lock(key(1), poll=0.005):
            holders.append(1)
            most.append(len(holders))
            time.sleep(0.02)
            holders.pop()

    cache = PrefixCache(tmp_path)
    with cache.lock(key(1)):
        threads = [threading.Thread(target=hold) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        assert not most
        assert PrefixCache(tmp_path).is_locked(key(1))
        assert not cache.is_locked(key(2))
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]

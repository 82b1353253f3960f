"""A study whose workers are on a cluster is the study that it would be here."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from study_tools import create, run, same, stored
from test_killed import resume

from automc import api
from automc.study import Listener, Study
from automc.study.trial import Trial
from automc.training.recipe import Recipe

pytestmark = pytest.mark.slow


def test_a_search_on_a_cluster_has_the_same_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trials(cluster: str) -> list[tuple[object, ...]]:
        monkeypatch.setenv("AUTOMC_HOME", str(tmp_path / (cluster or "here")))
        done = api.search(
            "resnet8",
            "digits",
            gamma=0.4,
            budget="6steps",
            workers=2,
            cluster=cluster,
            recover="none",
            recipe=Recipe(unit_epochs=1.0),
        )
        return [(t.ordinal, t.scheme.id, t.status, t.accuracy, t.params) for t in done.trials]

    here = trials("")
    assert len(here) == 6
    assert trials("local") == here


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[Any], list[Path]]]:
    """A cluster whose two nodes have homes of their own: the cluster, the nodes, the homes."""
    from ray.cluster_utils import Cluster

    homes = [tmp_path / "one", tmp_path / "two"]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    added = [cluster.add_node(num_cpus=1, env_vars={"AUTOMC_HOME": str(home)}) for home in homes]
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster, added, homes
    cluster.shutdown()


def models(home: Path) -> set[str]:
    return {file.name for file in (home / "cache" / "weights").iterdir()}


def searched_here(home: Path, steps: int) -> list[dict[str, Any]]:
    """The trials of a search in this process; the cache is empty again afterwards."""
    rows = same(run(create(home, f"{steps}steps")).trials)
    assert len(rows) == steps
    shutil.rmtree(home / "cache")
    return rows


class After(Listener):
    """Does something once, after so many trials."""

    def __init__(self, trials: int, act: Callable[[], None]) -> None:
        self.left, self.act = trials, act

    def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()


def test_nodes_that_share_no_folder(full_home: Path, nodes: tuple[Any, list[Any], list[Path]]) -> None:
    """Models travel: each node has some, the searching machine's cache all of them, and trials are the same."""
    _, _, homes = nodes
    here = searched_here(full_home, 10)
    study = create(full_home, "10steps", cluster="auto")
    result = study.run()
    assert same(result.trials) == same(stored(study)) == here
    assert any(len(t.scheme) > 1 for t in result.trials)
    wanted = {f"{study.setup.key(t.scheme)}.am" for t in result.trials if t.status == "ok"}
    assert models(full_home) >= wanted
    own = [models(home) for home in homes]
    assert all(own)
    assert not own[0] >= wanted
    assert not own[1] >= wanted
    assert {folder.name for home in homes for folder in home.iterdir()} <= {"cache", "data"}
    assert result.model is not None
    assert result.model.is_file()


def family(pid: int) -> list[int]:
    """All processes below one."""
    below: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            below += [one for child in file.read_text().split() for one in (int(child), *family(int(child)))]
    return below


def ended(pid: int) -> bool:
    """Whether a process is gone within minutes, or has only not been waited for."""
    until = time.monotonic() + 300.0
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("whole", [True, False], ids=["the machine", "the driver"])
def test_the_head_is_lost_and_resume_goes_on(whole: bool, full_home: Path) -> None:
    """Kill -9 of all that Ray runs, or of the process that searches: nothing is lost, nothing done twice or left."""
    here = searched_here(full_home, 24)
    study = create(full_home, "24steps", cluster="local")
    process, lines = resume(study.spec.id, 2, 3)
    assert process.poll() is None, lines
    left = family(process.pid)
    committed = same(stored(study), but=())
    for pid in left if whole else [process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == (1 if whole else -signal.SIGKILL), said
    assert ("The head of the Ray cluster" in said) is whole
    assert "Traceback" not in said
    assert len(left) > 4
    assert all(ended(pid) for pid in left)
    now = same(stored(study), but=())
    assert len(committed) >= 3
    assert all(row in now for row in committed)
    assert len(now) < 24
    result = run(Study.open(study.spec.id, cluster=""))
    assert same(result.trials) == same(stored(study)) == here
    assert all(row in same(result.trials, but=()) for row in committed)


def test_a_node_lost_with_all_models_of_a_study(full_home: Path, nodes: tuple[Any, list[Any], list[Path]]) -> None:
    """What came before is run again, as after an eviction: no trial is lost, none is there twice."""
    cluster, added, homes = nodes
    here = searched_here(full_home, 12)

    def lose() -> None:
        cluster.remove_node(added[0], allow_graceful=False)
        for home in (full_home, *homes):
            for file in (home / "cache" / "weights").iterdir():
                file.unlink()

    study = create(full_home, "12steps", cluster="auto")
    result = study.run(After(4, lose))
    assert same(result.trials) == same(stored(study)) == here

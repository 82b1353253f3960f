"""Workers on a cluster: what is lost there costs a retry, never a job."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_workers import GUARD, drain, gone
from worker_jobs import open_state, run_job

from automc.errors import EnvironmentFault, StudyError
from automc.execution import cluster
from automc.execution.cache import STATE, PrefixCache
from automc.execution.carrying import Carrier, StudyFolder, pack, unpack
from automc.execution.cluster import RETRIES, Head, RayWorkers, address, room
from automc.execution.outcome import StepOutcome
from automc.execution.setup import Bench, Setup
from automc.execution.step import execute
from automc.execution.worker import Order
from automc.study.spec import Budget, StudySpec
from kg.schema import Scheme, Strategy

ORDER = Order("state", open_state, run_job)
ONE, SFP = Scheme.parse("NS[HP1=0.5,HP2=0.12,HP6=0.9]"), Strategy.parse("SFP[HP2=0.12,HP9=0.4,HP10=5]")


def test_jobs_run_on_a_cluster_and_a_crash_is_a_status(ray_cluster: None) -> None:
    with RayWorkers(ORDER, 2, "local") as workers:
        tickets = [workers.submit(("echo", number)) for number in range(6)]
        killed, hung = workers.submit(("kill", signal.SIGKILL)), workers.submit(("hang", None), timeout=0.3)
        found = drain(workers)
        assert [found[ticket].details["value"] for ticket in tickets] == list(range(6))
        assert (found[killed].status, found[hung].status) == ("crashed", "timeout")
        assert "SIGKILL" in found[killed].reason
        pid = found[tickets[0]].details["pid"]
    assert gone(pid)


@pytest.mark.parametrize("text", ["", "here", "ray://", "ray://host", "ray://host:port", "http://host:1"])
def test_what_is_no_cluster_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match="ray://HOST:PORT"):
        address(text)


def test_a_head_that_does_not_answer_several_times_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_HEAD_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = Head(f"127.0.0.1:{server.getsockname()[1]}")
        for _ in range(2 * cluster._HEAD_LOOKS):
            head.insist()
    for _ in range(cluster._HEAD_LOOKS - 1):
        head.insist()
    assert not head.lost
    with pytest.raises(EnvironmentFault, match=r"head of the Ray cluster, 127.* is lost: .* automc resume"):
        head.insist()
    assert head.lost


def test_cards_without_a_cluster_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="--cluster"):
        StudySpec("s", "m", None, 0.3, Budget(steps=1), None, gpus_per_worker=0.5)  # type: ignore[arg-type]


def test_a_cluster_without_room_says_what_it_has(ray_cluster: None) -> None:
    with pytest.raises(EnvironmentFault, match=r"no room for a worker of 1 cards: it has [0-9]+ cores and 0 cards"):
        room("local", gpus=1.0)

    with pytest.raises(EnvironmentFault, match=r"has room for 2 workers, 3 are asked for\. Use --workers 2"):
        RayWorkers(ORDER, 3, "local").start()


def test_a_node_with_other_versions_is_refused_by_name(ray_cluster: None, setup: Setup) -> None:
    carrier = Carrier(setup)

    def told(put: Callable[[bytes], Any]) -> StudyFolder:
        found = Carrier.open(carrier, put)
        return replace(found, versions={**found.versions, "torch": "1.0", "left-pad": "3"})

    carrier.open = told  # type: ignore[method-assign]
    with RayWorkers(ORDER, 1, "local", carrier=carrier) as workers:
        workers.submit(("echo", 0))
        with pytest.raises(EnvironmentFault, match=r"has torch .*, not 1\.0, left-pad is missing, not 3\."):
            workers.collect(GUARD)


def test_what_a_job_needs_of_the_cache_goes_with_it_and_what_it_lacks_comes_back(setup: Setup, bench: Bench) -> None:
    """The last model that is there, with the state of its training where that is gone on with."""
    carrier, scheme = Carrier(setup), ONE.then(SFP).at(1)
    keys = {one: bench.key(one) for one in scheme.at(3).beginnings}

    def sent(job: Scheme) -> tuple[set[str], set[str], set[str]]:
        errand = carrier.errand(job)
        return set(errand.outcomes), set(errand.files), set(errand.wanted)

    first, second, third, _ = keys.values()
    state = {key: key + STATE for key in keys.values()}
    assert sent(Scheme()) == (set(), set(), {bench.key(Scheme())})
    assert sent(scheme) == (set(), set(), {first, state[first], second, state[second]})
    execute(bench, ONE.at(1))
    assert sent(scheme) == ({first}, {first}, {second, state[second]})
    execute(bench, scheme)
    assert sent(scheme.at(2)) == ({first, second}, {second, state[second]}, {third, state[third]})
    bench.cache.drop(state[second])
    assert sent(scheme.at(2)) == ({first, second}, {first}, {state[second], third, state[third]})
    execute(bench, scheme.at(3))
    assert sent(scheme.at(3)) == (set(keys.values()), {third, state[third]}, set())


def test_a_cache_takes_from_another_what_it_lacks(setup: Setup, bench: Bench, tmp_path: Path) -> None:
    execute(bench, ONE)
    key, other = bench.key(ONE), PrefixCache(tmp_path / "other")
    parcel = pack(bench.cache, (key, "f" * 64))
    unpack(other, parcel)
    unpack(other, replace(parcel, files={key: b"another"}, outcomes={key: StepOutcome("infeasible")}))
    assert other.outcome(key) == bench.cache.outcome(key)
    assert other.content(key) == bench.cache.content(key)
    assert other.status().models == other.status().outcomes == 1


def test_a_node_has_a_folder_of_its_own_unless_it_sees_the_study_s(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carrier, home = Carrier(setup), setup.cache.parent
    folder = carrier.open(bytes)
    monkeypatch.setenv("AUTOMC_HOME", str(home))
    assert folder.own_folder() is None
    monkeypatch.setenv("AUTOMC_HOME", str(tmp_path / "local"))
    assert folder.own_folder() == tmp_path / "local"
    monkeypatch.delenv("AUTOMC_HOME")
    assert folder.own_folder() is None
    carrier.close()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder.own_folder() == tmp_path / ".cache" / "automc"
    monkeypatch.setenv("AUTOMC_HOME", str(home))
    assert folder.own_folder() == home


def host_of(pid: int) -> int:
    """The process of Ray's that a worker process belongs to."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_hosts_killed_again_and_again_lose_no_job(ray_cluster: None, tmp_path: Path) -> None:
    """Twenty times kill -9 of a host: each job has one outcome in the end, and nothing is left behind."""
    draw = random.Random(0)
    with RayWorkers(ORDER, 2, "local") as workers:
        tickets = {workers.submit(("pid", tmp_path)) for _ in range(60)}
        found: dict[int, Any] = {}
        killed: list[int] = []
        while len(found) < len(tickets):
            for ticket, outcome in workers.collect(GUARD):
                assert ticket not in found, "told twice"
                found[ticket] = outcome
            alive = [int(file.name) for file in tmp_path.iterdir() if int(file.name) not in killed]
            alive = [pid for pid in alive if Path(f"/proc/{pid}").exists()]
            if len(killed) < 20 and alive:
                killed.append(draw.choice(alive))
                os.kill(host_of(killed[-1]), signal.SIGKILL)
        assert len(killed) == 20
    assert found.keys() == tickets
    lost = [outcome for outcome in found.values() if outcome.status != "ok"]
    assert all(f"{RETRIES + 1} hosts were lost" in outcome.reason for outcome in lost)
    assert all(gone(pid) for pid in killed)


@pytest.mark.slow
def test_a_job_whose_hosts_all_die_is_a_crash(ray_cluster: None) -> None:
    with RayWorkers(ORDER, 1, "local") as workers:
        bad = workers.submit(("parent", signal.SIGKILL))
        after = workers.submit(("echo", 1))
        found = drain(workers)
    assert found[bad].status == "crashed"
    assert "hosts were lost" in found[bad].reason
    assert found[after].status == "ok"


PARENT = """
import sys
sys.path[:0] = PATHS
from automc.execution.cluster import RayWorkers
from automc.execution.worker import Order
from worker_jobs import open_state, run_job, serve_until_interrupted
"""
NODES = """
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    import os
    os.environ["RAY_ADDRESS"] = cluster.address
    with RayWorkers(Order("state", open_state, run_job), 2, "auto") as workers:
        tickets = {workers.submit(("nap", 0.2)) for _ in range(20)}
        found = dict(workers.collect(600.0))
        cluster.remove_node(nodes[0], allow_graceful=False)
        while len(found) < 20:
            for ticket, outcome in workers.collect(600.0):
                assert ticket not in found
                found[ticket] = outcome
    assert found.keys() == tickets and all(outcome.status == "ok" for outcome in found.values()), found
    print("all")
    cluster.shutdown()
"""
INTERRUPTED = """
    serve_until_interrupted(RayWorkers(Order("state", open_state, run_job), 2, "local"))
"""


def start(body: str) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    code = PARENT.replace("PATHS", repr([str(here), str(here.parents[1])])) + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.slow
def test_the_loss_of_a_node_loses_no_job() -> None:
    parent = start(NODES)
    said, _ = parent.communicate(timeout=GUARD)
    assert said == "all\n", "nothing of Ray's own on standard output"


@pytest.mark.slow
def test_workers_hosts_and_whole_nodes_killed_twenty_times_lose_no_job(tmp_path: Path) -> None:
    """Of a second node, in any order: each job has one outcome, and only a worker's own end is a crash."""
    script, root = Path(__file__).with_name("killed_nodes.py"), str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, script, tmp_path, "20"], env=environment, stdout=subprocess.PIPE, text=True, timeout=3000
    )
    assert done.stdout == "20 killed, of all kinds: True\n", "nothing of Ray's own on standard output"
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ctrl-c", "kill -9"])
def test_nothing_outlives_a_parent_that_is_stopped(how: str) -> None:
    parent = start(INTERRUPTED)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    hosts = [host_of(pid) for pid in pids]
    assert len(pids) == 2
    if how == "ctrl-c":
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.stdout.readline() == "stopped\n"
    else:
        parent.kill()
    parent.wait(GUARD)
    assert all(gone(pid) for pid in [*pids, *hosts])

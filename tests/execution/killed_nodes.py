"""Kills processes of a cluster's second node while jobs run there; a script, for a process is on one cluster only.

Arguments: a folder, and how many are killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster
from worker_jobs import open_state, run_job

from automc.execution.cluster import RETRIES, RayWorkers
from automc.execution.worker import Order

KINDS = ("worker", "host", "raylet")


def children(pid: int) -> list[int]:
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, file.read_text().split())
    return found


def seen(raylet: int, folder: Path) -> tuple[int, int] | None:
    """A host of a node and its worker, which has begun a job; None where there is none."""
    for host in children(raylet):
        for worker in children(host):
            if (folder / str(worker)).exists():
                return host, worker
    return None


def main(folder: Path, kills: int) -> None:
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    draw, dealt, found = random.Random(0), Counter[str](), dict[int, Any]()
    with RayWorkers(Order("state", open_state, run_job), 2, "auto") as workers:
        tickets = [workers.submit(("pid", folder)) for _ in range(20)]
        while len(found) < len(tickets) or dealt.total() < kills:
            for ticket, outcome in workers.collect(1.0):
                assert ticket not in found, "told twice"
                found[ticket] = outcome
            while len(tickets) < len(found) + 4 and dealt.total() < kills:
                tickets.append(workers.submit(("pid", folder)))
            raylet = second.all_processes["raylet"][0].process.pid
            if dealt.total() == kills or (pair := seen(raylet, folder)) is None:
                continue
            kind = draw.choice(KINDS)
            dealt[kind] += 1
            os.kill({"worker": pair[1], "host": pair[0], "raylet": raylet}[kind], signal.SIGKILL)
            (folder / str(pair[1])).unlink()
            if kind == "raylet":
                cluster.remove_node(second, allow_graceful=False)
                second = cluster.add_node(num_cpus=1)
    assert sorted(found) == tickets
    lost = [outcome.reason for outcome in found.values() if outcome.status != "ok"]
    by_worker = [reason for reason in lost if "SIGKILL" in reason]
    assert len(by_worker) <= dealt["worker"], lost
    assert all(f"{RETRIES + 1} hosts were lost" in reason for reason in lost if reason not in by_worker), lost
    print(f"{dealt.total()} killed, of all kinds: {dealt.keys() == set(KINDS)}")
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

"""The jobs of a study, and the workers that run them."""

from __future__ import annotations

from dataclasses import dataclass

from automc.errors import MethodError
from automc.execution.carrying import Carrier
from automc.execution.cluster import RayWorkers
from automc.execution.dry import Dry, run_dry
from automc.execution.final import Final, accuracy_on_test, final, run_final
from automc.execution.monitor import Monitor
from automc.execution.outcome import StepOutcome
from automc.execution.probe import Probe, ProbeReport, probe, probe_method, probe_with
from automc.execution.recovery import Recovery, loss_of, recover_saved
from automc.execution.setup import Bench, Setup, open_bench
from automc.execution.step import execute
from automc.execution.worker import Order
from automc.execution.workers import LocalWorkers, Workers, cores
from automc.surgery.diagnosis import diagnose
from kg.schema import Scheme

__all__ = [
    "Dry",
    "Final",
    "Inspection",
    "Job",
    "Probe",
    "ProbeReport",
    "Recovery",
    "accuracy_on_test",
    "cluster_workers",
    "execute",
    "final",
    "local_workers",
    "loss_of",
    "probe",
    "probe_with",
    "recover_saved",
    "run_job",
]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A job: look at M's layers one by one; the outcome's details hold the `report`, a ModelReport."""


Job = Scheme | Probe | Dry | Final | Inspection
"""A Scheme: its last step; a Probe: a method tried on M; Dry: without training; a Final: a whole scheme, saved."""


def run_job(bench: Bench, job: Job, monitor: Monitor) -> StepOutcome:
    """Run one job on an opened study."""
    match job:
        case Scheme():
            return execute(bench, job, monitor)
        case Probe():
            return probe_method(bench, job, monitor)
        case Dry():
            return run_dry(bench, job, monitor)
        case Final():
            return run_final(bench, job, monitor)
        case Inspection():
            monitor.begin()
            return StepOutcome("ok", details={"report": diagnose(bench.model, bench.example, bench.setup.keep)})
    raise MethodError(f"{type(job).__name__} is not a job.")


def cluster_workers(setup: Setup, count: int, where: str, gpus: float = 0.0) -> Workers:
    """Return workers on the nodes of a Ray cluster, not yet started.

    Args:
        count: workers.
        where: "local", "auto" or "ray://HOST:PORT".
        gpus: cards for each worker, 0 for those that work on a CPU.

    Raises:
        StudyError: `where` is something else.
    """
    return RayWorkers(Order(setup, open_bench, run_job), count, where, gpus, Carrier(setup))


def local_workers(setup: Setup, count: int | None = None) -> Workers:
    """Return workers for a study, not yet started; default as many as there are cores.

    On a CPU each has one thread, so results do not depend on their number; beside an accelerator they share
    the cores.
    """
    count = count or cores()
    threads = 1 if setup.device == "cpu" else max(1, cores() // count)
    return LocalWorkers(Order(setup, open_bench, run_job, threads), count)

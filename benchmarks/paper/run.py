"""The command of both experiments: the plan with its hours on this device, and one piece of the work at each start."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from automc import api
from automc.execution.workers import cores
from automc.home import home
from automc.study.task import open_subject, resolve_device
from benchmarks.gpu import speed
from benchmarks.paper import work
from benchmarks.paper.work import Job, Net
from benchmarks.resumable import made_with, rows

Plan = Callable[[argparse.Namespace, Callable[[Net], tuple[float, int]]], Iterable[Job]]
"""(options, network → images a second and training images) → jobs in order."""


def arguments(about: str, given: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", help="the data set's name, or an image folder; left out: its networks are")
    parser.add_argument("--cifar100", help="likewise")
    parser.add_argument("--out", type=Path, required=True, help="of the table and the page")
    parser.add_argument("--plan", action="store_true", help="only print what is left, and its hours on this device")
    parser.add_argument("--piece", type=float, default=600.0, help="seconds that one start works")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, help="of a search; default one a core, one on a GPU")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--epochs", type=int, default=200, help="of the networks that are compressed")
    parser.add_argument("--unit-epochs", type=float, default=50.0, help="E0 of the steps")
    parser.add_argument("--steps", type=int, default=200, help="of each search")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--methods", nargs="+", default=list(work.METHODS))
    parser.add_argument("--searchers", nargs="+", default=list(work.SEARCHERS))
    parser.add_argument("--targets", type=float, nargs="+", help="shares of the parameters to remove")
    options = parser.parse_args(given)
    options.device = str(resolve_device(options.device))
    cpu = options.device == "cpu"
    options.workers = options.workers or (cores() if cpu else 1)
    options.work = home() / "paper"
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def pace_of(options: argparse.Namespace) -> Callable[[Net], tuple[float, int]]:
    """Return what measures a network here, once: images trained a second by one worker, and its training images."""
    known: dict[Net, tuple[float, int]] = {}
    device = torch.device(options.device)
    cpu = device.type == "cpu"
    batch = min(options.batch, 16) if cpu else options.batch
    size = speed.Size(device, 2 * batch if cpu else 20_000, batch, *((2, 2) if cpu else (60, 100)))

    def pace(net: Net) -> tuple[float, int]:
        if net not in known:
            threads = torch.get_num_threads()
            torch.set_num_threads(1 if cpu else threads)
            subject = open_subject(net.network, api.data_ref(net.data), device="cpu")
            timed, _ = speed.automc(net.network, speed.Variant("", graph=not cpu), size)
            torch.set_num_threads(threads)
            known[net] = timed.images_per_second, subject.splits.rest.n
        return known[net]

    return pace


def show(jobs: Sequence[Job], options: argparse.Namespace) -> None:
    """Print the plan."""
    left = [job for job in jobs if not job.done]
    hours = sum(job.seconds for job in left) / 3600
    print(f"{len(left)} of {len(jobs)} jobs are left, about {hours:.1f} h on {options.device}:")
    for job in left:
        long = "; longer than a piece, needs a larger --piece" if job.whole and job.seconds > options.piece else ""
        print(f"{job.seconds / 3600:9.2f} h  {job.name}{long}", flush=True)


def piece(jobs: Sequence[Job], options: argparse.Namespace) -> None:
    """Work until the piece's time is up. A job that cannot be stopped begins only where it is expected to end in time."""
    until = time.monotonic() + options.piece
    for job in (job for job in jobs if not job.done):
        left = until - time.monotonic()
        if left <= 0 or (job.whole and job.seconds > left):
            print(f"left for the next piece: {job.name}, {job.seconds:.0f} s")
            return
        print(job.name, flush=True)
        if not job.run(until):
            print(f"stopped, goes on with the next piece: {job.name}")
            return
    print("all is done")


def page(title: str, out: Path) -> str:
    """The rows as a page, beside the paper's figures."""
    lines = [f"# {title}", "", f"Made with {made_with()}", ""]
    lines += ["| network | found on | who | about | removed | FLOPs removed | test before → after | paper | scheme |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in rows(out):
        figures = [f"{float(row[n]):.1%}" if row[n] else "–" for n in ("pr", "fr")]
        tested = " → ".join(f"{float(row[n]):.2%}" if row[n] else "–" for n in ("test_before", "test_after"))
        said = f"`{row['scheme']}`" if row["scheme"] else ""
        lines.append(
            f"| {row['network']} | {row['found_on']} | {row['who']} | {float(row['wanted']):.0%} | {figures[0]} | {figures[1]} | "
            f"{tested} | {row['paper_top1'] or '–'} | {said} {row['reason']} |"
        )
    return "\n".join(lines) + "\n"


def experiment(title: str, about: str, plan: Plan, given: Sequence[str] | None) -> None:
    """Print the plan; unless that is all that is wanted, work for one piece and write the page."""
    options = arguments(about, given)
    jobs = list(plan(options, pace_of(options)))
    show(jobs, options)
    if options.plan:
        return
    piece(jobs, options)
    if rows(options.out):
        (options.out / "README.md").write_text(page(title, options.out))

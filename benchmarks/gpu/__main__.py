"""What a card does with AutoMC: one command, at most nine minutes, started again for what is left.

    python -m benchmarks.gpu --out docs/results/gpu [--limit 540] [--data CIFAR_FOLDER --weights resnet56.th]

Every measurement is one row of `runs.csv` with its device and versions; rows that are there are not measured again.
Without a CUDA device the same code runs in a reduced form: a handful of iterations on the CPU, which says that it works
and nothing else. Images are synthetic unless a folder is given; only the study reads it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from automc.study.machine import versions
from automc.training.precision import cpu_name
from benchmarks.gpu import speed, whole
from benchmarks.gpu.page import COLUMNS, KEY, page
from benchmarks.gpu.several import together
from benchmarks.gpu.speed import Size, Timed
from benchmarks.resumable import append, claim, rows

NETWORKS: Sequence[str] = ("resnet56", "resnet20")
WORKERS: Sequence[int] = (1, 2, 4, 8)
PLAIN, RESIDENT = "plain loop", "plain loop, images on the device"


@dataclass(frozen=True)
class Row:
    """One measurement."""

    part: str
    network: str
    variant: str
    workers: int
    seconds: float
    """That it takes on a card, at most: it is not begun with less time left."""
    run: Callable[[], Timed]


def plan(size: Size, search: whole.Search, networks: Sequence[str], workers: Sequence[int]) -> Iterator[Row]:
    """Yield all measurements, those that answer most first."""
    for network in networks:
        yield Row("speed", network, PLAIN, 1, 30, lambda n=network: speed.plain(n, size))  # type: ignore[misc]
        yield Row("speed", network, RESIDENT, 1, 15, lambda n=network: speed.plain(n, size, resident=True))  # type: ignore[misc]
        for variant in speed.VARIANTS:
            yield Row("speed", network, variant.name, 1, 15, lambda n=network, v=variant: speed.automc(n, v, size)[0])  # type: ignore[misc]
        if network == networks[0]:
            for count in workers:
                run = lambda n=network, c=count: together(n, speed.BEST, size, c)  # noqa: E731
                yield Row("workers", network, speed.BEST.name, count, 40, run)
            yield Row("tests", "", "marked gpu", 1, 90, lambda: whole.tests(90.0))
            name = f"gamma 0.4, {search.budget}"
            yield Row("study", search.network, name, search.workers, 180, lambda: whole.study(search, size))
    if size.device.type == "cuda":
        long = lambda: speed.automc(networks[0], speed.COMPILED, size)[0]  # noqa: E731
        yield Row("speed", networks[0], speed.COMPILED.name, 1, 100, long)


def measured(row: Row, size: Size) -> dict[str, object]:
    """Run one; what it could not do is the note."""
    try:
        found = row.run()
    except (RuntimeError, OSError) as error:
        found = Timed(0.0, 0.0, 0, note=f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    card = size.device.type == "cuda"
    return {
        "part": row.part, "network": row.network, "variant": row.variant, "workers": row.workers,
        "device": size.device.type, "batch": size.batch, "value": round(found.images_per_second, 2),
        "seconds": round(found.seconds, 2), "first_seconds": round(found.first_seconds, 2),
        "peak_mb": round(found.peak_bytes / 2**20), "note": found.note,
        "name": torch.cuda.get_device_name() if card else cpu_name(), "cuda": torch.version.cuda if card else "",
        "cudnn": torch.backends.cudnn.version() if card else "",  # type: ignore[no-untyped-call]
        **{n: versions()[n] for n in ("automc", "torch")},
    }  # fmt: skip


def reduced(batch: int = 8) -> Size:
    """How much a CPU does: enough to see that everything runs."""
    return Size(torch.device("cpu"), images=4 * batch, batch=batch, warm=2, timed=1, loaders=0)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=540.0, help="seconds; nothing is begun that would last longer")
    parser.add_argument("--data", default=whole.SYNTHETIC, help="of the study: a folder with train/ and test/")
    parser.add_argument("--weights", type=Path, help="of the study's ResNet-56; else it is trained a little")
    parser.add_argument("--parts", nargs="+", default=["speed", "workers", "tests", "study"])
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Measure what is missing as long as the time allows, then write the page."""
    options, began = arguments(given), time.monotonic()
    search = whole.Search(data=options.data, weights=options.weights)
    networks, workers = NETWORKS, WORKERS
    if torch.cuda.is_available():
        size = Size(torch.device("cuda:0"))
        search = replace(search, epochs=1.0, lr=0.01) if options.weights else search
    else:
        torch.set_num_threads(1)
        size, networks, workers = reduced(), NETWORKS[1:], WORKERS[:2]
        search = replace(
            search, network="resnet8", budget="2steps", workers=1, epochs=1.0, unit_epochs=0.01, fraction=1.0
        )
    left = []
    for row in plan(size, search, networks, workers):
        key = dict(zip(KEY, (row.part, row.network, row.variant, str(row.workers), size.device.type), strict=True))
        if row.part not in options.parts:
            continue
        with claim(options.out, key) as free:
            if not free:
                continue
            if time.monotonic() - began + (row.seconds if size.device.type == "cuda" else 0.0) > options.limit:
                left.append(" ".join(key.values()))
                continue
            line = measured(row, size)
            append(options.out, COLUMNS, line)
            print(*key.values(), line["value"], line["note"], flush=True)
    for one in left:
        print("left, run the same command again:", one)
    (options.out / "README.md").write_text(page(rows(options.out)))


if __name__ == "__main__":
    main()

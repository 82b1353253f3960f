"""The kit's rows as a page."""

from __future__ import annotations

from collections.abc import Sequence

COLUMNS = (
    "part", "network", "variant", "workers", "device", "batch", "value", "seconds", "first_seconds", "peak_mb", "note",
    "name", "cuda", "cudnn", "automc", "torch",
)  # fmt: skip
KEY = COLUMNS[:5]
WANTED = 10.0
"""Times the plain loop's images per second that the workers of a card together should reach: ResNet-56, batch 128."""

Rows = Sequence[dict[str, str]]


def page(found: Rows) -> str:
    """Return the page; what only a card shows is called unmeasured until one has run it."""
    cards = [row for row in found if row["device"] == "cuda"]
    shown = cards or found
    lines = [
        "# What a card does with AutoMC", "",
        "Written by `python -m benchmarks.gpu` from `runs.csv` (docs/gpu.md says how to run it).", "",
        f"**Target: {WANTED:g} times the plain loop's images per second in the sum of a card's workers, ResNet-56, batch 128: "
        f"{verdict(cards)}.**", "",
    ]  # fmt: skip
    if not cards:
        lines += [
            "No card has run this yet. Unmeasured are images per second on a card, how they grow with workers, the steps",
            "per minute of a study there, its memory, and the tests marked `gpu`: graphs and fixed orders of sums among them.",
        ]
    for device in dict.fromkeys((r["name"], r["device"], r["cuda"], r["cudnn"], r["torch"]) for r in shown):
        name, kind, cuda, cudnn, torch = device
        about = f"CUDA {cuda}, cuDNN {cudnn}, " if kind == "cuda" else "a few iterations, which say only that it runs; "
        mine = [r for r in shown if (r["name"], r["torch"]) == (name, torch)]
        lines += ["", f"## {name}", "", f"{kind}; {about}torch {torch}.", "", *_speed(mine), "", *_others(mine)]
    return "\n".join(lines).rstrip("\n") + "\n"


def verdict(cards: Rows) -> str:
    """Say whether the target is reached, by the best number of workers."""
    plain = [float(r["value"]) for r in cards if (r["network"], r["variant"]) == ("resnet56", "plain loop")]
    several = [(float(r["value"]), r["workers"]) for r in cards if (r["network"], r["part"]) == ("resnet56", "workers")]
    if not plain or not several or not plain[0]:
        return "unmeasured"
    best, workers = max(several)
    times = best / plain[0]
    return f"{'reached' if times >= WANTED else 'not reached'}, {times:.1f} times with {workers} workers"


def _speed(found: Rows) -> list[str]:
    lines = [
        "| network | how | workers | images/s | × plain loop | × images on the device | first pass, s | peak MB | |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in (r for r in found if r["part"] in ("speed", "workers")):
        factors = []
        for name in ("plain loop", "plain loop, images on the device"):
            base = [float(r["value"]) for r in found if (r["network"], r["variant"]) == (row["network"], name)]
            factors.append(f"{float(row['value']) / base[0]:.2f}" if base and base[0] else "–")
        lines.append(
            f"| {row['network']} | {row['variant']} | {row['workers']} | {float(row['value']):,.0f} | {factors[0]} | "
            f"{factors[1]} | {row['first_seconds']} | {row['peak_mb']} | {row['note']} |"
        )
    return lines


def _others(found: Rows) -> list[str]:
    lines = []
    for row in found:
        if row["part"] == "study":
            lines.append(
                f"Study, {row['network']}, {row['variant']}, {row['workers']} workers: {float(row['value']):.1f} steps a minute "
                f"({row['note']})."
            )
        elif row["part"] == "tests":
            lines.append(f"Tests marked `gpu`: {row['note']}.")
    return lines

"""Processor seconds to find the channel groups of large networks: an older checkout against this one, in turns.

    git worktree add OLD 7c01063
    python -m benchmarks.groups --old OLD --out docs/results/groups.md

Networks of torchvision and timm (installed beside, not part of the package), random weights, one thread. Each look is a
process of its own that builds the network, then times `Groups` once after a small network; the turns alternate. A look
ends at `--limit` seconds of processor time.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

from automc.training.precision import cpu_name

NETWORKS = {
    "timm:tresnet_m": 224,
    "timm:rexnet_100": 64,
    "densenet201": 64,
    "densenet161": 64,
    "timm:xcit_nano_12_p16_224": 224,
}
"""The slowest of the older checkout that were found in both libraries, with the side of the images in pixels."""

LOOK = """
import resource, sys, time, torch
torch.set_num_threads(1)
torch.manual_seed(0)
name, size = sys.argv[1], int(sys.argv[2])
if name.startswith("timm:"):
    import timm
    model = timm.create_model(name[5:], pretrained=False)
else:
    import torchvision
    model = torchvision.models.get_model(name, weights=None)
from torch import nn
from automc.errors import Infeasible
try:
    from automc.surgery.groups import Groups
except ImportError:  # where an older checkout has it
    from automc.models.groups import Groups
Groups(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)).eval(), torch.zeros(1, 3, 8, 8))
start, units = time.process_time(), "-"
resource.setrlimit(resource.RLIMIT_CPU, (int(start + float(sys.argv[3])) + 1, resource.RLIM_INFINITY))
try:
    units = sum(group.units > 1 for group in Groups(model.eval(), torch.zeros(1, 3, size, size)).groups)
except Infeasible:
    pass
print(f"RESULT {time.process_time() - start:.2f} {units}")
"""


def look(checkout: Path, name: str, size: int, limit: float) -> tuple[float, str]:
    """Return the processor seconds of one look and the number of groups; the limit and "no end" where it did not end."""
    paths = [str(checkout.resolve()), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOOK, name, str(size), str(limit)]
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True)
    if done.returncode == -signal.SIGXCPU:
        return limit, "no end"
    if done.returncode:
        return float("nan"), done.stderr.strip().splitlines()[-1][:60]
    seconds, groups = done.stdout.split("RESULT ")[1].split(maxsplit=1)
    return float(seconds), groups.strip()


def main() -> None:
    """Time both checkouts on every network and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="the older checkout")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--limit", type=float, default=120.0, help="processor seconds of one look")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    here = Path(__file__).parents[1]
    lines = []
    for name, size in NETWORKS.items():
        found: dict[Path, list[tuple[float, str]]] = {options.old: [], here: []}
        for _ in range(options.turns):
            for checkout, results in found.items():
                results.append(look(checkout, name, size, options.limit))
        old, new = (statistics.median(seconds for seconds, _ in results) for results in found.values())
        groups = " | ".join(results[0][1] for results in found.values())
        more = "> " if found[options.old][0][1] == "no end" else ""
        less = "< " if more else ""
        lines.append(f"| {name} | {size} | {more}{old:.1f} | {new:.1f} | {less}{new / old:.2f} | {groups} |")
        print(lines[-1], flush=True)
    commit = subprocess.run(["git", "-C", options.old, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    options.out.write_text(
        "# Finding channel groups\n\n"
        f"Processor seconds of `Groups`, median of {options.turns} turns, {commit.stdout.strip()} against this version; "
        f"one thread, {cpu_name()}. `benchmarks/groups.py` makes this table.\n\n"
        "| network | pixels | before | now | ratio | groups before | groups now |\n|---|--:|--:|--:|--:|--:|--:|\n"
        + "\n".join(lines)
        + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()

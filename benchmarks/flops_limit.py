"""How many steps of a search under --max-flops meet it: this build beside an older one, which plans in parameters.

ResNet-8 on digits drawn at 32×32 pixels (that of benchmarks/latency.py), half of its FLOPs, the same budget of steps and
the same short training, paired by the study's seed. FLOPs are counted and accuracies are of 350 validation images.

    python -m benchmarks.flops_limit --out docs/results/flops-limit [--old CHECKOUT] [--seeds 3] [--steps 20] [--table]

It goes on where it stopped. `CHECKOUT`: a folder with the older sources; without it only this build runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.resumable import append, claim, made_with, revision, rows

HERE = Path(__file__).resolve().parent.parent
LIMIT = "50%"
COLUMNS = ("build", "seed", "ordinal", "scheme", "status", "accuracy", "removed", "flops", "meets")
RUN = """
import json, sys
import torch
torch.set_num_threads(1)
from automc import api
from automc.datasets import DataRef
from automc.study import Listener, Study
from automc.study.limits import asked
from automc.study.spec import Budget
from automc.training.recipe import Recipe
model, data, limit, seed, steps = sys.argv[1], DataRef(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
api.train("resnet8", data, out=model, epochs=12, precision="float32", device="cpu")
one = Study.create(
    model, data, budget=Budget(steps=steps), recipe=Recipe(unit_epochs=1), precision="float32", device="cpu", seed=seed,
    workers=1, learn_from_trials=False, final=False, recover="none", **asked(max_flops=limit),
)
for t in one.run(Listener()).trials:
    print(json.dumps({
        "ordinal": t.ordinal, "scheme": t.scheme.id, "status": t.status, "accuracy": t.accuracy, "removed": t.pr,
        "flops": None if t.fr is None else 1 - t.fr, "meets": one.protocol.feasible(t),
    }))
"""
"""What a build runs: a line of JSON a trial."""


def run(out: Path, build: str, place: Path, seed: int, steps: int) -> None:
    """Run the study of a seed with the sources in `place`, in a home of its own, and append its trials."""
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "PYTHONPATH": str(place), "AUTOMC_HOME": home, "OMP_NUM_THREADS": "1"}
        data = f"{place / 'benchmarks' / 'latency.py'}:images"
        arguments = [str(Path(home) / "digits32.am"), data, LIMIT, str(seed), str(steps)]
        done = subprocess.run(
            [sys.executable, "-c", RUN, *arguments], env=env, cwd=home, check=True, stdout=subprocess.PIPE, text=True
        )
    for line in done.stdout.splitlines():
        append(out, COLUMNS, {"build": build, "seed": seed, **json.loads(line)})


def page(out: Path) -> str:
    """The rows as a page."""
    found, table = rows(out), list[str]()
    for build in dict.fromkeys(r["build"] for r in found):
        seeds = sorted({r["seed"] for r in found if r["build"] == build})
        meeting, best, first = list[int](), list[float](), list[str]()
        for seed in seeds:
            mine = [r for r in found if (r["build"], r["seed"]) == (build, seed)]
            met = [r for r in mine if r["meets"] == "True"]
            meeting.append(len(met))
            best.append(100 * max((float(r["accuracy"]) for r in met), default=0.0))
            first.append(min((r["ordinal"] for r in met), key=int, default="none"))
        steps = max(int(r["ordinal"]) for r in found if r["build"] == build)
        accuracies = f"{statistics.fmean(best):.1f} ({', '.join(f'{b:.1f}' for b in best)})"
        table.append(
            f"| {build} | {len(seeds)} | {steps} | {', '.join(map(str, meeting))} | {', '.join(first)} | {accuracies} |"
        )
    return "\n".join([
        "# A limit on FLOPs", "",
        f"Written by `benchmarks/flops_limit.py` from `runs.csv`: a search of a ResNet-8 on digits at 32×32 pixels, `--max-flops {LIMIT}`, one core.",
        "Figures of one seed each, in the order of the seeds; accuracy on 350 validation images after short steps (a standard error is",
        f"2.4 points), nothing trained on. {made_with()}", "",
        "| build | n | steps | of which meet the limit | first that does | best accuracy within, % |", "|---|---|---|---|---|---|", *table, "",
    ])  # fmt: skip


def main() -> None:
    """Run what is left to run, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--old", type=Path, help="folder with the sources of an older build")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    out: Path = options.out
    builds = {"now": HERE}
    if options.old:
        builds = {revision(options.old): options.old.resolve(), **builds}
    for seed in range(0 if options.table else options.seeds):
        for build, place in builds.items():
            with claim(out, {"build": build, "seed": str(seed)}) as free:
                if free:
                    run(out, build, place, seed, options.steps)
    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").write_text(page(out), encoding="utf-8")


if __name__ == "__main__":
    main()

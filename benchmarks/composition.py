"""Do steps compose? Every ordered pair of methods, and random schemes of five steps, on ten networks.

Each step trains for one iteration per phase on 16 random images: this is about structure, not about accuracy. A row is
`ok`, `infeasible` (a method refused, with its reason), `diverged`, `broken` (a promise of the methods' contract was not
kept: size, slack, outputs, the saved file) or `crashed`. Rows are appended as they come; those that are there, of the
same versions of the methods, are not run again, so it may be stopped at any time:

    python benchmarks/composition.py --minutes 60
    python benchmarks/composition.py --table
"""

from __future__ import annotations

import argparse
import csv
import platform
import re
import sys
import time
import traceback
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "methods"))

from composing import IMAGES, MODELS, NAMES, Bench, Composed, pairs, random_schemes  # noqa: E402

from automc import methods  # noqa: E402
from kg.schema import Scheme  # noqa: E402

OUT = ROOT / "docs" / "results" / "composition.csv"
COLUMNS = (
    "model", "scheme", "status", "reached", "reason", "params_before", "params_after", "target", "slack", "seconds",
    "image", "seed", "methods", "device", "torch", "torch-pruning",
)  # fmt: skip


def plan(seed: int, random: int) -> list[Scheme]:
    """The schemes that every model gets."""
    return [*pairs(), *random_schemes(random, seed)]


def versions_of(scheme: Scheme) -> str:
    """The versions of a scheme's methods, such as "LFB 1, NS 2": another version is another result."""
    known = methods.registered()
    return ", ".join(f"{name} {known[name].version}" for name in sorted({step.method for step in scheme.steps}))


def result_of(bench: Bench, scheme: Scheme) -> Composed:
    """Run a scheme; a crash is a result too, with its traceback on stderr."""
    try:
        done = bench.run(scheme)
    except Exception as error:
        traceback.print_exc()
        return Composed("crashed", False, f"{type(error).__name__}: {error}", bench.params, bench.params)
    if done.broken:
        done.status, done.reason = "broken", "; ".join(done.broken)
    return done


def fill(out: Path, chosen: list[str], seed: int, random: int, minutes: float) -> None:
    """Run what is missing, model by model, until the time is over."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["model"], row["scheme"], row["methods"], row["seed"]) for row in rows(out)}
    until = time.monotonic() + 60 * minutes
    with out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        for name in chosen:
            missing = [s for s in plan(seed, random) if (name, s.id, versions_of(s), str(seed)) not in done]
            bench = Bench(name, seed) if missing and time.monotonic() < until else None
            for scheme in missing:
                if bench is None or time.monotonic() > until:
                    return
                result = result_of(bench, scheme)
                writer.writerow(
                    {
                        "model": name, "scheme": scheme.id, "status": result.status, "reached": result.reached,
                        "reason": result.reason, "params_before": result.params_before,
                        "params_after": result.params_after, "target": result.target, "slack": result.slack,
                        "seconds": round(result.seconds, 2), "image": MODELS[name][1], "seed": seed,
                        "methods": versions_of(scheme), "device": f"{platform.machine()} CPU",
                        "torch": torch.__version__, "torch-pruning": version("torch-pruning"),
                    }
                )  # fmt: skip
                file.flush()
                print(name, "-".join(s.method for s in scheme.steps), result.status, result.reason, flush=True)


def rows(out: Path) -> list[dict[str, str]]:
    """Rows so far."""
    return list(csv.DictReader(out.open(newline=""))) if out.is_file() else []


def page(found: list[dict[str, str]], seed: int, random: int) -> str:
    """The rows that count, those of today's methods, as a page."""
    wanted = {(scheme.id, versions_of(scheme), str(seed)): len(scheme.steps) for scheme in plan(seed, random)}
    kept = [row for row in found if (row["scheme"], row["methods"], row["seed"]) in wanted]
    lengths = {id(row): wanted[row["scheme"], row["methods"], row["seed"]] for row in kept}
    past = [row for row in found if row not in kept]
    ended = ", ".join(f"{n} {status}" for status, n in Counter(row["status"] for row in past).most_common())
    setup = Counter((row["device"], row["torch"], row["torch-pruning"]) for row in kept)
    lines = [
        "# Steps in any order",
        "",
        f"Written by `benchmarks/composition.py` from `composition.csv`: of the {len(NAMES) ** 2} ordered pairs of",
        f"{', '.join(NAMES)} (HP2 = 0.2, where a method has it) those that were run, and {random} random schemes of five",
        "steps from the paper's grid, on the networks below (ten are planned)",
        f"with random weights. One iteration per phase of a step on {IMAGES} random images: structure, not accuracy.",
        f"Seed {seed}; " + "; ".join(f"{d}, torch {t}, torch-pruning {p} (n = {n})" for (d, t, p), n in setup.items()),
        "",
        "After every step: the count of parameters is the reported one, at most the target and less than one unit below",
        "it, or `reached` is false with a reason; outputs are finite and of the right shape; after the last, the saved",
        "model gives bit-identical outputs. First steps are run once and used again, which the seconds show. A step that a",
        "method refuses ends a scheme as infeasible; the model of the steps before it is still good: quantised layers are",
        "neither factored nor quantised again. *Reached* counts schemes whose every step met its target.",
        f"Of earlier versions of the methods the file has {len(past)} rows more, on {len({r['model'] for r in past})} networks: {ended}.",
        "",
        "| model | image | parameters | schemes | ok | reached | infeasible | broken or crashed | smallest left | largest slack | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        for random_ones in (False, True):
            some = [r for r in kept if r["model"] == name and (lengths[id(r)] == 5) == random_ones]
            if some:
                lines.append(_row(name, f"{len(some)} {'random' if random_ones else 'pairs'}", some))
    lines += [
        "",
        "## Why not",
        "",
        "Every reason in the rows above, numbers and settings left out, with how often it occurs.",
        "",
    ]
    reasons = Counter((row["model"], row["status"], _shape(part)) for row in kept for part in _parts(row["reason"]))
    lines += ["| model | status | n | reason |", "|---|---|---|---|"]
    lines += [f"| {m} | {s} | {n} | {r.replace('|', chr(92) + '|')} |" for (m, s, r), n in sorted(reasons.items())]
    return "\n".join(lines) + "\n"


def _row(name: str, what: str, some: list[dict[str, str]]) -> str:
    status = Counter(r["status"] for r in some)
    fine = [r for r in some if r["status"] == "ok"]
    reached = [r for r in fine if r["reached"] == "True"]
    before = int(some[0]["params_before"])
    least = min((int(r["params_after"]) / before for r in fine), default=1.0)
    slack = max((int(r["slack"]) / before for r in reached), default=0.0)
    bad = status["broken"] + status["crashed"] + status["diverged"]
    return (
        f"| {name} | {some[0]['image']} px | {before:,} | {what} | {status['ok']} | {len(reached)} | "
        f"{status['infeasible']} | {bad} | {least:.1%} | {slack:.3%} | {sum(float(r['seconds']) for r in some):.0f} |"
    )


def _parts(reason: str) -> list[str]:
    """The reasons of single steps."""
    return [part for part in re.split(r"(?:^|; )step \d+, ", reason) if part]


def _shape(reason: str) -> str:
    """A reason without its numbers and settings, so that equal ones count as one."""
    return re.sub(r"\d[\d.,]*\d|\d", "…", re.sub(r"\[[A-Z0-9a-z_=.,]*\]", "", " ".join(reason.split())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--model", action="append", choices=list(MODELS), default=[])
    parser.add_argument("--schemes", type=int, default=10, help="random schemes of five steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only write the page beside the rows")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if not given.table:
        fill(given.out, given.model or list(MODELS), given.seed, given.schemes, given.minutes)
    given.out.with_suffix(".md").write_text(page(rows(given.out), given.seed, given.schemes), encoding="utf-8")


if __name__ == "__main__":
    main()

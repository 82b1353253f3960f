"""Which of timm's families SFP and LFB can make smaller by a fifth, how far they get, and why not the others.

As `benchmarks/classifiers.py`, each network in a process of its own with a limit of time. timm is no dependency of this
package: whoever runs this installs it (pip install timm). Rows are appended as they come, those that are there are not
run again, and several processes may share the work:

    python -m benchmarks.classifiers_timm
    python -m benchmarks.classifiers_timm --table
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from automc import methods
from automc.errors import Infeasible
from benchmarks.classifiers import HP2, steps
from benchmarks.composition import MODELS, ROOT, Bench, result_of, versions_of
from benchmarks.resumable import append, claim, rows

METHODS = ("SFP", "LFB")
LIMIT_SECONDS = 300
"""Processor time of one network: both methods, and how far they get. By the clock four times that: others may work."""
COLUMNS = (
    "model", "image", "method", "version", "status", "reached", "reason", "reach", "params_before", "params_after",
    "seconds", "device", "torch", "torch-pruning", "timm",
)  # fmt: skip


def one(name: str, side: int) -> None:
    """Print a network's rows as lines of JSON, each as soon as it is known."""
    from composing import context  # where benchmarks.composition finds it

    MODELS[name] = (f"{ROOT / 'benchmarks' / 'timm_nets.py'}:{name}", side)
    bench = Bench(name)
    for method in METHODS:
        scheme = steps()[method]
        result = result_of(bench, scheme)
        told = replace(context(bench.params, bench.data, 0, bench.model), max_iterations=1)
        began = time.perf_counter()
        try:
            reach = methods.get(method).reach(bench.model, scheme.steps[0], told)
        except Infeasible:
            reach = 0.0
        except Exception:
            reach = float("nan")
        row = {
            "status": result.status, "reached": result.reached, "reach": round(reach, 4), "method": method,
            "version": versions_of(scheme),
            "reason": result.reason.removeprefix(f"step 1, {method}: ").removeprefix(f"{scheme.steps[0].id}: "),
            "params_before": result.params_before, "params_after": result.params_after,
            "seconds": round(result.seconds + time.perf_counter() - began, 1),
        }  # fmt: skip
        print("ROW " + json.dumps(row), flush=True)


def rows_of(name: str, side: int) -> list[dict[str, Any]]:
    """Run a network in a process of its own; what is missing when the time is up is a row as well."""
    words = [sys.executable, "-m", "benchmarks.classifiers_timm", "--one", name]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=4 * LIMIT_SECONDS, check=False, cwd=ROOT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_SECONDS, LIMIT_SECONDS + 5)),
        )  # fmt: skip
        output, lost = done.stdout, ("crashed", next(iter(reversed(done.stderr.strip().splitlines())), ""))
        if done.returncode == -signal.SIGXCPU:
            lost = "timeout", f"not done after {LIMIT_SECONDS} s of processor time"
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        lost = "timeout", f"not done after {4 * LIMIT_SECONDS} s"
    found = [json.loads(line[4:]) for line in output.splitlines() if line.startswith("ROW ")]
    for method in METHODS[len(found) :]:
        found.append(
            {"method": method, "version": versions_of(steps()[method]), "status": lost[0], "reached": False,
             "reason": lost[1], "reach": "", "params_before": "", "params_after": "", "seconds": LIMIT_SECONDS}
        )  # fmt: skip
    about = {
        "model": name, "image": side, "device": f"{platform.machine()} CPU", "torch": torch.__version__,
        "torch-pruning": version("torch-pruning"), "timm": version("timm"),
    }  # fmt: skip
    return [{**about, **row} for row in found]


def fill(out: Path, sides: dict[str, int]) -> None:
    """Run what is missing."""
    today = "; ".join(versions_of(steps()[method]) for method in METHODS)
    done = {(row["model"], row["version"]) for row in rows(out)}
    for name, side in sides.items():
        if all((name, versions_of(steps()[method])) in done for method in METHODS):
            continue
        with claim(out, {"model": name, "version": versions_of(steps()[METHODS[-1]])}) as mine:
            for row in rows_of(name, side) if mine else ():
                append(out, COLUMNS, row)
                print(name, row["method"], row["status"], row["reach"], row["reason"], flush=True)
    print(f"All of {today}.", flush=True)


def page(out: Path) -> str:
    """The rows of today's methods as a page."""
    today = {versions_of(steps()[method]) for method in METHODS}
    kept = [row for row in rows(out) if row["version"] in today]
    found = {(row["model"], row["method"]): row for row in kept}
    models = list(dict.fromkeys(row["model"] for row in kept))
    good = sum(all(_good(found.get((m, method))) for method in METHODS) for m in models)
    setups = sorted({(r["device"], r["torch"], r["torch-pruning"], r["timm"]) for r in kept})
    lines = [
        "# timm's classifiers",
        "",
        f"Written by `benchmarks/classifiers_timm.py` from `runs.csv`: one step of {HP2:.0%} of the parameters by SFP and by",
        "LFB on networks without their weights, and how far one step of each gets, as `automc doctor` says it. *ok*, the",
        "checks and the images are those of [the classifiers of torchvision](../classifiers/README.md). *Refused*: the method",
        f"says why it does not work. Limit: {LIMIT_SECONDS} s of processor time a network. "
        + "; ".join(f"{d}, torch {t}, torch-pruning {p}, timm {v}" for d, t, p, v in setups) + ".",
        "",
        f"{good} of {len(models)} networks take both methods exactly; {_count(kept, 'infeasible')} of {len(kept)} rows are "
        f"refused, {_count(kept, 'timeout')} were not done in time, {_count(kept, 'crashed', 'broken', 'diverged')} went "
        "wrong. Networks of `benchmarks/timm_nets.py` (43) that are not listed were not run yet.",
        "",
        "| model | parameters | image | SFP | SFP removes at most | LFB | LFB removes at most | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    reasons: list[str] = []
    for model in models:
        cells = []
        for method in METHODS:
            row = found.get((model, method))
            cells += [
                _mark(row, reasons),
                f"{float(row['reach']):.0%}" if row and row["reach"] not in ("", "nan") else "",
            ]
        some = [found[model, method] for method in METHODS if (model, method) in found]
        size = some[0]["params_before"]
        lines.append(
            f"| {model} | {int(size):,} | {some[0]['image']} px | {' | '.join(cells)} | "
            f"{sum(float(row['seconds']) for row in some):.0f} |"
            if size
            else f"| {model} | | {some[0]['image']} px | {' | '.join(cells)} | |"
        )
    lines += ["", *(f"{n}. {reason}" for n, reason in enumerate(reasons, 1)), ""]
    return "\n".join(lines)


def _good(row: dict[str, str] | None) -> bool:
    return row is not None and row["status"] == "ok" and row["reached"] == "True"


def _count(kept: list[dict[str, str]], *statuses: str) -> int:
    return sum(row["status"] in statuses for row in kept)


def _mark(row: dict[str, str] | None, reasons: list[str]) -> str:
    if row is None:
        return ""
    if row["reason"] and row["reason"] not in reasons:
        reasons.append(row["reason"])
    word = {"infeasible": "refused"}.get(row["status"], row["status"])
    word = "not all" if row["status"] == "ok" and row["reached"] != "True" else word
    return word + (f" ({reasons.index(row['reason']) + 1})" if row["reason"] else "")


def main() -> None:
    """Fill the table, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "classifiers-timm")
    parser.add_argument("--table", action="store_true", help="only write the page from the rows so far")
    parser.add_argument("--one", help="print the rows of one network")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.table:
        from benchmarks.timm_nets import SIDES

        if given.one:
            one(given.one, SIDES[given.one])
            return
        fill(given.out, SIDES)
    (given.out / "README.md").write_text(page(given.out), encoding="utf-8")


if __name__ == "__main__":
    main()

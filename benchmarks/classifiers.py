"""Which of torchvision's classifiers each method can make smaller, and why not the others.

One step of a fifth of the parameters, on random weights, with the checks of `benchmarks/composition.py`: structure, not
accuracy. Rows are appended as they come, those that are there are not run again:

    python -m benchmarks.classifiers
    python -m benchmarks.classifiers --table
"""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.composition import MODELS, ROOT, Bench, pairs, result_of, versions_of
from benchmarks.resumable import append, rows
from kg.schema import Scheme

CLASSIFIERS = {
    "squeezenet1_1": 64, "alexnet": 96, "vgg11_bn": 32, "googlenet": 96, "inception_v3": 128,
    "resnet18": 64, "resnet50": 64, "resnext50_32x4d": 64, "wide_resnet50_2": 64, "densenet121": 64,
    "mobilenet_v2": 64, "mobilenet_v3_small": 64, "mnasnet0_5": 64, "shufflenet_v2_x0_5": 64,
    "efficientnet_b0": 64, "efficientnet_v2_s": 64, "regnet_y_400mf": 64, "convnext_tiny": 64,
    "vit_b_16": 224, "swin_t": 64, "maxvit_t": 224,
}  # fmt: skip
"""Name → side of its images in pixels, small ones for the sake of time."""
METHODS = ("LMA", "LeGR", "NS", "SFP", "HOS", "LFB", "TRP", "UQ")
"""The default grid's, one that factors while it trains, and one that quantises; no other cuts what none of these does."""
HP2 = 0.2
COLUMNS = (
    "model", "image", "method", "version", "status", "reached", "reason", "params_before", "params_after", "seconds",
    "device", "torch", "torch-pruning",
)  # fmt: skip


def steps() -> dict[str, Scheme]:
    """The step of each method."""
    first = {pair.steps[0].method: Scheme(pair.steps[:1]) for pair in pairs(HP2)}
    return {method: first[method] for method in METHODS}


def fill(out: Path) -> None:
    """Run what is missing."""
    done = {(row["model"], row["method"], row["version"]) for row in rows(out)}
    for name, size in CLASSIFIERS.items():
        missing = {m: s for m, s in steps().items() if (name, m, versions_of(s)) not in done}
        MODELS[name] = (f"torchvision:{name}", size)
        bench = Bench(name) if missing else None
        for method, scheme in missing.items():
            assert bench is not None
            result = result_of(bench, scheme)
            row = {
                "model": name, "image": size, "method": method, "version": versions_of(scheme), "status": result.status,
                "reached": result.reached, "reason": result.reason.removeprefix(f"step 1, {method}: ").removeprefix(f"{scheme.id}: "),
                "params_before": result.params_before, "params_after": result.params_after,
                "seconds": round(result.seconds, 1), "device": f"{platform.machine()} CPU", "torch": torch.__version__,
                "torch-pruning": version("torch-pruning"),
            }  # fmt: skip
            append(out, COLUMNS, row)
            print(name, method, result.status, result.reason, flush=True)


def page(out: Path) -> str:
    """The newest row of each network and method as a page, which says which rows are of older versions."""
    found = {(row["model"], row["method"]): row for row in rows(out) if row["method"] in METHODS}
    today = {method: versions_of(scheme) for method, scheme in steps().items()}
    older = sorted(
        {f"{r['version']} (now {today[r['method']].split()[-1]})" for r in found.values()}
        - {f"{version} (now {version.split()[-1]})" for version in today.values()}
    )
    setups = sorted({(r["device"], r["torch"], r["torch-pruning"]) for r in found.values()})
    lines = [
        "# torchvision's classifiers",
        "",
        f"Written by `benchmarks/classifiers.py` from `runs.csv`: one step of {HP2:.0%} of the parameters by each method (UQ: fewer bits), on",
        "random weights and small images; structure, not accuracy. *ok*: at most the target and less than one unit below it,",
        "finite outputs, and bit-identical ones after saving. A number tells why not. Seconds are of a shared machine.",
        "; ".join(f"{device}, torch {t}, torch-pruning {p}" for device, t, p in setups) + ".",
        *([f"**Rows of older versions of the methods are among them**: {', '.join(older)}; what those refuse may be taken today."] if older else []),
        "",
        f"| model | parameters | image | {' | '.join(METHODS)} | seconds |",
        "|---" * (len(METHODS) + 4) + "|",
    ]  # fmt: skip
    reasons: list[str] = []
    left: list[str] = []
    for name, size in CLASSIFIERS.items():
        some = [found[name, method] for method in METHODS if (name, method) in found]
        if len(some) < len(METHODS):
            left.append(name)
            continue
        cells = []
        for row in some:
            if row["reason"] and row["reason"] not in reasons:
                reasons.append(row["reason"])
            mark = row["status"] if row["reached"] == "True" or row["status"] != "ok" else "not all"
            cells.append(mark + (f" ({reasons.index(row['reason']) + 1})" if row["reason"] else ""))
        seconds = sum(float(row["seconds"]) for row in some)
        lines.append(
            f"| {name} | {int(some[0]['params_before']):,} | {size} px | {' | '.join(cells)} | {seconds:.0f} |"
        )
    lines += ["", *(f"{n}. {reason}" for n, reason in enumerate(reasons, 1)), ""]
    if left:
        lines += [f"Not run to the end yet: {', '.join(left)}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Fill the table, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "classifiers")
    parser.add_argument("--table", action="store_true", help="only write the page from the rows so far")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.table:
        fill(given.out)
    (given.out / "README.md").write_text(page(given.out), encoding="utf-8")


if __name__ == "__main__":
    main()

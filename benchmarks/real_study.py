"""A real study against random search: ResNet-20 on CIFAR-10, one after the other on an otherwise idle machine.

Both searches get the same model, data, budget and seeds, and share one prefix cache, in which a step that is
found is charged its recorded cost. Vectors come from published results only. Stopped, it goes on where it was.

    python benchmarks/real_study.py --images CIFAR_FOLDER --checkpoint resnet20.th --out docs/results/NAME
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from automc.search.pareto import hypervolume
from automc.training.precision import cpu_name

SEARCHERS = ("progressive", "random")
QUERY = "MATCH (s:Study {id: $id}) RETURN s.base_accuracy AS a, s.spec AS spec, s.elapsed_seconds AS seconds"


def run(*arguments: str) -> str:
    """Run an automc command, its progress on our stderr; return its stdout."""
    print("automc", *arguments, file=sys.stderr, flush=True)
    command = [str(Path(sys.executable).parent / "automc"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"automc {arguments[0]} ended with {done.returncode}")
    return done.stdout


def study_of(searcher: str) -> dict[str, Any] | None:
    """The study of a searcher in this home."""
    found = [s for s in json.loads(run("study", "list", "--format", "json")) if s["searcher"] == searcher]
    return found[-1] if found else None


def search(searcher: str, model: Path, options: argparse.Namespace) -> str:
    """Start or resume a searcher's study; return its id."""
    known = study_of(searcher)
    if known and known["status"] not in ("done", "unmet"):
        run("resume", known["id"])
    elif not known:
        run("search", str(model), "--data", str(options.images), "--fraction", "0.1", "--gamma", str(options.gamma),
            "--budget", options.budget, "--searcher", searcher, "--seed", str(options.seed),
            "--no-own-experience", "--final", options.final)  # fmt: skip
    found = study_of(searcher)
    assert found
    return str(found["id"])


def curve(trials: list[dict[str, str]], gamma: float, base: float, shares: list[float]) -> list[float]:
    """Normalised hypervolume beyond (0.5·A0, γ) after these shares of the charged seconds of all trials."""
    cost = np.cumsum([float(t["seconds"]) for t in trials])
    values = []
    for share in shares:
        seen = [t for t, c in zip(trials, cost, strict=True) if c <= share * cost[-1] + 1e-9 and t["status"] == "ok"]
        points = np.array([(float(t["accuracy"]), float(t["pr"])) for t in seen]).reshape(-1, 2)
        values.append(hypervolume(points, (0.5 * base, gamma)) / ((base - 0.5 * base) * (1 - gamma)))
    return values


def page(summary: dict[str, Any], fronts: dict[str, list[dict[str, Any]]], note: str) -> str:
    """The results as a page."""
    machine = summary["machine"]
    spec = summary[SEARCHERS[0]]["spec"]
    versions = ", ".join(f"{name} {version}" for name, version in spec["versions"].items())
    base = summary[SEARCHERS[0]]["base_accuracy"]
    lines = [
        "# ResNet-20 on CIFAR-10: progressive against random search",
        "",
        "One run of each (n = 1): reported, nothing is claimed from it. Written by `benchmarks/real_study.py`; trials in",
        f"`{SEARCHERS[0]}.csv` and `{SEARCHERS[1]}.csv`, everything else in `summary.json`.",
        "",
        f"- Model: public ResNet-20 checkpoint, tuned on these images for 5 epochs at lr 0.01; validation accuracy {base:.2%}.",
        "  The checkpoint has seen all training images, so validation accuracies are optimistic; test accuracies are not.",
        f"- Data: CIFAR-10 as JPEG (quality 75) image folder; steps train on a tenth; gamma {spec['gamma']}; E0 = "
        f"{spec['recipe']['unit_epochs']:g} epochs, {spec['recipe']['precision']}.",
        f"- Budget: {spec['budget']['seconds'] / 60:g} minutes with {spec['workers']} workers, seed {spec['seed']}, run seed "
        f"{spec['run_seed']}; one cache, a cached step is charged its recorded cost.",
        f"- Machine: {machine['cpu']}, {machine['cores']} cores; {versions}; commit {machine['git'][:12]}.",
        *([f"- {note}"] if note else []),
        "",
        "| | trials (ok, cached) | hypervolume after 25 / 50 / 100% of the cost | recommended: removed, validation, test |",
        "|---|---|---|---|",
    ]
    for name in SEARCHERS:
        found = summary[name]
        volume = " / ".join(f"{value:.3f}" for value in found["hypervolume"].values())
        best, final = found["recommended"], found["final"]
        chosen = f"{best['pr']:.1%}, {best['accuracy']:.2%}" if best else "nothing"
        tested = f", {final['base_test_accuracy']:.2%} -> {final['test_accuracy']:.2%}" if final else ""
        lines.append(f"| {name} | {found['trials']} ({found['ok']}, {found['cached']}) | {volume} | {chosen}{tested} |")
    lines += [
        "",
        "Hypervolume of (accuracy, PR) beyond (half of the base accuracy, gamma), as a share of the whole rectangle.",
        "",
    ]
    for name in SEARCHERS:
        lines += [
            f"## Front of the {name} search",
            "",
            "| removed | FLOPs removed | validation | scheme |",
            "|---|---|---|---|",
        ]
        lines += [f"| {t['pr']:.1%} | {t['fr']:.1%} | {t['accuracy']:.2%} | `{t['scheme']}` |" for t in fronts[name]]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Tune the checkpoint, search twice, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--home", type=Path, default=Path("real-study"))
    parser.add_argument("--budget", default="30m")
    parser.add_argument("--gamma", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", default="", help="what a reader must know of this run")
    parser.add_argument("--epochs", default="5")
    parser.add_argument("--final", default="full", help="none: keep the recommended trial's own model")
    options = parser.parse_args()
    options.home.mkdir(parents=True, exist_ok=True)
    os.environ["AUTOMC_HOME"] = str(options.home.absolute())
    model = options.home / "resnet20.am"
    if not model.exists():
        run("train", "resnet20", "--weights", str(options.checkpoint), "--data", str(options.images),
            "--epochs", options.epochs, "--lr", "0.01", "--out", str(model))  # fmt: skip
    run("kg", "init")
    options.out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {}
    fronts: dict[str, list[dict[str, Any]]] = {}
    for searcher in SEARCHERS:
        study = search(searcher, model, options)
        text = run("show", study, "--trials", "--format", "csv")
        (options.out / f"{searcher}.csv").write_text(text)
        shown = json.loads(run("show", study, "--format", "json"))
        found = json.loads(run("kg", "query", QUERY, "--param", f"id={study}", "--format", "json"))[0]  # fmt: skip
        fronts[searcher] = shown["front"]
        trials = list(csv.DictReader(text.splitlines()))
        shares = [0.25, 0.5, 1.0]
        summary[searcher] = {
            "study": study, "trials": len(trials), "ok": sum(t["status"] == "ok" for t in trials),
            "cached": sum(t["cached"] == "True" for t in trials), "seconds": found["seconds"],
            "base_accuracy": found["a"], "recommended": shown["recommended"], "final": shown["final"],
            "hypervolume": dict(zip(map(str, shares), curve(trials, options.gamma, found["a"], shares), strict=True)),
            "spec": json.loads(found["spec"].removeprefix("json:")),
        }  # fmt: skip
    summary["machine"] = {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform(), "git": git()}
    (options.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (options.out / "README.md").write_text(page(summary, fronts, options.note))
    print(json.dumps({name: summary[name]["hypervolume"] for name in SEARCHERS}))


def git() -> str:
    """The commit that was measured."""
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()

"""What reading a long history costs: each command in a process of its own, on homes whose study has n trials.

    python -m benchmarks.history --homes DIR [--trials 1000 10000] [--label after] [--out docs/results/history.csv]
    python -m benchmarks.history --table docs/results/history.csv > docs/results/history.md

The studies are made up: no model is run. Homes are kept, and filled once; `study delete` works on a copy. Processor
seconds are the figures to compare: a busy machine stretches the others.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from automc import knowledge
from kg import nodes, studies, trial_tables
from kg.cards import enumerate_strategies, on_grid
from kg.schema import Experience, Scheme, Strategy, Task
from kg.store import GraphStore

STUDY = "made-up-1"
TASK = Task(
    "made-up",
    "digits",
    "resnet8",
    classes=10,
    image_size=8,
    channels=1,
    images=1437,
    params=78042,
    flops=10**6,
    accuracy=0.9,
)
COLUMNS = ("label", "trials", "command", "code", "seconds", "cpu_seconds", "peak_mb", "machine")
TAKE_UP = "resume, up to its first ask"
ANEW = f"{TAKE_UP}, nothing kept"
"""No commands: what `automc resume` does of a study after it has opened the model, which these studies have not got;
with what the searcher has learned kept beside the study, and without."""
COMMANDS = {
    "show": ("show", STUDY),
    "show --why": ("show", STUDY, "--why", "1"),
    "report": ("report", STUDY, "--html", "{out}/page.html"),
    "study list": ("study", "list"),
    "kg status": ("kg", "status"),
    "kg query": ("kg", "query", "MATCH (t:Trial) RETURN count(t) AS n"),
    "experience export": ("experience", "export", STUDY, "--out", "{out}/own.yaml"),
    "kg export --format cypher": ("kg", "export", "--format", "cypher", "--out", "{out}/graph.cypher"),
    "study delete": ("study", "delete", STUDY, "--yes"),
    ANEW: (TAKE_UP, "True"),
    TAKE_UP: (TAKE_UP, "False"),
}


def trials(n: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield trials as the graph holds them: each scheme is START or an earlier one, and one more strategy of the grid."""
    rng = np.random.default_rng(seed)
    grid = [s for m in on_grid(knowledge.methods()) if m.default_grid for s in enumerate_strategies(m)]
    known, taken = [Scheme()], {Scheme()}
    for ordinal in range(1, n + 1):
        scheme = Scheme()
        while scheme in taken:
            parent = known[int(rng.integers(len(known)))]
            scheme = (parent if len(parent) < 4 else Scheme()).then(grid[int(rng.integers(len(grid)))])
        known.append(scheme)
        taken.add(scheme)
        removed, accuracy = min(0.9, 0.1 + 0.15 * len(scheme) + 0.05 * rng.random()), 0.6 + 0.3 * rng.random()
        yield {
            "ordinal": ordinal, "round": ordinal, "scheme": scheme, "status": "ok", "reason": "", "cached": False,
            "accuracy": accuracy, "params": round(78042 * (1 - removed)), "flops": round(10**6 * (1 - removed)),
            "ar": accuracy / 0.9 - 1, "pr": removed, "fr": removed, "sr": removed, "step_ar": 0.0, "step_pr": 0.1,
            "step_fr": 0.1, "step_sr": 0.1, "bits": round(32 * 78042 * (1 - removed)), "seconds": 1.0, "iterations": 10,
            "reached": True, "predicted_step_ar": 0.0, "predicted_step_pr": 0.1, "told": ordinal - 1, "grid": True,
            "rivals": [(grid[int(i)].id, 0.0, 0.1) for i in rng.integers(len(grid), size=3)],
        }  # fmt: skip


def lesson(trial: dict[str, Any]) -> Experience:
    """Return what a trial teaches, as a study writes it: its last strategy, off the grid by its input's size."""
    step = trial["scheme"].steps[-1]
    share = 0.85 ** (len(trial["scheme"]) - 1)
    strategy = Strategy(step.method, tuple((n, round(v / share, 3) if n == "HP2" else v) for n, v in step.settings))
    task = replace(TASK, id=f"made-up-{len(trial['scheme'])}", params=round(78042 * share), flops=round(10**6 * share))
    return Experience(
        f"trial:{trial['ordinal']:016d}", strategy, task, source=STUDY, origin="trial", ar=trial["step_ar"],
        pr=trial["step_pr"], fr=trial["step_fr"], sr=trial["step_sr"], confidence="measured", iterations=10,
        train_images=1437, details={"unit_epochs": "1"},
    )  # fmt: skip


def record() -> dict[str, Any]:
    """Return a study's node, but for its task."""
    from automc.datasets import DataRef
    from automc.study import Budget, StudySpec
    from automc.training.recipe import Recipe

    spec = StudySpec(STUDY, "resnet8", DataRef("digits"), 0.3, Budget(steps=10**6), Recipe(), final=False)
    return {
        "id": STUDY,
        "spec": spec.as_dict(),
        "model": "resnet8",
        "data": "digits",
        "status": "interrupted",
        "started": "2026-01-01T00:00:00+00:00",
        "updated": "2026-01-02T00:00:00+00:00",
        "target": "30% of the parameters",
        "budget": str(spec.budget),
        **{name: getattr(spec, name) for name in ("searcher", "gamma", "gamma_of", "max_length", "seed", "run_seed")},
        "base_accuracy": 0.9,
        "base_params": 78042,
        "base_flops": 10**6,
        "validation_images": 360,
        "saw_validation": False,
        "elapsed_seconds": 1.0,
    }


def fill(store: GraphStore, n: int) -> None:
    """Write a study of n trials in pages."""
    studies.save_study(store, record(), task=TASK)
    made = list(trials(n))
    write(store, STUDY, TASK.id, made, [lesson(trial) for trial in made])


def write(
    store: GraphStore, study: str, task: str, made: Sequence[dict[str, Any]], lessons: Sequence[Experience]
) -> None:
    """Write trials in pages, the rows that `kg.studies` writes trial by trial, and what they teach."""
    store.upsert_nodes("Scheme", [{"id": Scheme().id, "length": 0}])
    for start in range(0, len(made), 500):
        page = made[start : start + 500]
        with store.transaction():
            schemes = [trial["scheme"] for trial in page]
            store.upsert_nodes("Scheme", [{"id": s.id, "length": len(s)} for s in schemes])
            store.upsert_rels("EXTENDS", "Scheme", "Scheme", [{"from": s.id, "to": s.parent.id} for s in schemes])
            steps = [(s.id, step.id, position) for s in schemes for position, step in enumerate(s.steps, 1)]
            rows = [{"from": a, "to": b, "key": {"position": position}} for a, b, position in steps]
            store.upsert_rels("STEP", "Scheme", "Strategy", rows)
            plain = [{**t, "id": f"{study}/{t['ordinal']}"} for t in page]
            store.upsert_nodes("Trial", [nodes.encode({k: v for k, v in t.items() if k != "scheme"}) for t in plain])
            for type, label, to in (
                ("OF_SCHEME", "Scheme", None),
                ("IN_STUDY", "Study", study),
                ("ON_TASK", "Task", task),
            ):
                store.upsert_rels(type, "Trial", label, [{"from": t["id"], "to": to or t["scheme"].id} for t in plain])
            studies.save_trial_experience(store, study, lessons[start : start + 500])
            trial_tables.update(store, study, [trial["ordinal"] for trial in page])
        print(f"{start + len(page)}/{len(made)}", file=sys.stderr)


def home_of(folder: Path, n: int) -> Path:
    """Return the home with a study of n trials, made where it is not there."""
    home = folder / f"trials-{n}"
    if not (home / "full").exists():
        shutil.rmtree(home, ignore_errors=True)
        os.environ["AUTOMC_HOME"] = str(home)
        knowledge.prepare()
        knowledge.vectors()
        with knowledge.graph() as store:
            fill(store, n)
        (home / "full").touch()
    return home


def take_up(anew: bool) -> None:
    """Read all trials, tell them to the searcher again as a resumed study does, and ask for the next step."""
    from automc.home import home
    from automc.search import get
    from automc.search.base import Limits
    from automc.study.schedule import Schedule
    from automc.study.space import StrategySpace
    from automc.study.spec import StudySpec
    from automc.study.stored import load_record, load_trials
    from kg.embedding.vectors import Vectors

    found = load_trials(STUDY)
    shipped = min((home() / "vectors").glob("*.safetensors"), key=os.path.getmtime)  # as a study keeps its own
    spec = StudySpec.from_dict(load_record(STUDY)["spec"])
    space = StrategySpace(Vectors.load(shipped), TASK, {}, spec.recipe, 1437)
    searcher, kept = get(spec.searcher)(space.space, Limits(0.3, 0.9), spec.seed), home() / "learned.pt"
    if not anew:
        searcher.recall(kept.read_bytes())
    Schedule(searcher, space, {t.scheme: t for t in found}, spec.window, None).advance(True)
    if learned := searcher.learned():
        kept.write_bytes(learned)


def measured(words: list[str], home: Path) -> tuple[int, float, float, float]:
    """Run a command, or `take_up`; return its exit code, its seconds, those of the processor, and its peak MB."""
    code = "from automc.cli.main import main; main()"
    if words[:1] == [TAKE_UP]:
        code = f"from benchmarks.history import take_up; take_up({words[1]})"
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], env={**os.environ, "AUTOMC_HOME": str(home), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def run(folder: Path, counts: list[int], label: str, out: Path, only: list[str]) -> None:
    """Measure every command on every home, a row each."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    new = not out.exists()
    with out.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        for n in counts:
            home = home_of(folder, n)
            for name, words in COMMANDS.items():
                if only and name not in only:
                    continue
                with tempfile.TemporaryDirectory() as place:
                    own = home
                    if name == "study delete":
                        own = Path(place) / "home"
                        shutil.copytree(home, own)
                    code, *figures = measured([word.format(out=place) for word in words], own)
                row = (label, n, name, code, *(f"{figure:.1f}" for figure in figures), machine)
                writer.writerow(row)
                file.flush()
                print(*row[:-1], file=sys.stderr)


def table(path: Path) -> str:
    """Return the page of a CSV: processor seconds and peak memory by command and number of trials."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    found = {(r["command"], int(r["trials"]), r["label"]): r for r in rows}
    labels = list(dict.fromkeys(r["label"] for r in rows))
    clock = ", ".join(
        f"{r['seconds']} s (`{r['command']}`)"
        for r in rows
        if (r["label"], r["trials"]) == ("columns", "100000") and r["command"] not in (ANEW, TAKE_UP)
    )
    lines = [
        "# What reading a long history costs", "",
        "Processor seconds and peak memory of one command in a process of its own, embedded store, made-up studies of n",
        f"trials (`python -m benchmarks.history`; no model is run; {rows[0]['machine']}). One run each; wall-clock times,",
        "which a busy machine stretches, are in the CSV beside. With 1,000 and 10,000 trials the build before loaded torch",
        "for these commands; with 28,000 it no longer did, but read every trial whole. Columns: figures of trials are kept as",
        f"columns too (`kg/trial_tables.py`), measured on an idle machine; by the clock these take {clock}.",
        "Resuming tells the searcher all trials again; what F_mo's network has learned of them is kept with the study. 10^6 schemes and a server were not measured.", "",
        "| command | trials | " + " | ".join(labels) + " |", "|---|---|" + "---|" * len(labels),
    ]  # fmt: skip
    for command, n in sorted({key[:2] for key in found}, key=lambda key: (list(COMMANDS).index(key[0]), key[1])):
        cells = [_cell(found.get((command, n, label))) for label in labels]
        lines.append(f"| `{command}` | {n:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, str] | None) -> str:
    if row is None:
        return "not measured"
    failed = "" if row["code"] == "0" else f", exit code {row['code']}"
    return f"{row['cpu_seconds']} s, {float(row['peak_mb']):.0f} MB{failed}"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--homes", type=Path)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--label", default="after")
    parser.add_argument("--only", nargs="*", default=[], help="names of commands")
    parser.add_argument("--out", type=Path, default=Path("docs/results/history.csv"))
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    if given.table:
        print(table(given.table))
    elif given.homes:
        run(given.homes, given.trials, given.label, given.out, given.only)
    else:
        parser.error("--homes or --table")


if __name__ == "__main__":
    main()

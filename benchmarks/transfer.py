"""Do schemes that were found on one network pay on another? Against each single method at the same size and length.

A study's schemes are replayed on other trained networks of the same data; beside each stands every method alone with
the same share of parameters to remove and as many training iterations. The plan and its time come first. Every run is
one row, appended and flushed; rows that are there are not run again, so it may be stopped and started, and several
may share the work:

    python -m benchmarks.transfer --study resnet20-images-1 --model resnet56.am --data CIFAR_FOLDER --out docs/results/transfer
    python -m benchmarks.transfer --study resnet56-images-1 --model resnet20.am --model resnet164.am --data CIFAR_FOLDER \
        --device cuda:0 --fraction 1 --hours 24 --out docs/results/transfer-56

The study lies in the AutoMC home (AUTOMC_HOME); methods beside a scheme that has been run can do without it. The models
are .am files tuned on these images, for instance by `automc train resnet56 --weights … --epochs 5 --lr 0.01`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from automc import api, methods
from automc.errors import MethodError
from automc.study.machine import versions
from automc.study.stored import load_trials
from automc.study.task import open_subject
from automc.study.trial import Trial
from automc.training.recipe import Recipe
from benchmarks.resumable import append, claim, rows
from benchmarks.single_methods import SCHEMES
from benchmarks.tab.compare import machine
from kg.schema import Scheme, Strategy

COLUMNS = (
    "study", "trial", "model", "name", "seed", "scheme", "wanted", "pr", "fr", "validation_before", "validation_after",
    "test_before", "test_after", "forecast_study", "forecast_nn_exp", "reached", "reason", "step_seconds", "seconds",
    "device",
)  # fmt: skip
KEY = COLUMNS[:5]
SCHEME = "scheme"
"""The name of a row with a study's scheme; other rows have a method's."""
SHORTEST = 0.1
"""Of a single method's fine-tuning, in units of E0."""


@dataclass(frozen=True)
class Run:
    """One row to be filled."""

    study: str
    trial: Trial
    model: Path
    name: str
    scheme: Scheme
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        """What identifies its row: the values of `KEY`."""
        return self.study, str(self.trial.ordinal), self.model.stem, self.name, str(self.seed)

    @property
    def given(self) -> str:
        """What `automc compress --scheme` is given."""
        return f"{self.study}:{self.trial.ordinal}" if self.name == SCHEME else self.scheme.id


def schemes_of(study: str, out: Path) -> list[Trial]:
    """Return a study's trials; where this home has none, those whose schemes have a row already."""
    return load_trials(study) or [
        Trial(int(row["trial"]), 0, Scheme.parse(row["scheme"]), "ok", pr=float(row["wanted"]))
        for row in rows(out)
        if (row["study"], row["name"]) == (study, SCHEME)
    ]


def chosen(trials: Sequence[Trial], wanted: Sequence[float]) -> list[Trial]:
    """Return for each share of parameters to remove the most accurate ok trial with it, no more than 0.1 above.

    Raises:
        SystemExit: the study has none.
    """
    found = []
    for share in wanted:
        fit = [t for t in trials if t.status == "ok" and t.pr is not None and -1e-4 <= t.pr - share <= 0.1]
        if not fit:
            raise SystemExit(
                f"The study has no scheme that removes {share:.0%} to {share + 0.1:.0%} of the parameters."
            )
        found.append(max(fit, key=lambda t: (t.accuracy or 0.0, -t.ordinal)))
    return list({t.ordinal: t for t in found}.values())


def single(method: str, trial: Trial) -> Strategy:
    """Return a method alone that removes what the trial's scheme removed and trains as long as its steps together."""
    known = methods.registered()
    total = sum(known[step.method].relative_cost(step) for step in trial.scheme.steps)
    strategy = Strategy.parse(SCHEMES[method].format(wanted=round(trial.pr or 0.0, 4)))
    length = "HP9" if strategy.get("HP9") is not None else "HP1"
    rest = known[method].relative_cost(strategy) - strategy.number(length)
    longer = round(max(SHORTEST, total - rest), 4)
    return replace(strategy, settings=tuple((n, longer if n == length else v) for n, v in strategy.settings))


def plan(options: argparse.Namespace) -> list[Run]:
    """Return all runs, seed by seed, so that a stopped table is evenly filled."""
    trials = chosen(schemes_of(options.study, options.out), options.removed)
    runs = []
    for seed in range(options.seeds):
        for model in options.model:
            for trial in trials:
                runs.append(Run(options.study, trial, model, SCHEME, trial.scheme, seed))
                runs += [
                    Run(options.study, trial, model, name, Scheme((single(name, trial),)), seed)
                    for name in options.methods
                ]
    return runs


def forecasts(runs: Sequence[Run], options: argparse.Namespace) -> dict[tuple[str, ...], float]:
    """Return the seconds that runs will take, from a probe of each method on each network.

    A method that cannot work on a network costs nothing there; its run will say why.
    """
    found: dict[tuple[str, ...], float] = {}
    for model in dict.fromkeys(run.model for run in runs):
        report = api.doctor(
            str(model), options.data, recipe=options.recipe, precision=options.precision, device=options.device
        )
        pace = {one.method: one.seconds_per_iteration or 0.0 for one in report.methods}
        subject = open_subject(str(model), api.data_ref(options.data), fraction=options.recipe.fraction)
        train = subject.splits.train if options.recipe.fraction < 1 else subject.splits.rest
        for run in (run for run in runs if run.model == model):
            found[run.key] = sum(
                pace.get(s.method, 0.0) * methods.get(s.method).iterations(s, options.recipe, train.n)
                for s in run.scheme.steps
            )
    return found


def execute(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Run a scheme on a network; return its row, with the reason where it did not end well.

    Its `seconds` are of all, opening and testing included; `step_seconds` of the steps alone.
    """
    began = time.perf_counter()
    row: dict[str, Any] = dict(zip(KEY, run.key, strict=True))
    row |= {"scheme": run.scheme.id, "wanted": run.trial.pr, "device": options.device}
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = api.compress(
                str(run.model), options.data, run.given, out=Path(folder) / "out.am", recipe=options.recipe,
                precision=options.precision, device=options.device, run_seed=run.seed,
            )  # fmt: skip
        except MethodError as error:
            return {**row, "reason": str(error), "step_seconds": 0.0, "seconds": time.perf_counter() - began}
    before, after = done.before, done.after
    return {
        **row, "pr": 1 - after.params / before.params, "fr": 1 - after.flops / before.flops,
        "validation_before": before.accuracy, "validation_after": after.accuracy, "test_before": done.test_before,
        "test_after": done.test_after, "forecast_study": done.forecast.accuracy_study,
        # Of rows made before there was a law by size: NN_exp's.
        "forecast_nn_exp": done.forecast.accuracy_experience, "reached": done.reached, "reason": done.reason,
        "step_seconds": done.seconds, "seconds": time.perf_counter() - began,
    }  # fmt: skip


def fill(options: argparse.Namespace) -> None:
    """Say what is missing and how long it takes; run it as long as the budget lasts."""
    done = {tuple(row[name] for name in KEY) for row in rows(options.out)}
    every = plan(options)
    missing = [run for run in every if run.key not in done]
    expected = forecasts(missing, options) if missing else {}
    spent, beside = so_far(options.out)
    print(
        f"{len(missing)} of {len(every)} runs are missing, about {sum(expected.values()) / 3600:.2f} h of steps, and opening "
        f"and testing the networks; {spent / 3600:.2f} of {options.hours:g} h are spent."
    )
    for run in missing:
        print(f"{expected[run.key]:8.0f} s  {' '.join(run.key)}  {run.scheme.id}", flush=True)
    for run in [] if options.plan else missing:
        spent, beside = so_far(options.out)
        if spent + expected[run.key] + beside > 3600 * options.hours:
            print("left for a larger --hours:", *run.key, flush=True)
            continue
        with claim(options.out, dict(zip(KEY, run.key, strict=True))) as free:
            if free:
                print(*run.key, flush=True)
                append(options.out, COLUMNS, execute(run, options))


def so_far(out: Path) -> tuple[float, float]:
    """Return the seconds that were spent, and those that a run takes on average besides its steps."""
    done = [(float(row["seconds"]), float(row["step_seconds"])) for row in rows(out)]
    return sum(all_ for all_, _ in done), mean(all_ - steps for all_, steps in done) if done else 0.0


def page(out: Path) -> str:
    """The rows as a page, and what `note.md` beside them says."""
    found = rows(out)
    about = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Schemes on other networks than they were found on",
        "",
        "Written by `benchmarks/transfer.py` from `runs.csv`. Each scheme of a study beside every method alone, at the same share",
        "of parameters removed and with as many training iterations (HP1, or HP9 of SFP, is what fills them). Means over n",
        f"seeds. Devices: {', '.join(sorted({r['device'] for r in found}))}; {machine()['device']}; {about}.",
    ]
    for model, trial, study in dict.fromkeys((r["model"], r["trial"], r["study"]) for r in found):
        group = [r for r in found if (r["model"], r["trial"], r["study"]) == (model, trial, study)]
        scheme = next((r["scheme"] for r in group if r["name"] == SCHEME), "not run yet")
        lines += [
            "",
            f"## {model}: trial {trial} of {study}, {float(group[0]['wanted']):.1%} removed there",
            "",
            f"Scheme: `{scheme}`",
            "",
            "| | n | removed | FLOPs removed | test | validation | forecast: study, NN_exp | seconds of steps |",
            "|---|---|---|---|---|---|---|---|",
        ]
        names = dict.fromkeys(r["name"] for r in group)
        lines += [line_of(name, [r for r in group if r["name"] == name]) for name in names]
    note = out / "note.md"
    return "\n".join(lines) + "\n" + ("\n" + note.read_text() if note.exists() else "")


def line_of(name: str, group: Sequence[dict[str, str]]) -> str:
    """One line of the page's tables."""
    good = [r for r in group if r["validation_after"]]
    if not good:
        return f"| {name} | 0 | {group[0]['reason']} | | | | | |"

    def share(column: str) -> str:
        values = [float(r[column]) for r in good if r[column]]
        return f"{mean(values):.2%}" if values else "–"

    told = f"{share('forecast_study')}, {share('forecast_nn_exp')}"
    return (
        f"| {name} | {len(good)} | {share('pr')} | {share('fr')} | {share('test_before')} → {share('test_after')} | "
        f"{share('validation_after')} | {told} | {mean(float(r['step_seconds']) for r in good):.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the table, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True)
    parser.add_argument("--model", type=Path, action="append", required=True, help="a trained .am file; repeatable")
    parser.add_argument("--data", required=True, help="the data set's name, or an image folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--removed", type=float, nargs="+", default=[0.4, 0.7], help="shares to take schemes for")
    parser.add_argument("--methods", nargs="+", default=[m for m in SCHEMES if m in methods.registered()])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--unit-epochs", type=float, default=10.0)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hours", type=float, default=2.0, help="over all starts; on a CPU of one core")
    parser.add_argument("--plan", action="store_true", help="only say what is missing and how long it takes")
    options = parser.parse_args(arguments)
    options.recipe = Recipe(fraction=options.fraction, unit_epochs=options.unit_epochs)
    torch.set_num_threads(1)
    fill(options)
    if rows(options.out):
        (options.out / "README.md").write_text(page(options.out))


if __name__ == "__main__":
    main()

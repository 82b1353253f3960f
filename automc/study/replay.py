"""A scheme of a study, or of a file, on another model: what is expected before, what was measured after, in the graph.

Two forecasts, never mixed: the study's says that accuracy and parameters change by the same shares as in the study;
that of experience multiplies what the law by size (`kg.embedding.law`) says step by step, each on the size and the
accuracy that the steps before should leave.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from automc import knowledge, methods
from automc.errors import MethodError, NotThere, StudyError
from automc.execution.outcome import StepOutcome
from automc.knowledge.store import graph_exists
from automc.methods.base import FLOOR
from automc.study.outbox import now
from automc.study.spec import StudySpec
from automc.study.stored import load_record, load_trials
from automc.study.task import Subject
from automc.study.trial import Figures, Trial, size_ratio
from automc.training.recipe import Recipe
from kg import studies
from kg.embedding.law import MOST, Law
from kg.embedding.vectors import Vectors
from kg.errors import AddressInvalid, GraphUnavailable, NotInGraph
from kg.resources import migrations_dir
from kg.schema import LEVELS, Scheme, Strategy
from kg.store.lock import patient
from kg.store.migrate import migrate


@dataclass(frozen=True)
class Origin:
    """A trial of a study, from which a scheme is taken, with the trials of the scheme's beginnings."""

    study: str
    trial: Trial
    beginnings: tuple[Trial | None, ...]
    """One per step, the trial itself last; None where the graph has none."""
    model: str
    data: str
    recipe: Recipe

    @property
    def id(self) -> str:
        """The trial's id in the graph."""
        return f"{self.study}/{self.trial.ordinal}"


@dataclass(frozen=True, slots=True)
class StepForecast:
    """What is expected of one step, relative to its input model. Rates are None where nobody can tell."""

    strategy: str
    hp2: float
    """Planned removal as a share of the model before the first step."""
    study_ar: float | None
    study_pr: float | None
    experience_ar: float | None


@dataclass(frozen=True, slots=True)
class SchemeForecast:
    """What is expected of a scheme on a model. Accuracies are top-1 on validation, in [0, 1]."""

    steps: tuple[StepForecast, ...]
    removed: float
    """Parameters removed, as a share: the study's PR, without a study the plan ΣHP2 down to the floor."""
    accuracy_study: float | None
    accuracy_experience: float | None
    basis: str = ""
    """How much the guesses of experience rest on; empty where it makes none."""
    differences: tuple[str, ...] = ()
    """Where the recipe differs from that under which the study measured."""


def check(scheme: Scheme) -> None:
    """Refuse a scheme that cannot be run, before anything is opened.

    Raises:
        MethodError: a step's method has no code here, lacks a setting, has one too many, or a value out of range.
        SchemaInvalid: a value is of another kind than its hyperparameter's.
    """
    cards = {card.id: card for card in knowledge.methods()}
    for number, step in enumerate(scheme.steps, 1):
        method = methods.get(step.method)
        knobs = [knob.id for knob in cards[step.method].hyperparameters] if step.method in cards else []
        given = [name for name, _ in step.settings]
        missing = [name for name in knobs if name not in given]
        strange = [name for name in given if name not in knobs]
        if knobs and (missing or strange):
            wrong = f"{', '.join(missing)} is missing" if missing else f"there is no {strange[0][:80]}"
            raise MethodError(
                f"Step {number}, {step.id[:200]}: {wrong}. {step.method} has {', '.join(knobs)}; "
                f"see automc method show {step.method}."
            )
        method.check(step)


def find(text: str) -> Origin | None:
    """Return the trial that STUDY:ORDINAL names; None where the text is a file's path or a scheme itself.

    Raises:
        StudyError: there is no such study or trial, the trial failed, or a file has the same name.
        NotInGraph: there is no graph.
    """
    name, colon, ordinal = text.rpartition(":")
    if not colon or "[" in text or "/" in text or "\n" in text:
        return None
    if Path(text).exists():
        if not (graph_exists() and name in knowledge.study_names()):
            return None
        raise StudyError(f"'{text}' is both a file and a trial of the study {name}. Write ./{text} for the file.")
    record = load_record(name)
    if not ordinal.isdecimal():
        raise StudyError(
            f"'{ordinal}' is no ordinal of a trial. Write --scheme {name}:3, with a number of automc show."
        )
    trials = {trial.ordinal: trial for trial in load_trials(name)}
    return _origin(name, record, trials, int(ordinal))


def _origin(study: str, record: dict[str, Any], trials: dict[int, Trial], ordinal: int) -> Origin:
    trial = trials.get(ordinal)
    if trial is None:
        known = f"Its trials are {min(trials)} to {max(trials)}" if trials else "It has none yet"
        raise NotThere(f"The study {study} has no trial {ordinal}. {known}: automc show {study} --trials.")
    if trial.status != "ok":
        why = f": {trial.reason.splitlines()[0]}" if trial.reason else "."
        good = ", ".join(str(t.ordinal) for t in trials.values() if t.status == "ok")
        raise StudyError(
            f"Trial {ordinal} of {study} ended as {trial.status}{why} Those that are ok: {good or 'none'}."
        )
    by_scheme = {t.scheme: t for t in trials.values()}
    prefixes = [trial.scheme.begin(length) for length in range(1, len(trial.scheme))]
    beginnings = tuple(by_scheme.get(scheme) for scheme in (*prefixes, trial.scheme))
    recipe = StudySpec.from_dict(record["spec"]).recipe
    return Origin(study, trial, beginnings, str(record["model"]), str(record["data"]), recipe)


def forecast(subject: Subject, scheme: Scheme, recipe: Recipe, origin: Origin | None) -> SchemeForecast:
    """Say what a scheme will do to a model, before anything is executed.

    Experience is what this home has learned last; without any, or where its law is not used, it says nothing.

    Args:
        recipe: how it will be executed.
        origin: what the study measured; None for a scheme of a file.

    Raises:
        VectorsInvalid: the file of vectors is damaged.
    """
    vectors = knowledge.newest()
    law = vectors.guess if vectors is not None else None
    left, accuracy = float(subject.params), subject.accuracy
    steps = []
    for n, strategy in enumerate(scheme.steps):
        guess = _guess(law, strategy, recipe, subject, left, accuracy)
        there = origin.beginnings[n] if origin else None
        measured = (there.step_ar, there.step_pr) if there else (None, None)
        steps.append(StepForecast(strategy.id, strategy.removal, *measured, guess))
        accuracy = min(1.0, accuracy * (1 + (guess or 0.0)))
        left = max(left - strategy.removal * subject.params, FLOOR * subject.params)
    known = origin.trial if origin else None
    return SchemeForecast(
        steps=tuple(steps),
        removed=known.pr if known and known.pr is not None else 1 - left / subject.params,
        accuracy_study=min(1.0, subject.accuracy * (1 + known.ar)) if known and known.ar is not None else None,
        accuracy_experience=accuracy if all(step.experience_ar is not None for step in steps) else None,
        basis=_basis(vectors, scheme) if any(step.experience_ar is not None for step in steps) else "",
        differences=(*_shorter(origin.trial), *_differences(origin.recipe, recipe)) if origin else (),
    )


def _basis(vectors: Vectors | None, scheme: Scheme) -> str:
    """Say how many results of each method are known, and what the guess goes by."""
    counts = vectors.coverage if vectors else {}
    seen = {step.method: counts.get(step.method, {}).get("with_ar", 0) for step in scheme.steps}
    told = ", ".join(f"{n} of {method}" for method, n in seen.items())
    return f"Experience has {told} with an accuracy; it goes by size, length and accuracy, by no other setting."


def _shorter(trial: Trial) -> tuple[str, ...]:
    level = trial.scheme.level
    return (f"trained {level}/{LEVELS} of its length there, in pieces; all of it here",) if level else ()


def _differences(there: Recipe, here: Recipe) -> tuple[str, ...]:
    old, new = there.as_dict(), here.as_dict()
    named = dict.fromkeys([*old, *new])
    pairs = ((name, old.get(name, "the usual"), new.get(name, "the usual")) for name in named)
    return tuple(f"{name} {there} there, {here} here" for name, there, here in pairs if there != here)


def _guess(
    law: Law | None, strategy: Strategy, recipe: Recipe, subject: Subject, left: float, accuracy: float
) -> float | None:
    """Return the AR of a step on a model of `left` parameters; None where nothing is known."""
    if law is None or strategy.get("HP2") is None:
        return None
    iterations = methods.get(strategy.method).iterations(strategy, recipe, subject.splits.train.n)
    share = min(strategy.number("HP2") * subject.params / left, MOST)
    return max(-1.0, -law.slope(strategy.method, iterations, accuracy) * share / (1 - share))


def write(
    subject: Subject, scheme: Scheme, origin: Origin | None, expected: SchemeForecast, outcome: StepOutcome,
    after: Figures, recipe: Recipe, run_seed: int, recovery: dict[str, Any] | None = None,
) -> str:  # fmt: skip
    """Write forecast and measurement to the graph, where there is one; return why that failed, empty if it did not.

    The model is saved by then, so a graph that is away is a remark and no error. The same run twice is one node.
    `recovery` is what training on has brought, after which the model was measured.
    """
    if not graph_exists():
        return ""
    task = subject.task()
    same = f"{scheme.id}|{task.id}|{recipe.as_dict()}|{run_seed}|{origin.id if origin else ''}"
    same += f"|{recovery['iterations']}" if recovery else ""
    replay = {
        "id": f"replay:{sha256(same.encode()).hexdigest()[:16]}", "scheme": scheme, "ended": now(),
        "run_seed": run_seed, "recipe": recipe.as_dict(), "study": origin.study if origin else None,
        "forecast_pr": expected.removed, "forecast_accuracy_study": expected.accuracy_study,
        "forecast_accuracy_experience": expected.accuracy_experience,
        "forecast_steps": [asdict(s) for s in expected.steps],
        "accuracy": after.accuracy, "params": after.params, "flops": after.flops,
        "ar": after.accuracy / subject.accuracy - 1 if subject.accuracy > 0 else None,
        "pr": 1 - after.params / subject.params, "fr": 1 - after.flops / subject.flops,
        "bits": after.stored, "sr": size_ratio(after.stored, subject.params),
        "steps": [_measured(step) for step in outcome.details["steps"]],
        "seconds": outcome.seconds, "reached": outcome.reached, "reason": outcome.reason,
        "recovery": recovery,
    }  # fmt: skip
    try:
        # The run may have taken hours: a busy graph is worth a minute.
        with patient(60.0), knowledge.graph() as store:
            migrate(store, migrations_dir())
            trial = origin.id if origin else None
            store.atomically(lambda: studies.save_replay(store, replay, task=task, trial=trial))
    except (AddressInvalid, GraphUnavailable, NotInGraph) as error:
        return str(error)
    return ""


def _measured(step: dict[str, Any]) -> dict[str, Any]:
    return {name: step[name] for name in ("strategy", "accuracy", "params", "flops", "seconds")}

"""A study's outcomes on their way into the graph; while the graph is away or busy they wait in a file.

Every write may be run twice, so an outcome of which nobody knows whether it has arrived is written again. An outcome
is in the graph or in the file, on the disk, before the searcher hears of it.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from automc import knowledge
from automc.errors import EnvironmentFault
from automc.study.place import folder
from automc.study.spec import StudySpec
from automc.study.task import Subject
from automc.study.trial import Figures, Trial
from kg import studies
from kg.errors import GraphUnavailable
from kg.schema import LEVELS, Experience, Strategy
from kg.store import lock

T = TypeVar("T")
Entry = dict[str, Any]
"""One outcome as plain values: see `entry`. With STUDY as its only key, properties of the study's node."""
STUDY = "study"
Say = Callable[[str], None]

Write = Callable[[Sequence[Entry]], None]

PAGE = 100
"""Outcomes that are written together at most."""
LIMIT = 1000
"""Outcomes that may wait; then the study pauses."""
PATIENCE_SECONDS = 600.0
"""How long a graph that is away is waited for where nothing else can be done."""
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0


class Outbox:
    """Takes outcomes to the graph in the order in which they came, each until it has arrived."""

    def __init__(self, path: Path, write: Write, say: Say) -> None:
        """Take up what an earlier process left in `path`.

        Args:
            path: the file; it exists only while something waits.
            write: puts outcomes into the graph, all or none; raises GraphUnavailable where that is away.
            say: told when the graph goes away and when it is back.

        Raises:
            EnvironmentFault: the file is damaged.
        """
        self.path = path
        self._write = write
        self._say = say
        self._waiting = deque(_read(path))
        self._away = False
        self._pause = _FIRST_PAUSE_SECONDS
        self._due = 0.0

    def __len__(self) -> int:
        """Outcomes that wait; what else is to be said of the study does not count."""
        return sum(STUDY not in outcome for outcome in self._waiting)

    @property
    def full(self) -> bool:
        """Whether as many wait as may."""
        return len(self._waiting) >= LIMIT

    def deliver(self, *outcomes: Entry) -> None:
        """Write outcomes to the graph, together, or keep them for later.

        Raises:
            EnvironmentFault: the graph is away and the file cannot be written.
        """
        while outcomes and not self._waiting and self._try(outcomes[:PAGE]):
            outcomes = outcomes[PAGE:]
        if not outcomes:
            return
        for outcome in outcomes:
            self._keep(outcome)
        if self.full:
            self._say(f"{LIMIT:,} outcomes wait for the graph: the study pauses until it is back.")
        self.replay()

    def replay(self) -> None:
        """Write what waits, if it is time to try again."""
        if self._waiting and time.monotonic() >= self._due:
            before, outcomes = len(self._waiting), len(self)
            while self._waiting and self._try(self._page()):
                self._taken()
            if len(self._waiting) < before:
                self._store()
            if not self._waiting:
                self._say(f"The graph is back: {outcomes:,} waiting outcomes were written to it.")

    def settle(self) -> None:
        """Write what waits, waiting for the graph for up to PATIENCE_SECONDS.

        Raises:
            GraphUnavailable: it is still away; what waits stays in the file.
        """

        def all_of_it() -> None:
            while self._waiting:
                self._write(self._page())
                self._taken()

        if self._waiting:
            try:
                insist(all_of_it, self._say)
            finally:
                self._store()

    def _page(self) -> list[Entry]:
        return list(islice(self._waiting, PAGE))

    def _taken(self) -> None:
        """Forget the page that the graph has."""
        for _ in self._page():
            self._waiting.popleft()

    def _try(self, outcomes: Sequence[Entry]) -> bool:
        try:
            # Others may hold the graph for long, and the workers want their next steps: try again later.
            with lock.patient(lock.WAIT_SECONDS):
                self._write(outcomes)
        except GraphUnavailable as error:
            if not self._away:
                self._say(f"{error} The search goes on; what it finds waits in {self.path}.")
            self._away = True
            self._due = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            return False
        self._away, self._pause = False, _FIRST_PAUSE_SECONDS
        return True

    def _keep(self, outcome: Entry) -> None:
        """Append to the file, as far as the disk."""
        self._waiting.append(outcome)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(outcome) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise EnvironmentFault(
                f"The graph is away, and {self.path} cannot be written: {error.strerror}. Make room, then resume."
            ) from None

    def _store(self) -> None:
        """Make the file hold what waits, whole at every moment."""
        if not self._waiting:
            self.path.unlink(missing_ok=True)
            return
        new = self.path.with_suffix(".new")
        new.write_text("".join(json.dumps(outcome) + "\n" for outcome in self._waiting), encoding="utf-8")
        new.replace(self.path)


def _read(path: Path) -> list[Entry]:
    """Read what waits. A last line that a killed process did not finish was never told to anybody, and goes."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    whole, _, torn = text.rpartition("\n")
    if torn:
        path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise EnvironmentFault(
            f"{path} is damaged: {error}. Move it away; its steps are in the cache and are asked for again."
        ) from None


def insist(work: Callable[[], T], say: Say) -> T:
    """Run `work`, again and again while the graph is away, for up to PATIENCE_SECONDS; a busy one is waited for.

    Raises:
        GraphUnavailable: it is still away.
    """
    deadline, pause, told = time.monotonic() + PATIENCE_SECONDS, _FIRST_PAUSE_SECONDS, False
    while True:
        try:
            with lock.patient():
                return work()
        except GraphUnavailable as error:
            if time.monotonic() + pause > deadline:
                raise
            if not told:
                say(f"{error} Waiting for it, up to {PATIENCE_SECONDS / 60:.0f} minutes.")
                told = True
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def open_outbox(spec: StudySpec, subject: Subject, say: Say) -> Outbox:
    """Return the outbox of a study."""
    return Outbox(folder(spec.id) / "outbox.jsonl", partial(write_outcomes, spec, subject), say)


def entry(
    trial: Trial, parent: Figures, elapsed_seconds: float, layers: Mapping[str, Any] | None = None
) -> Entry:  # fmt: skip
    """Return an outcome as plain values: the trial, the figures of its step's input model, the study's clock.

    `layers`: the columns of its model's `LayerTable`; None leaves those that the graph has.
    """
    told = {"trial": trial.as_row(), "parent": asdict(parent), "elapsed_seconds": elapsed_seconds, "updated": now()}
    return told if layers is None else {**told, "layers": dict(layers)}


def write_outcomes(spec: StudySpec, subject: Subject, outcomes: Sequence[Entry]) -> None:
    """Write trials and what they teach to the graph, and what is said of the study, all or nothing; twice is once.

    Raises:
        GraphUnavailable: the graph is away or locked.
        NotInGraph: the study is gone.
    """
    entries = [outcome for outcome in outcomes if STUDY not in outcome]
    trials = [Trial.from_row(outcome["trial"]) for outcome in entries]
    taught = [
        _experience(spec, subject, trial, Figures(**outcome["parent"]))
        for trial, outcome in zip(trials, entries, strict=True)
        if trial.status == "ok" and trial.scheme.level <= 1  # no step has the schedule of what is trained on
    ]
    said: dict[str, Any] = {}
    for outcome in outcomes:
        said |= outcome[STUDY] if STUDY in outcome else {n: outcome[n] for n in ("elapsed_seconds", "updated")}
    with knowledge.graph() as store:

        def work() -> None:
            if trials:
                rows, layers = [trial.as_row() for trial in trials], [outcome.get("layers") for outcome in entries]
                studies.save_trials(store, spec.id, rows, task=subject.task(), layers=layers)
                studies.save_trial_experience(store, spec.id, taught)
            else:
                studies.load_study(store, spec.id)
            studies.save_study(store, {"id": spec.id, **said})

        store.atomically(work)


def _experience(spec: StudySpec, subject: Subject, trial: Trial, parent: Figures) -> Experience:
    """Return what the trial's last strategy did to its input model.

    Its HP2 is put on the scale of its input, HP2·P0/P_in, because PR is relative to the input and HP2 to M.
    """
    step = trial.scheme.steps[-1]
    scaled = min(1.0, step.removal * subject.params / parent.params)
    strategy = Strategy(step.method, tuple((n, scaled if n == "HP2" else v) for n, v in step.settings))
    third = spec.recipe.unit_epochs / LEVELS
    recipe = replace(spec.recipe, unit_epochs=third) if trial.scheme.level else spec.recipe
    task = subject.task(parent.params, parent.flops, parent.accuracy)
    # The same step of another study is the same experience: a cached step must not count twice.
    same = f"{strategy.id}|{task.id}|{recipe.as_dict()}|{subject.splits.train.n}|{spec.run_seed}"
    return Experience(
        id=f"trial:{sha256(same.encode()).hexdigest()[:16]}",
        strategy=strategy,
        task=task,
        source=spec.id,
        origin="trial",
        ar=trial.step_ar,
        pr=trial.step_pr,
        fr=trial.step_fr,
        sr=trial.step_sr,
        confidence="measured",
        iterations=trial.iterations or None,
        train_images=subject.splits.train.n,
        code=spec.versions.get("automc", ""),
        seed=spec.run_seed,
        details={"unit_epochs": f"{recipe.unit_epochs:g}"},
        not_taught=f"measured by {recipe.figure}, not by accuracy" if recipe.metric else "",
    )


def now() -> str:
    """Return the time in ISO format, UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()

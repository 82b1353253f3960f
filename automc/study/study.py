"""A study from the first look at the model to the tested result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from automc import knowledge, methods
from automc.bounds import check
from automc.datasets import DataRef
from automc.errors import EnvironmentFault, StudyError
from automc.execution.jobs import probe_with
from automc.execution.setup import Setup
from automc.execution.workers import Workers
from automc.home import home
from automc.models import structure
from automc.models.runtimes import runner
from automc.search import get as searcher_named
from automc.search.pace import Figure
from automc.study import pulse
from automc.study.closing import SHARE, closes
from automc.study.ending import Ending
from automc.study.forecast import Forecast
from automc.study.foresight import Foresight, in_words, insist_near, open_foresight, paced, try_dry
from automc.study.gauge import gauge_with
from automc.study.listening import Beating
from automc.study.loop import Listener, Loop, Plan
from automc.study.machine import default_workers as default_workers
from automc.study.machine import get_ready, say_order, workers_of
from automc.study.machine import versions as versions
from automc.study.moved import reopened
from automc.study.opening import counts, founded, vectors_for
from automc.study.outbox import insist, now, open_outbox
from automc.study.place import claimed, folder, held
from automc.study.protocol import Protocol, settled
from automc.study.reach import grid_levels, insist_possible, insist_reachable, unasked
from automc.study.result import Result
from automc.study.space import StrategySpace, lightest, widest
from automc.study.spec import Budget, StudySpec
from automc.study.spending import Spending
from automc.study.stored import load_record, load_trials
from automc.study.task import Subject, open_subject
from automc.study.teaching import TEACHER_FILE, open_teacher, taught_by, try_own
from automc.study.trial import Figures, Trial
from automc.study.widths import settle_recipe
from automc.training.recipe import Recipe
from kg import studies
from kg.embedding.vectors import Vectors
from kg.errors import KGError
from kg.schema import LEVELS, Scheme, Strategy
from kg.store import lock


class Study:
    """One search on one task with one recipe; `create` a new one or `open` one of the graph, then `run`."""

    def __init__(
        self, spec: StudySpec, subject: Subject, vectors: Vectors, record: dict[str, Any], began: float | None = None
    ) -> None:
        """Hold the parts; `record` is the study's node, `began` when opening it began, by the monotonic clock."""
        self._began = time.monotonic() if began is None else began
        self.spec = spec
        self.subject = subject
        self.vectors = vectors
        self.record = record
        self._foresight: Foresight | None = None
        self.protocol = Protocol.of(spec, record)
        held = subject.hold(spec.keep, spec.keep_shape, spec.train_frozen)
        self.setup = Setup(
            base=folder(spec.id) / "base.am", data=spec.data, recipe=spec.recipe, run_seed=spec.run_seed,
            keep=held.uncut, still=held.still, device=spec.device,
            cache=home() / "cache", data_cache=home() / "data", cache_bytes=spec.cache_bytes,
            teacher=folder(spec.id) / TEACHER_FILE if spec.teacher_model else None, deterministic=spec.deterministic,
        )  # fmt: skip

    @classmethod
    @lock.patient()
    def create(
        cls, model: str, data: DataRef, *, gamma: float | None, budget: Budget, weights: Path | None = None,
        recipe: Recipe | None = None, precision: str = "auto", device: str = "auto", workers: int | None = None,
        auto_widths: bool = False, learn_from_trials: bool = True, listener: Listener | None = None,
        teacher_weights: Path | None = None, **options: Any,
    ) -> Study:  # fmt: skip
        """Open the model and the data, bring graph and embeddings up to date, and put a new study into the graph.

        Args:
            model: a zoo name, `file.py:factory`, `torchvision:NAME` or a saved `.am`.
            gamma: share of the parameters to remove, in (0, 0.84]; None where `limits` or `max_drop` say what is asked.
            precision: "float32", "bfloat16", or "auto": timed once per device and size of step, and remembered.
            workers: processes; default one per core on a CPU, one on a GPU.
            auto_widths: let `round_to` be what pays in the runtime on this processor: timed once and remembered.
            learn_from_trials: whether what earlier studies measured counts as experience.
            teacher_weights: a checkpoint for the `teacher_model`.
            options: other fields of StudySpec.

        Raises:
            AutoMCError: something given is wrong; nothing was written to the graph.
        """
        began, listener = time.monotonic(), listener or Listener()
        recipe = recipe or Recipe()
        options["own_experience"] = learn_from_trials
        # Checked before anything slow: a typo must not cost a minute.
        asked = StudySpec("", model, data, gamma, budget, recipe, workers=1 if workers is None else workers, **options)
        searcher_named(asked.searcher)
        Spending.of(asked)
        get_ready(asked)
        for method in asked.only:
            methods.get(method)
        insist_reachable(asked, grid_levels(asked.only))
        subject = open_subject(
            model, data, weights=weights, fraction=recipe.fraction, device=device,
            progress=lambda done, of: listener.progress("reading images", done, of), metric=recipe.metric,
        )  # fmt: skip
        teacher = open_teacher(asked.teacher_model, teacher_weights, subject) if asked.teacher_model else None
        recipe = taught_by(recipe, teacher)
        try_own(subject, recipe)
        held = subject.hold(asked.keep, asked.keep_shape, asked.train_frozen)
        structure.check(subject.model, subject.source, subject.example.shape[1:])
        insist_possible(asked, subject, held)
        if asked.runtime == "onnx":
            # A model that does not run there must not be found out after hours.
            runner(subject.model, subject.example, "onnx")
        recipe = settle_recipe(recipe, precision, subject, asked.runtime, auto_widths, listener.say)
        say_order(asked, subject.device.type, listener.say)
        vectors = vectors_for(asked, listener)
        cores = workers or default_workers(subject.device.type, asked)

        def named(name: str) -> tuple[StudySpec, dict[str, Any]] | None:
            spec = StudySpec(
                name, model, subject.data, gamma, budget, recipe, device=str(subject.device),
                workers=cores, versions=versions(), **options,
            )  # fmt: skip
            record = founded(spec, subject, vectors, teacher, listener)
            return None if record is None else (spec, record)

        spec, record = claimed(subject.name, subject.dataset.name, insist(knowledge.study_names, listener.say), named)
        return cls(spec, subject, vectors, record, began)

    @classmethod
    @lock.patient()
    def open(
        cls, name: str, *, budget: Budget | None = None, workers: int | None = None, listener: Listener | None = None,
        data: str | None = None, cluster: str | None = None,
    ) -> Study:  # fmt: skip
        """Open a study of the graph to go on with it, with another budget, or its data in another place, if given.

        Raises:
            StudyError: there is no such study, its folder is gone, or its deletion was begun.
        """
        began, listener = time.monotonic(), listener or Listener()
        if workers is not None:
            check("--workers", workers, StudyError)
        record = load_record(name)
        if record.get("status") == studies.DELETING:
            raise StudyError(
                f"The deletion of {name} was begun and not finished: automc study delete {name} finishes it."
            )
        spec = StudySpec.from_dict(record["spec"]).with_budget(budget)
        spec = spec.with_workers(workers, cluster)
        Spending.of(spec)
        get_ready(spec)
        base = folder(name) / "base.am"
        if not base.is_file():
            raise StudyError(
                f"The study {name} cannot be resumed: its model {base} is gone. Start it again with automc search."
            )
        teacher = folder(name) / TEACHER_FILE
        if spec.teacher_model and not teacher.is_file():
            raise StudyError(
                f"The study {name} cannot be resumed: its teacher {teacher} is gone. Start it again with automc search."
            )
        spec, subject = reopened(
            spec, base, record, data, lambda done, of: listener.progress("reading images", done, of)
        )
        subject = replace(
            subject, name=_model_of(name, subject.dataset.name), saw_validation=bool(record.get("saw_validation", True))
        )
        study = cls(spec, subject, Vectors.load(folder(name) / "vectors.safetensors"), record, began)
        if data is not None:
            study._save(spec=StudySpec.from_dict({**record["spec"], "data": spec.data.as_dict()}).as_dict())
        return study

    @lock.patient()
    def run(self, listener: Listener | None = None) -> Result:
        """Search until the budget is spent, then run, save and test the recommended scheme.

        A KeyboardInterrupt ends the workers, marks the study as interrupted and is raised again.

        Raises:
            StudyError: another process runs this study, or no method can work on its model.
        """
        name = self.spec.id
        with held(name), Beating(listener or Listener(), pulse.place(name)) as heard:
            return self._run(heard)

    def _run(self, listener: Listener) -> Result:
        loop: Loop | None = None
        try:
            with workers_of(self.spec, self.setup) as workers:
                infeasible, forecast = self._probe(workers, listener)
                loop = self._loop(infeasible, forecast, listener)
                loop.run(workers)
            loop.settle()
            done = sorted(loop.trials.values(), key=lambda t: t.ordinal)
            return self._finish(done, forecast, loop.seconds, listener)
        except BaseException as error:
            self._stopped("interrupted" if isinstance(error, KeyboardInterrupt) else "stopped", loop)
            if loop is not None and loop.undelivered:
                kept = f"{loop.undelivered} outcomes wait for the graph in {folder(self.spec.id)}"
                listener.say(f"{kept}. To deliver them: automc resume {self.spec.id}")
            raise

    def _stopped(self, status: str, loop: Loop | None) -> None:
        """Save that the study has stopped. Where the graph is away or busy, that waits for the next start."""
        # What stopped the study is what the user must hear.
        with suppress(KGError, EnvironmentFault), lock.patient(lock.WAIT_SECONDS):
            if loop is None:
                self._save(status=status)
            else:
                loop.note(status=status, elapsed_seconds=loop.seconds, updated=now())

    def _open_foresight(self, listener: Listener) -> Foresight | None:
        """Return what predicts latencies here, if anything does; it takes seconds to learn, so it is learned once."""
        if self._foresight is None:
            bench = self.setup.open()
            self._foresight = open_foresight(self.spec, bench.model, bench.example, listener.say)
        return self._foresight

    def _loop(self, infeasible: dict[str, str], forecast: Forecast, listener: Listener) -> Loop:
        """Return the loop at the point that the graph's trials have reached, after telling the plan."""
        space = StrategySpace(
            self.vectors, self.subject.task(), infeasible, _steps_by(self.spec), self.subject.splits.train.n,
            reach=self.record["probe"].get("reach"), model=counts(self.spec, self.subject, self.setup.keep),
            levels=searcher_named(self.spec.searcher).levels,
        )  # fmt: skip
        foresight, bench = None, self.setup.open()
        if curves := self.record.get("pace"):
            figure: Figure = self.record.get("pace_of", "latency_ms")  # of studies before there were others
            foresight = self._open_foresight(listener) if figure == "latency_ms" else None
            space = paced(space, figure, curves, self.protocol)
            listener.say(in_words(space.space))
        opening = time.monotonic() - self._began
        self._save_at_last(listener, opening_seconds=opening + float(self.record.get("opening_seconds") or 0.0))
        space, first = self._beyond_the_grid(space, forecast, listener)
        outbox = open_outbox(self.spec, self.subject, listener.say)
        outbox.settle()
        trials, record = insist(lambda: (load_trials(self.spec.id), load_record(self.spec.id)), listener.say)
        elapsed = float(record.get("elapsed_seconds") or 0.0) + opening
        for trial in trials:
            if not trial.cached:
                forecast.observe(trial.scheme, trial.seconds, trial.status)
        if not self.protocol.front(trials):
            insist_reachable(
                self.spec, space.admissible(), self.protocol.base, self.record["probe"].get("reach"),
                model=counts(self.spec, self.subject, self.setup.keep),
            )  # fmt: skip
            insist_near(space, self.protocol, self.spec)

        def keep_models(schemes: list[Scheme]) -> None:
            bench.cache.pin((bench.key(scheme) for scheme in schemes), owner=self.spec.id)

        spec = self.spec.with_budget(self._spending.search)
        loop = Loop(
            spec, self.subject, space, forecast, trials, elapsed, listener, keep_models, outbox,
            self.protocol, gauge_with(bench, self.protocol), first,
            foresight.foresee(bench) if foresight else lambda trial: trial, folder(self.spec.id) / "learned.pt",
            self._spending.most,
        )  # fmt: skip
        listener.plan(self._plan(space, first, forecast, infeasible, trials, elapsed))
        return loop

    def _beyond_the_grid(
        self, space: StrategySpace, forecast: Forecast, listener: Listener
    ) -> tuple[StrategySpace, tuple[Scheme, ...]]:
        """Return the space with strategies that close at the target, and the first trials, which the study keeps."""
        if not closes(self.spec):
            return space, ()
        aim = self.protocol.aim(space.reachable(self.spec.max_length), space.enough)
        if self.record.get("first") is None:
            seconds = self._spending.search.seconds
            most = None if seconds is None else SHARE * (seconds - self._opening) * self.spec.workers
            reach = self.record["probe"].get("reach") or {}
            found = space.first(aim, reach, forecast.step, most)
            self._save_at_last(listener, first=[scheme.id for scheme in found])
        return space.closing_at(aim), tuple(Scheme.parse(name) for name in self.record["first"])

    @property
    def _opening(self) -> float:
        """Seconds that opening the study has taken, at all its starts."""
        return float(self.record.get("opening_seconds") or 0.0)

    @property
    def _spending(self) -> Spending:
        return Spending.of(self.spec, self._opening)

    def _probe(self, workers: Workers, listener: Listener) -> tuple[dict[str, str], Forecast]:
        """Try each method once on one batch, at the study's first start; what came of it is part of the study."""
        if self.record.get("probe") is None:
            strategies = [Strategy.parse(name) for name in self.vectors.strategies]
            found = probe_with(workers, lightest(strategies), widest(strategies))
            probe = {
                "infeasible": found.infeasible,
                "per_iteration": found.seconds_per_iteration,
                "overhead": found.overhead_seconds,
                "reach": found.reach,
            }
            able = [s for s in strategies if s.method not in found.infeasible]
            foresight = self._open_foresight(listener)
            dry = try_dry(workers, widest(able).values(), found.reach, self.protocol, foresight)
            self._save_at_last(listener, probe=probe, **dry)
        known = self.record["probe"]
        infeasible = known["infeasible"] | unasked(self.spec, known["per_iteration"])
        if not set(known["per_iteration"]) - set(infeasible):
            reasons = " ".join(f"{name}: {reason}" for name, reason in infeasible.items())
            raise StudyError(f"No method can work on this model, so there is nothing to search. {reasons}")
        forecast = Forecast(known["per_iteration"], known["overhead"], self.spec.recipe, self.subject.splits.train.n)
        return infeasible, forecast

    def _plan(
        self,
        space: StrategySpace,
        first: tuple[Scheme, ...],
        forecast: Forecast,
        infeasible: dict[str, str],
        trials: Sequence[Trial],
        spent: float,
    ) -> Plan:
        searchable, spending = space.allowed(), self._spending
        n_train, budget = self.subject.splits.train.n, spending.search
        step = forecast.mean(searchable, thirds=1 if searcher_named(self.spec.searcher).levels else LEVELS)
        steps_left = max(0, (budget.steps or 0) - len(trials))
        beside = min(self.spec.workers, self.spec.window, max(1, steps_left))
        seconds = max(0.0, budget.seconds - spent) if budget.seconds else step * steps_left / beside
        return Plan(
            study=self.spec.id, spec=self.spec, spending=spending, space=space.report, first=first,
            infeasible=infeasible, n_train=n_train,
            base=Figures(self.subject.accuracy, self.subject.params, self.subject.flops),
            n_validation=self.subject.splits.validation.n, step_seconds=step, seconds=seconds,
            final_seconds=self._final_seconds(forecast.mean(searchable, self.subject.splits.rest.n), spending),
            done=len(trials), saw_validation=self.subject.saw_validation,
            protocol=self.protocol,
        )  # fmt: skip

    def _final_seconds(self, step: float, spending: Spending) -> float:
        """Return the forecast of what follows the search; `step` is that of a step on all images."""
        if spending.end_seconds is not None:
            return spending.end_seconds
        runs = max(3.0, spending.runs(None, self.spec.budget.steps or 0)) if self.spec.final else 0.0
        return runs * step + spending.fixed

    def _finish(self, trials: list[Trial], forecast: Forecast, elapsed: float, listener: Listener) -> Result:
        base = Figures(self.subject.accuracy, self.subject.params, self.subject.flops)

        def note(**values: Any) -> None:
            self._save_at_last(listener, **values)

        met = self.protocol.recommended(trials) is not None
        note(status="done" if met else "unmet", ended=now())
        outcome = Ending(
            self.spec, self.setup, self.subject, self.protocol, forecast, self.record, note, listener, elapsed
        ).of(trials)
        front = tuple(self.protocol.front(trials))
        chosen = settled(self.record, self.protocol, trials)
        return Result(self.spec, base, tuple(trials), front, chosen, outcome, self.protocol)

    def _save(self, **values: Any) -> None:
        self.record.update(values)
        with knowledge.graph() as store:
            studies.save_study(store, {"id": self.spec.id, **values, "updated": now()})

    def _save_at_last(self, listener: Listener, **values: Any) -> None:
        """Save what minutes or hours of work have found, waiting for the graph where it is away."""
        insist(lambda: self._save(**values), listener.say)


def _steps_by(spec: StudySpec) -> Recipe:
    """Return the recipe of a search's steps: where it has levels, a third as long as that of the study."""
    levels = searcher_named(spec.searcher).levels
    return replace(spec.recipe, unit_epochs=spec.recipe.unit_epochs / LEVELS) if levels else spec.recipe


def _model_of(study: str, dataset: str) -> str:
    return study.rsplit("-", 1)[0].removesuffix(f"-{dataset.lower()}")

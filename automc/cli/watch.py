"""What a person sees while a study runs: the plan, a bar on a terminal or a line per trial elsewhere, the result."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from automc.cli.figures import duration, percent
from automc.cli.output import say
from automc.knowledge.words import in_words
from automc.search import get as searcher_named
from automc.study import Listener
from automc.study.loop import Plan
from automc.study.trial import Trial

_EVERY_SECONDS = 10.0


def _budget(plan: Plan) -> list[str]:
    """Say how the budget is divided, and how long it takes."""
    spec, spending = plan.spec, plan.spending
    if (whole := spec.budget.seconds) is not None and (spending.search.seconds or 0.0) > whole:
        return [f"  budget      {spec.budget}, all of which opening the study has used: {spending.search}"]
    step = f"a step takes about {duration(plan.step_seconds)}; about {duration(plan.seconds)} to go"
    lines = [f"  budget      {spec.budget} with {spec.workers} worker(s) on {spec.device}: {step}"]
    parts = ["the finalists' runs"] if spec.final and not spending.rest else []
    if spending.rest:
        parts.append("training on, side by side where several are good, then the best of them")
    elif spending.recovery is not None:
        parts.append(f"training on for {spending.recovery}")
    if parts and spending.end_seconds is not None:
        lines[0] = lines[0].replace(":", f", until the model is saved: {spending.search} to search,", 1)
        lines.append(f"              then {duration(plan.final_seconds)} for {' and '.join(parts)}")
    elif parts:
        lines.append(f"              then about {duration(plan.final_seconds)} for {' and '.join(parts)}")
    return lines


class Watch(Listener):
    """Prints what a study tells on stderr; a context manager, because a bar must be taken down."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._last: dict[str, float] = {}
        self._plan: Plan | None = None

    def __enter__(self) -> Watch:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def _measure(self) -> str:
        return "accuracy" if self._plan is None else self._plan.spec.recipe.figure

    def say(self, text: str) -> None:
        """Print a sentence."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            say(text)

    def plan(self, plan: Plan) -> None:
        """Print what will be done, and how long it takes."""
        self._plan = plan
        spec, space = plan.spec, plan.space
        self.say(f"Study {plan.study}: {spec.searcher} search, {plan.protocol.asked}.")
        if spec.max_drop is not None:
            self.say("              Of what meets that, the smallest model is recommended.")
        for sentence in plan.protocol.loose:
            self.say(f"              {sentence}")
        self.say(
            f"  model       {spec.model}: {plan.base.params:,} parameters, {plan.base.flops / 1e6:.1f} MFLOPs, "
            f"validation {spec.recipe.figure} {plan.base.accuracy:.2%}"
        )
        recipe = spec.recipe
        self.say(
            f"  data        {spec.data.spec}: steps train on {plan.n_train:,} images, {plan.n_validation:,} validate; "
            f"E0 = {recipe.unit_epochs:g} epochs, batch {recipe.batch}, {recipe.precision}"
        )
        for what, own in (("loss", recipe.loss), ("metric", recipe.metric)):
            if own is not None:
                self.say(f"              {what} {own.place}")
        if spec.teacher_model:
            self.say(f"              teacher {spec.teacher_model}, weight {recipe.teacher:g} in every step")
        if plan.saw_validation:
            self.say(
                "              The model may have seen the validation images in training; --val FOLDER cures that."
            )
        self.say(f"  strategies  {space.searchable:,} of {space.total:,}; {space.distinct:,} differ under this recipe")
        for name, count in space.without_code.items():
            self.say(f"              {name}: {count:,} masked, no implementation here")
        for name, count in space.infeasible.items():
            self.say(f"              {name}: {count:,} masked, {plan.infeasible[name]}")
        for name, count in space.beyond.items():
            self.say(f"              {name}: {count:,} masked, they would remove more than it can on this model")
        if space.closing:
            self.say(
                f"              {space.closing:,} more, off the grid, remove exactly what is missing to the target"
            )
        if searcher_named(spec.searcher).levels:
            self.say(
                "  levels      a third of each step's length first; the best are trained on to two thirds, and all of it"
            )
        if plan.first:
            names = ", ".join(" -> ".join(step.method for step in scheme.steps) for scheme in plan.first)
            self.say(f"  first       each method straight to the target: {names}")
        for line in _budget(plan):
            self.say(line)
        if plan.done:
            self.say(f"  resumed     {plan.done} trials are in the graph already")

    def trial(self, trial: Trial, spent_steps: int, spent_seconds: float) -> None:
        """Print one finished trial."""
        mark = " (cached)" if trial.cached else ""
        if trial.status == "ok":
            short = "" if trial.reached else ", target not reached"
            bits = f" and {percent(trial.sr)} of the bits" if trial.quantised else ""
            text = f"{self._measure} {percent(trial.accuracy)}, removed {percent(trial.pr)}{bits}{short}"
        else:
            text = f"{trial.status}: {trial.reason.splitlines()[0] if trial.reason else ''}"
        step = f"trial {trial.ordinal}, {in_words(trial.scheme)}"
        self.say(f"[{spent_steps} | {duration(spent_seconds)}] {step}: {text}, {trial.seconds:.1f} s{mark}")

    def running(self, spent_steps: float, spent_seconds: float) -> None:
        """Move the bar."""
        if self._bar is None or self._plan is None:
            return
        budget = self._plan.spending.search
        done, of = (spent_steps, budget.steps) if budget.steps else (spent_seconds, budget.seconds or 1.0)
        self._update("searching", done, of)

    def progress(self, what: str, done: int, of: int) -> None:
        """Move another bar, or print a line now and then."""
        if self._bar is not None:
            self._update(what, done, of)
        elif time.monotonic() - self._last.setdefault(what, time.monotonic()) > _EVERY_SECONDS:
            self._last[what] = time.monotonic()
            say(f"{what}: {done}/{of}")

    def _update(self, what: str, done: float, of: float) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=of)
        self._bar.update(self._tasks[what], completed=min(done, of), total=of)
        if done >= of:
            self._bar.remove_task(self._tasks.pop(what))

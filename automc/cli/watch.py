"""What a person sees while a study runs: the plan, a bar on a terminal or a line per trial elsewhere, the result."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from automc.cli.figures import duration, percent
from automc.cli.output import Format, say, show
from automc.knowledge.words import in_words
from automc.study import Listener
from automc.study.finish import slower
from automc.study.headline import Headline
from automc.study.loop import Plan
from automc.study.protocol import Protocol
from automc.study.result import Result
from automc.study.trial import Trial

TESTED = ("test_accuracy", "test_low", "test_high", "test_images", "validation_too_kind")
FRONT_COLUMNS = ("", "trial", "scheme", "accuracy", "params", "removed", "FLOPs removed", "AR")
SIZE_COLUMN = "bits removed"
"""In a table only where a model is quantised: it is `removed` for floats."""
_EVERY_SECONDS = 10.0


def _budget(plan: Plan) -> list[str]:
    """Say how the budget is divided, and how long it takes."""
    spec, spending = plan.spec, plan.spending
    step = f"a step takes about {duration(plan.step_seconds)}; about {duration(plan.seconds)} to go"
    lines = [f"  budget      {spec.budget} with {spec.workers} worker(s) on {spec.device}: {step}"]
    parts = ["the finalists' runs"] if spec.final else []
    if spending.rest:
        parts.append("training on the best of them")
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
            f"validation accuracy {plan.base.accuracy:.2%}"
        )
        recipe = spec.recipe
        self.say(
            f"  data        {spec.data.spec}: steps train on {plan.n_train:,} images, {plan.n_validation:,} validate; "
            f"E0 = {recipe.unit_epochs:g} epochs, batch {recipe.batch}, {recipe.precision}"
        )
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
            text = f"accuracy {percent(trial.accuracy)}, removed {percent(trial.pr)}{bits}{short}"
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


def show_trials(
    trials: Sequence[Trial], chosen: Trial | None, format: Format, title: str, protocol: Protocol,
    first: Headline | None = None,
) -> None:  # fmt: skip
    """Print a front, with a column for each limited figure: percentages in a table, plain numbers in JSON and CSV.

    JSON and CSV also carry `first`, what the saved model did on the test images, in the row of the recommended scheme.
    """
    rows: list[tuple[Any, ...]] = []
    tested = {} if first is None else first.fields()
    quantised = any(t.quantised for t in trials)
    told = [name for name in TESTED if format is not Format.table]
    for t in trials:
        mark = "*" if t is chosen else ""
        limited = [getattr(t, limit.figure) for limit in protocol.limits]
        if format is not Format.table:
            own = [tested.get(name) if t is chosen else None for name in told]
            rows.append((mark, t.ordinal, t.scheme.id, t.accuracy, t.params, t.pr, t.fr, t.ar, t.sr, *limited, *own))
            continue
        sizes = [percent(t.sr)] if quantised else []
        shares = percent(t.accuracy), f"{t.params:,}", percent(t.pr), percent(t.fr), percent(t.ar), *sizes
        figures = (limit.kind.text(value) for limit, value in zip(protocol.limits, limited, strict=True))
        rows.append((mark, t.ordinal, _wrapped(in_words(t.scheme)), *shares, *figures))
    columns = (*FRONT_COLUMNS, *([SIZE_COLUMN] if quantised else []), *(limit.kind.noun for limit in protocol.limits))
    if format is not Format.table:
        columns = ("recommended", *FRONT_COLUMNS[1:], SIZE_COLUMN, *(limit.figure for limit in protocol.limits), *told)
    show(columns, rows, format, title)
    if format is Format.table:
        show_ids(trials)
    off = [str(t.ordinal) for t in trials if not t.grid]
    if off and format is Format.table:
        print(f"  off the paper's grid, with HP2 solved for the target: {', '.join(off)}")


def show_ids(trials: Sequence[Trial]) -> None:
    """Print the schemes of a table as they are written in files and commands, one a line, for copying."""
    for t in trials:
        print(f"  trial {t.ordinal}: {t.scheme.id}")


def plot_trials(trials: Sequence[Trial], fronted: Sequence[Trial], chosen: Trial | None, format: Format) -> None:
    """Print all ok trials as a small plot of text under a table; nothing in other formats."""
    if format is not Format.table:
        return
    from automc.report.plot import Mark, text

    kinds = {**dict.fromkeys((t.ordinal for t in fronted), "front"), **({chosen.ordinal: "chosen"} if chosen else {})}
    done = [t for t in trials if t.accuracy is not None and t.pr is not None]
    marks = [Mark(t.removed, t.accuracy or 0.0, kinds.get(t.ordinal, "dot")) for t in done]
    symbols = {"dot": "·", "front": "o", "chosen": "*"}
    marks.sort(key=lambda mark: list(symbols).index(mark.kind))
    print(text(marks, symbols))
    noun = "bits" if any(t.quantised for t in done) else "parameters"
    print(f"  validation accuracy against {noun} removed; o on the front, * recommended")


def say_first(first: Headline | None) -> None:
    """Say what the saved model did on images that nothing was chosen by, before all else."""
    for line in first.lines() if first else ():
        say(line)


def _kilobytes(bits: int) -> str:
    return f"{bits / 8000:,.1f} kB"


def _wrapped(scheme: str) -> str:
    return scheme.replace(" -> ", "\n-> ")


def show_result(result: Result, format: Format) -> int:
    """Print the front, the recommended scheme and the saved model; return the exit code."""
    title = f"Front of {result.spec.id}: validation accuracy against {result.protocol.noun} removed"
    if result.recommendation is None:
        say(f"No scheme {result.protocol.unmet} within the budget.")
        if nearest := result.protocol.nearest_text(result.trials):
            say(nearest)
        say(f"Go on with: automc resume {result.spec.id} --budget 2h")
        if format is not Format.table:
            show_trials([], None, format, title, result.protocol)
        return 3
    chosen, first = result.recommendation.trial, result.headline
    say_first(first)
    show_trials(result.front, chosen, format, title, result.protocol, first)
    plot_trials(result.trials, result.front, chosen, format)
    say(f"Recommended: trial {chosen.ordinal}, {result.recommendation.why}.")
    if result.final:
        final = result.final
        base = result.protocol.base
        # A study that ended before sizes in bits were kept has floats.
        bits = final.get("bits") or 32 * final["params"]
        limited = "".join(
            f", {limit.kind.noun} {limit.kind.text(base[limit.figure])} -> {limit.kind.text(final[limit.figure])}"
            for limit in result.protocol.limits
            if limit.figure != "flops" and final.get(limit.figure) is not None
        )
        say(
            f"Saved: {final['path']}: {result.base.params:,} -> {final['params']:,} parameters, "
            f"{_kilobytes(result.base.stored)} -> {_kilobytes(bits)} of them as stored, "
            f"{result.base.flops / 1e6:.1f} -> {final['flops'] / 1e6:.1f} MFLOPs{limited}"
        )
        if warning := slower(final):
            say(warning)
    return 0

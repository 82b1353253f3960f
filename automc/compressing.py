"""One scheme run on a model, from what is given to what is saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from automc.bounds import check
from automc.errors import MethodError
from automc.execution.jobs import Recovery, final, recover_saved
from automc.execution.setup import Setup
from automc.files import Kind, claim, write_atomically
from automc.given import Data, Model, data_ref, inputs, model_name
from automc.knowledge.words import in_words
from automc.models import structure
from automc.models.bits import count_bits
from automc.models.given import remember
from automc.models.pace import Comparison, checked
from automc.study import gauge, replay, spending, widths
from automc.study.doctor import scratch
from automc.study.html import share, table
from automc.study.replay import Origin, SchemeForecast
from automc.study.schemes import read_scheme
from automc.study.task import Subject, open_figures, open_subject
from automc.study.teaching import Teacher, open_teacher, taught_by, try_own
from automc.study.trial import Figures
from automc.training.own import Own, own_code
from automc.training.recipe import Recipe
from automc.training.recover import Extent
from automc.training.seeds import before_cuda
from kg.schema import Scheme

Progress = Callable[[int, int], None]


def made_by(word: str) -> Callable[[Path], bool]:
    """Return what tells a saved model by a word of its metadata."""
    return lambda path: word in structure.read_head(path)[1]


COMPRESSED = Kind("a model that automc compress or search saved", made_by("scheme"), ".am")


def recipe_with(recipe: Recipe | None, loss: Own, metric: Own) -> Recipe:
    """Return a recipe with the user's loss and metric, where they are given.

    Raises:
        OwnCodeError: they cannot travel to other processes, are not there, or cannot be called.
        MethodError: the recipe is none.
    """
    if not isinstance(recipe, Recipe | None):
        given = type(recipe).__name__
        raise MethodError(f"recipe= takes an automc.Recipe, such as Recipe(unit_epochs=2), not {given}.")
    base = recipe or Recipe()
    return replace(base, loss=own_code(loss, "loss") or base.loss, metric=own_code(metric, "metric") or base.metric)


@dataclass(frozen=True)
class Compressed:
    """A scheme run on a model: figures on validation before and after, top-1 on the test images where there are any.

    `headline.Share.of(test_after, test_images)` is an accuracy with its interval.
    """

    scheme: Scheme
    path: Path
    before: Figures
    after: Figures
    reached: bool
    reason: str
    test_before: float | None
    test_after: float | None
    seconds: float
    forecast: SchemeForecast
    recovery: Recovery | None
    """What training on has brought; None where it was not asked for."""
    validation_images: int
    test_images: int | None
    pace: Comparison | None
    """Its time beside that of the model before, in the runtime asked for; None where one of them does not run there."""
    unrecorded: str
    """Why forecast and figures are not in this home's graph; empty where they are, or where there is no graph."""
    measure: str = "accuracy"
    """What accuracies are: accuracy, or the name of the user's metric."""

    @cached_property
    def module(self) -> nn.Module:
        """The smaller model, on the CPU, in evaluation mode; read when it is first asked for."""
        found = structure.read(self.path)
        return remember(found.model, found.source)

    def _repr_html_(self) -> str:
        """Show itself in a notebook: figures before and after."""
        before, after = self.before, self.after
        rows = (
            ("parameters", before.params, after.params), ("FLOPs", before.flops, after.flops),
            ("bits", before.stored, after.stored),
            (f"validation {self.measure}", share(before.accuracy), share(after.accuracy)),
            (f"test {self.measure}", share(self.test_before), share(self.test_after)),
        )  # fmt: skip
        return table(("", "before", "after"), rows, (in_words(self.scheme), f"Saved as {self.path}."))


def compress(
    model: Model, data: Data, scheme: str | Path | Scheme, *, out: str | Path = "compressed.am",
    weights: str | Path | None = None, recipe: Recipe | None = None, precision: str = "auto", device: str = "auto",
    runtime: str = "torch", auto_widths: bool = False, run_seed: int = 0, deterministic: bool = False,
    keep: tuple[str, ...] = (), keep_shape: tuple[str, ...] = (), train_frozen: bool = False, recover: str = "none",
    loss: Own = None, metric: Own = None, teacher_model: Model | None = None, teacher_weights: str | Path | None = None,
    progress: Progress | None = None, say: Callable[[str], None] | None = None, on_recovery: Progress | None = None,
    on_forecast: Callable[[SchemeForecast, Origin | None], None] | None = None, force: bool = False,
) -> Compressed:  # fmt: skip
    """Run a scheme on a model and save the result; it trains on all images but validation, or the recipe's fraction.

    What was expected of the scheme and what came of it become a Replay in this home's graph, where there is one.

    Args:
        scheme: a Scheme, a file with one strategy a line, such text itself, or STUDY:3 for the scheme of a study's
            third trial; values off the grid are allowed.
        keep: patterns of layers that are neither cut nor trained; `keep_shape` of those that are not cut, but trained.
        train_frozen: cut and train what the model's factory froze, too.
        deterministic: on an accelerator, use only kernels that give the same bits each time; a CPU's do.
        runtime: "torch" or "onnx": what will run the smaller model, and times it beside the model before.
        auto_widths: let the recipe's `round_to` be what pays in that runtime on this processor; timed once.
        loss: in place of cross-entropy wherever anything trains: 'file.py:name' or a function at the top of a file, of
            (outputs, labels) or of (model, images, labels).
        metric: in place of accuracy wherever anything is measured: likewise, of (outputs, labels); a number in [0, 1],
            the higher the better.
        teacher_model: teaches in the place of the model before, in every step (by half, unless the recipe's `teacher`
            says how much) and in the recovery.
        recover: how long the saved model trains on, taught by the model before: "30m", "20epochs" or "none".
        progress: called with the iterations done and in all of the scheme; `on_recovery` with the share of that.
        say: is told what was measured, and of the recovery.
        on_forecast: called before the first step with what is expected, and where the scheme comes from.
        force: replace whatever file `out` is; else only an earlier result of `compress` or `search`.

    Raises:
        SchemaInvalid: the scheme cannot be read.
        StudyError: there is no such study or trial, or the trial failed.
        MethodError: a step names no executable method, lacks a setting, or did not end well; nothing is saved.
        OutputInTheWay: there is something else at `out`.
        EnvironmentFault: `out` cannot be written; what was there is intact.
    """
    check("--run-seed", run_seed)
    if deterministic:
        before_cuda()
    extent = spending.extent(recover)
    place = checked(runtime)
    origin = replay.find(scheme) if isinstance(scheme, str) else None
    wanted = origin.trial.scheme if origin else read_scheme(scheme)
    replay.check(wanted)
    given = None if isinstance(scheme, Scheme) or "[" in str(scheme) else scheme
    target = claim(out, COMPRESSED, inputs=(*inputs(model, data), weights, given), force=force)
    recipe = recipe_with(recipe, loss, metric)
    subject = open_subject(
        model_name(model), data_ref(data), weights=Path(weights) if weights else None, fraction=recipe.fraction,
        device=device, metric=recipe.metric,
    )  # fmt: skip
    teacher, recipe = _teacher(subject, recipe, teacher_model, teacher_weights)
    held = subject.hold(keep, keep_shape, train_frozen)
    recipe = widths.settle_recipe(recipe, precision, subject, place, auto_widths, say)
    expected = replay.forecast(subject, wanted, recipe, origin)
    if on_forecast:
        on_forecast(expected, origin)
    with scratch(subject, recipe, run_seed, held, teacher) as found:
        setup = replace(found, deterministic=deterministic)
        saved = setup.base.with_name("out.am")
        outcome = final(setup, wanted, saved, progress=progress, everything=recipe.fraction == 1)
        if outcome.status != "ok":
            raise MethodError(f"The scheme ended as {outcome.status}: {outcome.reason}")
        write_atomically(target, saved.read_bytes())
        then = on_recovery or progress
        recovery = None if extent is None else _train_on(setup, saved, recipe, target, say or str, then, extent)
        smaller = structure.read(saved).model.to(subject.device)
    after = open_figures(smaller, subject)
    before = Figures(subject.accuracy, subject.params, subject.flops, count_bits(subject.model))
    return Compressed(
        scheme=wanted, path=target, before=before,
        after=after, reached=bool(outcome.reached), reason=outcome.reason,
        test_before=subject.test_accuracy(), test_after=subject.test_accuracy(smaller), seconds=outcome.seconds,
        forecast=expected, recovery=recovery,
        validation_images=subject.splits.validation.n, test_images=subject.test_images,
        pace=gauge.pace(subject, smaller, place),
        unrecorded=replay.write(
            subject, wanted, origin, expected, outcome, after, recipe, run_seed,
            recovery.as_dict() if recovery else None,
        ),
        measure=recipe.figure,
    )  # fmt: skip


def _teacher(
    subject: Subject, recipe: Recipe, model: Model | None, weights: str | Path | None
) -> tuple[Teacher | None, Recipe]:
    """Open the teacher where there is one, and try the recipe's own code before anything is trained with it."""
    teacher = None
    if model is not None:
        teacher = open_teacher(model_name(model), Path(weights) if weights else None, subject)
    recipe = taught_by(recipe, teacher)
    try_own(subject, recipe)
    return teacher, recipe


def _train_on(
    setup: Setup, saved: Path, recipe: Recipe, target: Path, say: Callable[[str], object], progress: Progress | None,
    extent: Extent,
) -> Recovery:  # fmt: skip
    """Let a saved model recover, and copy it to `target`, where the one before lies already."""
    say(f"Saved: {target}. It trains on, with the model before as its teacher, for {extent}.")
    found = recover_saved(setup, saved, extent, everything=recipe.fraction == 1, progress=progress)
    say(found.text)
    write_atomically(target, saved.read_bytes())
    return found

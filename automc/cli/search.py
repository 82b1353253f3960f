"""`automc search`, `automc resume`: searches, with everything a person sees of them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from automc.cli import options as o
from automc.cli.output import Format, FormatOption, guarded, say, show
from automc.files import claim

Budget = Annotated[
    str,
    typer.Option(
        "--budget", help="Time until the model is saved, or steps that the search executes: 30m, 2h, 40steps."
    ),
]
Recover = Annotated[
    str,
    typer.Option(
        "--recover",
        help="How long the saved model trains on, with the original as teacher, of the budget: 30m, 20epochs, none; "
        "auto: as long as the budget leaves.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Worker processes; default one per core, one on a GPU, which can take several."),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Run the workers on a Ray cluster: local (one on this machine), auto, ray://HOST:PORT.",
    ),
]
GpusPerWorker = Annotated[
    float, typer.Option("--gpus-per-worker", help="Cards of the cluster for each worker, such as 0.25.")
]


@guarded
@o.grouped
def search(
    model: o.Model,
    data: o.Data,
    target: o.TargetOptions = o.TargetOptions(),
    budget: Budget = "30m",
    weights: o.Weights = None,
    searcher: Annotated[str, typer.Option("--searcher", help="progressive, progressive-mean, progressive-blind, random, evolution, eco or reinforce.")] = "progressive",
    max_length: Annotated[int, typer.Option("--max-length", help="Steps of a scheme, at most.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the searcher.")] = 0,
    run_seed: o.RunSeed = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Also copy the recommended model here.")] = None,
    final: Annotated[str, typer.Option("--final", help="full: run the best schemes once more, and save the best; none: keep the trial's model.")] = "full",
    recover: Recover = "auto",
    teacher_model: o.TeacherModel = None,
    teacher_weights: o.TeacherWeights = None,
    own_experience: Annotated[bool, typer.Option("--own-experience/--no-own-experience", help="Learn from what earlier studies measured.")] = True,
    graph: Annotated[bool, typer.Option("--graph/--no-graph", help="Ablation: learn the embeddings without the graph's links.")] = True,
    experience: Annotated[bool, typer.Option("--experience/--no-experience", help="Ablation: learn and search without any experience.")] = True,
    front: Annotated[float, typer.Option("--front", help="What the rest of the front is worth beside the recommended scheme, in [0, 1].")] = 0.5,
    grid_only: Annotated[bool, typer.Option("--grid-only", help="The paper's search: its six methods, no strategies off their grid, and no method straight to the target first.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", help="Ablation: use this method alone; repeatable.")] = None,
    how: o.RecipeOptions = o.RecipeOptions(),
    keep: o.Keep = None,
    keep_shape: o.KeepShape = None,
    train_frozen: o.TrainFrozen = False,
    device: o.Device = "auto",
    workers: Workers = None,
    cluster: Cluster = None,
    gpus_per_worker: GpusPerWorker = 0.0,
    deterministic: o.Deterministic = False,
    step_timeout: Annotated[float | None, typer.Option("--step-timeout", help="Seconds after which a step counts as hung; default 5 x the forecast.")] = None,
    cache_size: Annotated[str, typer.Option("--cache-size", help="Limit of the models kept on disk, such as 20GiB.")] = "20GiB",
    augment: o.Augment = None,
    reading: o.DataOptions = o.DataOptions(),
    force: o.Force = False,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Search compression schemes for a trained model, and save the recommended one.

    Without --max-drop, what meets all limits competes for the best accuracy; with it, for the smallest size.

    Example: automc search resnet20 --weights resnet20.th --data photos/ --gamma 0.3 --budget 30m
    """
    from automc import api
    from automc.cli.watch import Watch
    from automc.errors import StudyError
    from automc.study import Budget as Spending
    from automc.study import Study
    from automc.study.limits import parse_bytes

    if final not in ("full", "none"):
        raise StudyError(f"--final must be full or none, it is {final!r}.")
    if out:
        claim(out, api.COMPRESSED, inputs=(model, weights, data), force=force)
    recipe = how.recipe()
    with Watch() as watch:
        study = Study.create(
            model, reading.ref(data, augment), **target.asked(),
            budget=Spending.parse(budget), weights=weights, recipe=recipe, precision=how.precision,
            device=device, workers=workers, cluster=cluster or "", gpus_per_worker=gpus_per_worker, learn_from_trials=own_experience, listener=watch, searcher=searcher,
            max_length=max_length, seed=seed, run_seed=run_seed, keep=tuple(keep or ()),
            keep_shape=tuple(keep_shape or ()), train_frozen=train_frozen, deterministic=deterministic, step_timeout=step_timeout,
            auto_widths=how.auto_widths, runtime=how.runtime,
            cache_bytes=parse_bytes(cache_size), final=final == "full", use_graph=graph, use_experience=experience,
            only=tuple(only or ()), grid_only=grid_only, recover=recover,
            front=front, teacher_model=teacher_model or "", teacher_weights=teacher_weights,
        )  # fmt: skip
    _run(study, out, format)


@guarded
def resume(
    study: Annotated[str, typer.Argument(help="A study, see: automc study list.")],
    budget: Annotated[
        str | None, typer.Option("--budget", help="Another budget, counted from the study's start.")
    ] = None,
    workers: Workers = None,
    cluster: Cluster = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Where the study's data are now, if they have moved.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Also copy the recommended model here.")] = None,
    force: o.Force = False,
    format: FormatOption = Format.table,
) -> None:
    """Go on with a study that was interrupted, or give it a larger budget.

    Example: automc resume resnet20-cifar10-1 --budget 2h
    """
    from automc import api
    from automc.cli.watch import Watch
    from automc.study import Budget as Spending
    from automc.study import Study

    if out:
        claim(out, api.COMPRESSED, force=force)
    with Watch() as watch:
        opened = Study.open(
            study,
            budget=None if budget is None else Spending.parse(budget),
            workers=workers,
            cluster=cluster,
            listener=watch,
            data=data,
        )
    _run(opened, out, format)


def _run(study, out: Path | None, format: Format) -> None:  # type: ignore[no-untyped-def]
    """Run a study, print what came of it, and leave with its exit code."""
    from automc import knowledge
    from automc.cli.front import show_result
    from automc.cli.watch import Watch
    from automc.files import write_atomically
    from kg.store.lock import patient

    try:
        with Watch() as watch:
            result = study.run(watch)
    except KeyboardInterrupt:
        again = f"automc resume {study.spec.id}" + (f" --out {shlex.quote(str(out))}" if out else "")
        say(f"Interrupted: everything finished is in the graph. Go on with: {again}")
        raise typer.Exit(130) from None
    code = show_result(result, format)
    if result.model and out:
        write_atomically(out, result.model.read_bytes())
        say(f"Copied to {out}")
    if result.recommendation is not None and format is Format.table:
        query = (
            "MATCH (t:Trial)-[:IN_STUDY]->(:Study {id: $study}), (t)-[:OF_SCHEME]->(s:Scheme) WHERE s.id = $scheme "
            "RETURN t.id AS trial, s.id AS scheme, t.accuracy AS accuracy, t.pr AS pr"
        )
        parameters = {"study": study.spec.id, "scheme": result.recommendation.trial.scheme.id}
        say(f"In the graph: automc kg query '{query}' " + " ".join(f"--param '{k}={v}'" for k, v in parameters.items()))
        with patient():
            table = knowledge.query(query, parameters)
        show(table.columns, table.rows, format)
    raise typer.Exit(code)

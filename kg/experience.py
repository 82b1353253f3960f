"""Experience files: what published tables say a strategy did to a task, one YAML file per paper.

Accuracies and counts are written as the source prints them, and the ratios AR, PR and FR are computed here.
A ratio is typed only where the source prints nothing but the ratio (`published_ratio`), or where it was
computed from the source's settings by a layer count (`derived_ratio`). The experiences are those of the
AutoMC paper, section 3.3.1; unlike there, a hyperparameter the source does not give is left unknown.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kg.cards import read_cards
from kg.curation.contradictions import contradictions
from kg.curation.documents import Readable, Source, read_document
from kg.errors import ExperienceInvalid
from kg.experience_file import ArchitectureEntry, ExperienceFile, PaperEntry, RecordEntry, TaskEntry
from kg.resources import experience_dir
from kg.schema import TEACHING_FAMILIES, Experience, Method, Paper, Strategy

Wrong = Callable[[str, str], ExperienceInvalid]

Count = Callable[[str, int], tuple[int, int]]
"""(zoo name, classes) -> (params, flops): the real size of an architecture."""

ALIKE = 0.3
"""How near a hundred times one accuracy is to the other where it must be a share in place of per cent."""

TOLERANCE = 0.05
"""How far a source's count may be from the real one; papers round, and some leave out biases or batch norm."""


def packaged_experience() -> list[Path]:
    """Return the paths of the experience files that come with this package, sorted."""
    return sorted(experience_dir().glob("*.yaml"))


def read_experience(
    paths: Iterable[Readable] | None = None,
    count: Count | None = None,
    methods: Sequence[Method] | None = None,
    *,
    consistent: bool = True,
) -> tuple[tuple[Experience, ...], tuple[Paper, ...]]:
    """Read experience files, check them one by one and against each other, and compute their ratios.

    Args:
        paths: the files, one per paper; a Source may bring more records of a paper that has a file. None for the
            packaged ones.
        count: real params and flops of a zoo architecture, to compare tasks that name one; None to skip that.
        methods: the method cards that records may name; None for the packaged ones.
        consistent: refuse contradictions that nobody explained.

    Returns:
        The experiences in file order, with AR, PR and FR where the source gives them, and the papers.

    Raises:
        ExperienceInvalid: names the file, the record, the field and the reason.
    """
    known = {method.id: method for method in (read_cards() if methods is None else methods)}
    experiences: list[Experience] = []
    papers: dict[str, tuple[Readable, Paper]] = {}
    records_at: dict[str, Readable] = {}
    tasks_at: dict[str, tuple[Readable, TaskEntry]] = {}
    places: Iterable[Readable] = packaged_experience() if paths is None else paths
    for path in places:
        file = read_document(path, ExperienceFile, ExperienceInvalid)
        _enter_paper(path, file.paper, papers)
        tasks = _tasks(path, file, tasks_at, count)
        for record in file.records:
            if record.id in records_at:
                raise ExperienceInvalid(f"{path}: {record.id}: the id is taken in {records_at[record.id]}.")
            records_at[record.id] = path
            experiences.append(_experience(path, file.paper.id, record, tasks, known))
    for one in contradictions(experiences, experiences, known) if consistent else ():
        raise ExperienceInvalid(f"{records_at[one.record.id]}: {one}")
    return tuple(experiences), tuple(paper for _, paper in papers.values())


def _enter_paper(path: Readable, entry: PaperEntry, papers: dict[str, tuple[Readable, Paper]]) -> None:
    paper = Paper(entry.id, entry.title, entry.url, entry.year)
    if entry.id not in papers:
        papers[entry.id] = (path, paper)
        return
    first, known = papers[entry.id]
    if not isinstance(path, Source):
        raise ExperienceInvalid(f"{path}: paper.id: {entry.id} is taken by {first}. One file per paper.")
    if paper != known:
        raise ExperienceInvalid(
            f"{path}: paper: title, url or year differ from those of {entry.id} in {first}. Use the same, or "
            "another id."
        )


def _tasks(
    path: Readable, file: ExperienceFile, seen: dict[str, tuple[Readable, TaskEntry]], count: Count | None
) -> dict[str, TaskEntry]:
    """The tasks of a file by id; one that another file has too must be the same there."""
    tasks: dict[str, TaskEntry] = {}
    for entry in file.tasks:
        if entry.id in tasks:
            raise ExperienceInvalid(f"{path}: {entry.id}: the task is listed twice.")
        where, other = seen.setdefault(entry.id, (path, entry))
        if other != entry:
            raise ExperienceInvalid(f"{path}: {entry.id}: the task differs from the one in {where}. Use another id.")
        tasks[entry.id] = entry
        if count is not None and entry.architecture is not None:
            _compare(path, entry, entry.architecture, count)
    return tasks


def _compare(path: Readable, entry: TaskEntry, architecture: ArchitectureEntry, count: Count) -> None:
    """A task that names an architecture must have its size."""
    params, flops = count(architecture.name, architecture.classes)
    for field, stated, real in (
        ("params", entry.params.count if entry.params else None, params),
        ("macs" if entry.macs else "flops", entry.flops_count, flops),
    ):
        if stated is not None and abs(stated - real) > TOLERANCE * real:
            shown = (stated, real) if field != "macs" else (stated // 2, real // 2)
            raise ExperienceInvalid(
                f"{path}: {entry.id}: {field}: {shown[0]:,} is not within {TOLERANCE:.0%} of {shown[1]:,}, the real "
                f"count of {architecture.name} with {architecture.classes} classes. Correct one of them."
            )


def _experience(
    path: Readable, paper: str, record: RecordEntry, tasks: dict[str, TaskEntry], methods: dict[str, Method]
) -> Experience:
    def wrong(field: str, reason: str) -> ExperienceInvalid:
        return ExperienceInvalid(f"{path}: {record.id}: {field}: {reason}")

    method = methods.get(record.method)
    if method is None:
        near = difflib.get_close_matches(record.method, methods, n=1)
        hint = f"Did you mean {near[0]}?" if near else "Write one; `automc method list` has those that there are."
        raise wrong("method", f"{record.method[:80]} has no method card. {hint}")
    names = [hyperparameter.id for hyperparameter in method.hyperparameters]
    for name in record.settings:
        if name not in names:
            raise wrong(
                "settings", f"{method.id} has no hyperparameter {name[:80]}; it has {', '.join(names) or 'none'}."
            )
    size = record.settings.get("HP2")
    if size is not None and (isinstance(size, str) or not 0 <= size <= 1):
        raise wrong("settings.HP2", f"{size} is not a share between 0 and 1.")
    task = tasks.get(record.task)
    if task is None:
        raise wrong("task", f"{record.task} is not among the tasks of this file.")
    ar, pr = _accuracy_rate(record, task, wrong), _parameter_rate(record, task, wrong)
    details = {key: value if isinstance(value, str) else json.dumps(value) for key, value in record.raw.items()}
    texts = {"source": record.source, "assumptions": record.assumptions, "differs_because": record.differs_because}
    return Experience(
        id=record.id,
        strategy=Strategy(record.method, tuple(record.settings.items())),
        task=task.task(),
        source=paper,
        ar=ar,
        pr=pr,
        fr=_flops_rate(record, wrong),
        sr=record.published_ratio.sr,
        pr_derived=record.derived_ratio is not None and record.derived_ratio.pr is not None,
        table=record.table,
        confidence=record.confidence,
        note=record.note,
        iterations=record.iterations,
        train_images=record.train_images,
        code=record.code,
        seed=record.seed,
        not_taught=record.not_taught or _aside(record, method),
        family=record.family or method.family,
        weight_bits=record.weight_bits,
        activation_bits=record.activation_bits,
        teacher=record.teacher,
        quoted=record.quoted,
        details=details | {name: text for name, text in texts.items() if text},
    )


def _aside(record: RecordEntry, method: Method) -> str:
    """Why AR of a record does not teach what AutoMC's methods lose, "" where it does."""
    family = record.family or method.family
    if record.quoted:
        return "quoted: whoever measured it teaches it"
    if family in (None, *TEACHING_FAMILIES) or (method.hyperparameters and record.family is None):
        return ""
    return f"another family: {family}"


def _flops_rate(record: RecordEntry, wrong: Wrong) -> float | None:
    """FR as published, else as computed."""
    published, derived = record.published_ratio.fr, record.derived_ratio.fr if record.derived_ratio else None
    if published is not None and derived is not None:
        raise wrong("derived_ratio.fr", "FR is published; a derived one is for sources that do not print it.")
    return derived if published is None else published


def _check_percent(what: str, this: float, other: float, low: float, wrong: Wrong) -> None:
    """Refuse an accuracy of at most `low` per cent that would be like the other one if it were a share."""
    if this <= low and abs(100 * this - other) <= ALIKE * other:
        raise wrong(
            "top1_percent",
            f"{what} has {this} beside {other}: a share where per cent are asked for? Write {100 * this:g}, or say in "
            "differs_because why it is so low.",
        )


def _accuracy_rate(record: RecordEntry, task: TaskEntry, wrong: Wrong) -> float | None:
    """AR = (after − before)/before, from the printed accuracies where both are there, in per cent."""
    published = record.published_ratio.ar
    if record.top1_percent is not None and task.top1_percent:
        if not record.differs_because:
            guessed = 100 / task.dataset.classes
            baseline = f"the baseline of {task.id}"
            _check_percent(baseline, task.top1_percent, record.top1_percent, 1.0, wrong)
            _check_percent("this result", record.top1_percent, task.top1_percent, min(1.0, guessed / 2), wrong)
        if published is not None:
            raise wrong("published_ratio.ar", "AR is typed beside the accuracies it follows from. Leave it out.")
        return (record.top1_percent - task.top1_percent) / task.top1_percent
    if published is not None and task.top1_percent is not None and task.top1_percent * (1 + published) > 100:
        raise wrong("published_ratio.ar", f"{published} on a baseline of {task.top1_percent}% gives more than 100%.")
    return published


def _parameter_rate(record: RecordEntry, task: TaskEntry, wrong: Wrong) -> float | None:
    """PR = 1 − after/before, from the printed counts where both are there."""
    ratios = {
        "published_ratio.pr": record.published_ratio.pr,
        "derived_ratio.pr": record.derived_ratio.pr if record.derived_ratio else None,
    }
    given = {field: ratio for field, ratio in ratios.items() if ratio is not None}
    if record.params is not None and task.params is not None:
        for field in given:
            raise wrong(field, "PR is typed beside the parameter counts it follows from. Leave it out.")
        if record.params.count > task.params.count:
            raise wrong("params", f"{record.params.count:,} is more than the baseline's {task.params.count:,}.")
        return 1 - record.params.count / task.params.count
    if len(given) > 1:
        raise wrong("derived_ratio.pr", "PR is published; a derived one is for sources that do not print it.")
    return next(iter(given.values()), None)

"""What AutoMC's own methods did in the committed tables, as experience files: one per table, under data/experience.

    python -m benchmarks.own_experience            # writes data/experience/automc_*.yaml; twice is the same files

A record is one step: its settings, what it did to *its input model*, how many iterations on how many images it
trained, with which seed, version of the method and commit. HP2 is put on the scale of the input, HP2·P0/P_in, because
PR is relative to the input and HP2 to the original. Accuracies are of the validation images, as in a study's trials: the
test images teach nothing. A step whose method was mended since in a way that a table shows is kept, but does not
teach AR (`not_taught`).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from automc.knowledge.cards import real_size
from automc.training.recipe import Recipe
from kg.curation.documents import write_document
from kg.experience_file import DatasetEntry, ExperienceFile, PaperEntry, Quantity, Ratios, RecordEntry, TaskEntry
from kg.schema import Scheme, Strategy

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "data" / "experience"
RESULTS = ROOT / "docs" / "results"

CIFAR = DatasetEntry(name="cifar10", classes=10, image_size=32, channels=3, images=50_000)
DIGITS = DatasetEntry(name="digits", classes=10, image_size=8, channels=1, images=1_438)
E0 = 10.0
"""Epochs of a step's unit in all of these tables."""

# Which commit each method of a table was at, and its integer version there.
FIRST = {"LMA": ("a541391", 2), "NS": ("a541391", 1), "LFB": ("a541391", 1), "SFP": ("a541391", 2)}
SINGLE = {**FIRST, "HOS": ("fc28a20", 2), "LeGR": ("d7d0d21", 2)}
NEWEST = {**SINGLE, "LFB": ("4241750", 5), "TRP": ("b7f233d", 1)}
EARLY = {"NS": ("a3ed3f9", 1), "SFP": ("a3ed3f9", 1), "LFB": ("a3ed3f9", 1)}
LATER = {name: ("845dd7d", version) for name, (_, version) in SINGLE.items()}
TABLE = {name: ("b3ded7d", version) for name, (_, version) in SINGLE.items()}
SHORT = {"NS": ("6765950", 2), "LFB": ("6765950", 3)}
Versions = dict[str, tuple[str, int]]

PHASES = {
    "LMA": (("HP1",),), "NS": (("HP1",),), "LFB": (("HP1",),), "TRP": (("HP1",),), "SFP": (("HP9",),), "LeGR": (("HP1", "HP7"),),
    "HOS": (("HP13",), ("HP1",)),
}  # fmt: skip
"""Training phases of each method by the hyperparameters that are their length; today's methods may count otherwise."""

UNTEMPERED = (
    "SFP 1 let zeroed filters learn as fast as batch norm makes them: 27.1% in test at 70% removed, where SFP 2 has "
    "67.3% (docs/results/variants)"
)
ONE_FORM = (
    "before LFB 5 a basis was always of k×k filters; in the other form a short step keeps 21 points more at 70% "
    "(docs/results/trp)"
)
SHORT_BASE = 0.878
"""Accuracy of the public ResNet-20 on the 1,000 validation images of `benchmarks.short_steps`."""


@dataclass(frozen=True)
class Model:
    """A model before its first step."""

    name: str
    data: DatasetEntry
    params: int
    flops: int | None
    accuracy: float


@dataclass(frozen=True)
class Figures:
    """A model after some steps; `pr` and `fr` are shares of the original that are gone."""

    accuracy: float
    pr: float
    fr: float | None = None


@dataclass(frozen=True)
class Made:
    """One executed step."""

    model: Model
    scheme: Scheme
    before: Figures
    after: Figures
    iterations: int
    images: int
    line: str
    seed: int = 0


@dataclass(frozen=True)
class Table:
    """A committed table: where it is, what it is, and its steps."""

    id: str
    title: str
    path: str
    versions: Versions
    steps: Callable[[Path], Iterator[Made]]


START = Figures(0.0, 0.0, 0.0)


def single_methods(path: Path, names: tuple[str, ...] = tuple(NEWEST)) -> Iterator[Made]:
    """One step of one method on a whole model; `names` are the rows' methods or variants."""
    for number, row in _rows(path):
        if row["method"] in names:
            model = zoo(row["model"], float(row["validation_before"]))
            scheme = Scheme.parse(row["strategy"])
            yield _first(model, scheme, row, _iterations(scheme, 4_500), 4_500, f"line {number}")


def transfer(path: Path) -> Iterator[Made]:
    """Single methods on ResNet-56, and schemes of one step."""
    for number, row in _rows(path):
        scheme = Scheme.parse(row["scheme"])
        if len(scheme) == 1:
            model = zoo(row["model"], float(row["validation_before"]))
            yield _first(model, scheme, row, _iterations(scheme, 5_000), 5_000, f"line {number}")


def study(path: Path) -> Iterator[Made]:
    """Trials of a study whose rows have everything."""
    model, known = zoo("resnet20", 0.935), dict[Scheme, Figures]()
    for number, row in _rows(path):
        if row["status"] != "ok":
            continue
        scheme = Scheme.parse(row["scheme"])
        known[scheme] = Figures(float(row["accuracy"]), float(row["pr"]), float(row["fr"]))
        before = known[scheme.parent] if len(scheme) > 1 else _unharmed(model)
        yield Made(model, scheme, before, known[scheme], int(row["iterations"]), 5_000, f"line {number}")


def short_study(path: Path) -> Iterator[Made]:
    """Trials of a study that kept only its figures. M's accuracy follows from the forecast made from its first trial."""
    forecast = next(r for _, r in _rows(path.parent / "runs.csv") if r["study"] == path.stem and r["forecast_study"])
    kept = float(forecast["forecast_study"]) / float(forecast["validation_before"])
    trials = {row["trial"]: row for _, row in _rows(path)}
    model, known = zoo("resnet20", float(trials[forecast["trial"]]["validation"]) / kept), dict[Scheme, Figures]()
    for number, row in _rows(path):
        scheme = Scheme.parse(row["scheme"])
        known[scheme] = Figures(float(row["validation"]), float(row["pr"]), float(row["fr"]))
        before = known[scheme.parent] if len(scheme) > 1 else _unharmed(model)
        yield Made(model, scheme, before, known[scheme], _iterations(scheme, 5_000), 5_000, f"line {number}")


def steps_of_table(path: Path, data: DatasetEntry, name: str, images: int) -> Iterator[Made]:
    """Steps of a table that `benchmarks.tab.generate` made."""
    about = json.loads(path.with_suffix(".json").read_text())
    base = about["base"]
    model = Model(name, data, base["params"], base["flops"], base["accuracy"])
    strategies = [Strategy.parse(one["id"]) for one in about["strategies"]]
    known = {Scheme(): _unharmed(model)}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        row = json.loads(line)
        if row["status"] == "ok":
            scheme = Scheme(tuple(strategies[i] for i in row["seq"]))
            gone = 1 - row["par"] / model.params, 1 - row["flops"] / base["flops"]
            known[scheme] = Figures(row["acc"], *gone)
            made = _iterations(scheme, images)
            yield Made(model, scheme, known[scheme.parent], known[scheme], made, images, f"line {number}", row["seed"])


def short_steps(path: Path) -> Iterator[Made]:
    """Steps of 6 to 60 iterations, with batch-norm statistics as they are estimated today."""
    model = zoo("resnet20", SHORT_BASE)
    steps = {"LFB": "LFB[HP1=0.5,HP2=0.4,HP15=1,HP16=MSE]", "NS": "NS[HP1=0.5,HP2=0.4,HP6=0.9]"}
    for number, row in _rows(path):
        after = Figures(float(row["validation_augmented"]), 0.4)
        scheme, seed = Scheme.parse(steps[row["method"]]), int(row["seed"])
        yield Made(model, scheme, _unharmed(model), after, int(row["iterations"]), 5_000, f"line {number}", seed)


TABLES = (
    Table("automc_single-methods", "Single methods on CIFAR-10", "docs/results/single-methods/runs.csv", NEWEST,
          single_methods),
    Table("automc_variants", "Choices inside the methods, on CIFAR-10", "docs/results/variants/runs.csv", SINGLE,
          partial(single_methods, names=("LFB", "LFB, CE", "LFB, NLL", "LFB, no auxiliary loss", "SFP, HP10 = 5"))),
    Table("automc_transfer", "Single methods on ResNet-56", "docs/results/transfer/runs.csv", LATER, transfer),
    Table("automc_progressive", "A progressive search on ResNet-20", "docs/results/resnet20-cifar10/progressive.csv",
          EARLY, study),
    Table("automc_random", "A random search on ResNet-20", "docs/results/resnet20-cifar10/random.csv", EARLY, study),
    Table("automc_resnet20-bench-1", "A progressive search on ResNet-20 with all methods",
          "docs/results/transfer/resnet20-bench-1.csv", LATER, short_study),
    Table("automc_digits-k8", "All schemes of eight strategies on digits", "benchmarks/tab/digits-k8.jsonl", TABLE,
          partial(steps_of_table, data=DIGITS, name="resnet8", images=1_079)),
    Table("automc_short-steps", "Steps of 6 to 60 iterations on ResNet-20", "docs/results/recalibration/runs.csv", SHORT,
          short_steps),
)  # fmt: skip


@cache
def _size(name: str) -> tuple[int, int]:
    return real_size(name, CIFAR.classes)


def zoo(name: str, accuracy: float) -> Model:
    """A network of the zoo on CIFAR-10."""
    return Model(name, CIFAR, *_size(name), accuracy)


def _unharmed(model: Model) -> Figures:
    return Figures(model.accuracy, 0.0, 0.0)


def _first(model: Model, scheme: Scheme, row: dict[str, str], iterations: int, images: int, line: str) -> Made:
    after = Figures(float(row["validation_after"]), float(row["pr"]), float(row["fr"]))
    return Made(model, scheme, _unharmed(model), after, iterations, images, line, int(row["seed"]))


def _iterations(scheme: Scheme, images: int) -> int:
    """Iterations of the last step of a scheme, as its method counted them when the table was made."""
    last = scheme.steps[-1]
    return sum(
        Recipe(unit_epochs=E0).iterations(sum(last.number(name) for name in phase), images)
        for phase in PHASES[last.method]
    )


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with the numbers of their lines."""
    with path.open(encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return [(reader.line_num, row) for row in reader]


def document(table: Table) -> ExperienceFile:
    """Return a table as an experience file: a task for every model that a step began with."""
    tasks, records = dict[str, TaskEntry](), []
    for number, made in enumerate(table.steps(ROOT / table.path), 1):
        task = _task(table, made)
        task = tasks.setdefault(task.id, task)
        records.append(_record(table, made, task, number))
    return ExperienceFile(
        format=1, paper=PaperEntry(id=table.id, title=f"AutoMC: {table.title}"),
        entered_by="benchmarks/own_experience.py", tasks=tuple(tasks.values()), records=tuple(records),
    )  # fmt: skip


def _task(table: Table, made: Made) -> TaskEntry:
    left = round(made.model.params * (1 - made.before.pr))
    percent = _percent(made.before.accuracy)
    flops = made.model.flops
    if flops and made.before.fr is not None:
        flops = round(flops * (1 - made.before.fr))
    return TaskEntry(
        id=f"{table.id}_{made.model.name}_{left}_{percent:g}", dataset=made.model.data, model=made.model.name,
        params=Quantity(value=left, unit="1"), flops=Quantity(value=flops, unit="1") if flops else None,
        top1_percent=percent, source=f"{table.path}; accuracy on the validation images",
    )  # fmt: skip


def _record(table: Table, made: Made, task: TaskEntry, number: int) -> RecordEntry:
    last = made.scheme.steps[-1]
    code, version = table.versions[last.method]
    assert task.params is not None
    scaled = min(1.0, round(last.number("HP2") / (1 - made.before.pr), 6))
    kept = None if made.after.fr is None or made.before.fr is None else (1 - made.after.fr) / (1 - made.before.fr)
    return RecordEntry(
        id=f"{table.id}_{number:03d}", method=last.method, settings={**dict(last.settings), "HP2": scaled}, task=task.id,
        top1_percent=_percent(made.after.accuracy),
        params=Quantity(value=round(made.model.params * (1 - made.after.pr)), unit="1"),
        published_ratio=Ratios(fr=None if kept is None or not 0 <= kept <= 1 else round(1 - kept, 6)),
        table=f"{table.path}, {made.line}", source=table.path, confidence="measured",
        iterations=made.iterations, train_images=made.images, code=code, seed=made.seed,
        not_taught=_mended(last.method, version),
        raw={"version": f"{last.method} {version}"},
    )  # fmt: skip


def _mended(method: str, version: int) -> str:
    """Why what a version of a method did says nothing of what it does today; empty where it does."""
    if (method, version) == ("SFP", 1):
        return UNTEMPERED
    return ONE_FORM if method == "LFB" and version < 5 else ""


def _percent(accuracy: float) -> float:
    return round(100 * accuracy, 4)


def main() -> None:
    for table in TABLES:
        file = document(table)
        (OUT / f"{table.id}.yaml").write_text(write_document(file), encoding="utf-8")
        print(f"{table.id}: {len(file.records)} records")


if __name__ == "__main__":
    main()

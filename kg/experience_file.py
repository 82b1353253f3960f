"""An experience file as it is written: fields, units and bounds, one YAML document per paper (see `experience`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kg.cards import Identifier, Name, Text
from kg.curation.documents import Document
from kg.schema import MAX_VALUE, Family, Task

SCALES = {"1": 1, "k": 10**3, "M": 10**6, "G": 10**9}

MAX_COUNT = 10**15
"""Far beyond any network's parameters or FLOPs; the graph holds 64 bits."""

Percent = Annotated[float, Field(ge=0, le=100)]
Number = Annotated[int, Field(ge=-MAX_VALUE, le=MAX_VALUE)] | Annotated[float, Field(ge=-MAX_VALUE, le=MAX_VALUE)]
Setting = Number | Identifier
Share = Annotated[float, Field(ge=0, le=1)]
Confidence = Literal[
    "verified-two-sources", "verified-one-source", "authors-table-unverified", "corpus-transcribed",
    "quoted-by-another-paper", "measured",
]  # fmt: skip


class Quantity(Document):
    """A count as printed, with its unit."""

    value: Annotated[float, Field(gt=0, le=MAX_COUNT)]
    unit: Literal["1", "k", "M", "G"]

    @model_validator(mode="after")
    def _whole(self) -> Quantity:
        if not 1 <= self.count <= MAX_COUNT:
            raise ValueError(f"the count must lie between 1 and {MAX_COUNT:,}")
        return self

    @property
    def count(self) -> int:
        """The plain number."""
        return round(self.value * SCALES[self.unit])


class DatasetEntry(Document):
    """The data features of a task."""

    name: Name
    classes: Annotated[int, Field(ge=2, le=10**7)]
    image_size: Annotated[int, Field(ge=1, le=10**6)]
    channels: Annotated[int, Field(ge=1, le=10**6)]
    images: Annotated[int, Field(ge=1, le=10**12)]


class ArchitectureEntry(Document):
    """A builder of AutoMC's model zoo with its arguments."""

    name: Name
    classes: Annotated[int, Field(ge=2, le=100_000)]


class TaskEntry(Document):
    """What was compressed: data and baseline model. `macs` are multiply-adds, `flops` two per multiply-add."""

    id: Name
    dataset: DatasetEntry
    model: Name
    architecture: ArchitectureEntry | None = None
    params: Quantity | None = None
    macs: Quantity | None = None
    flops: Quantity | None = None
    top1_percent: Percent | None = None
    source: Text

    @model_validator(mode="after")
    def _one_unit(self) -> TaskEntry:
        if self.macs and self.flops:
            raise ValueError("give macs or flops (two per multiply-add), not both")
        if self.params and self.flops_count is not None and self.flops_count < self.params.count:
            raise ValueError("fewer multiply-adds than half of the parameters: is the unit of one of them right?")
        return self

    @property
    def flops_count(self) -> int | None:
        """FLOPs, two per multiply-add."""
        if self.macs:
            return 2 * self.macs.count
        return self.flops.count if self.flops else None

    def task(self) -> Task:
        """The task in the graph's words."""
        return Task(
            id=self.id,
            dataset=self.dataset.name,
            model=self.model,
            classes=self.dataset.classes,
            image_size=self.dataset.image_size,
            channels=self.dataset.channels,
            images=self.dataset.images,
            params=self.params.count if self.params else None,
            flops=self.flops_count,
            accuracy=None if self.top1_percent is None else self.top1_percent / 100,
        )


class Ratios(Document):
    """Ratios that the source prints in place of the figures behind them."""

    ar: Annotated[float, Field(ge=-1, le=1000)] | None = None
    pr: Share | None = None
    fr: Share | None = None
    sr: Share | None = None
    """Of the stored bits: what quantisers publish."""


class DerivedRatio(Document):
    """Reductions that were computed, not printed; the record's assumptions say how."""

    pr: Share | None = None
    fr: Share | None = None


class RecordEntry(Document):
    """One row of a published table, or one step that AutoMC executed: then with its length, images, code and seed.

    `family` where it is another than the method's. `weight_bits` and `activation_bits` of a quantised result, `teacher`
    of a distilled one; `quoted` where the source prints what others measured.
    """

    id: Name
    method: Identifier
    settings: dict[str, Setting] = Field(default_factory=dict)
    task: Name
    top1_percent: Percent | None = None
    params: Quantity | None = None
    published_ratio: Ratios = Ratios()
    derived_ratio: DerivedRatio | None = None
    table: Text
    source: Text
    confidence: Confidence
    assumptions: str = ""
    note: str = ""
    differs_because: str = ""
    iterations: Annotated[int, Field(ge=1, le=10**12)] | None = None
    train_images: Annotated[int, Field(ge=1, le=10**12)] | None = None
    code: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    not_taught: str = ""
    family: Family | None = None
    weight_bits: Annotated[float, Field(gt=0, le=64)] | None = None
    activation_bits: Annotated[float, Field(gt=0, le=64)] | None = None
    teacher: str = ""
    quoted: bool = False
    raw: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _explained(self) -> RecordEntry:
        if self.derived_ratio and not self.assumptions:
            raise ValueError("a derived ratio needs assumptions that say how it was computed")
        return self


class PaperEntry(Document):
    """The source of a file."""

    id: Identifier
    title: Text
    url: str = ""
    year: Annotated[int, Field(ge=1800, le=3000)] | None = None


class ExperienceFile(Document):
    """One experience file as written."""

    format: Literal[1]
    paper: PaperEntry
    entered_by: Text
    checked_by: str = ""
    tasks: tuple[TaskEntry, ...] = Field(strict=False)
    records: tuple[RecordEntry, ...] = Field(strict=False)

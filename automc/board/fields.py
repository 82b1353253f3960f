"""The documents that the board writes, as fields to fill in: what each is called, and how its text becomes a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from kg.curation import template
from kg.experience_file import Confidence
from kg.plain import plain_value
from kg.schema import Family, format_value

ANSWERS = {"yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class Field:
    """One value: where it is in the document or the row, its label, and how its text is read and written."""

    path: str
    """Names with dots between levels, such as "dataset.name"."""
    label: str
    read: Callable[[str], Any] = str
    """Raises ValueError or KGError, with a sentence, or returns None for what is left out."""
    write: Callable[[Any], str] = str
    needed: bool = False
    example: str = ""
    choices: tuple[str, ...] = ()
    width: int = 12
    """Of its input, in characters."""


@dataclass(frozen=True, slots=True)
class Part:
    """The document's own fields (its name is ""), or a list in it, whose entries are rows of one table."""

    name: str
    title: str
    fields: tuple[Field, ...]
    one: str = ""
    """What a row is called."""


def _plain(text: str) -> Any:
    try:
        return plain_value(text)
    except ValueError:
        raise ValueError(f"{text[:40]} is no finite number of at most 64 bits.") from None


def _number(text: str) -> int | float:
    value = _plain(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"'{text[:40]}' is not a number.")
    return value


def _grid(text: str) -> list[Any]:
    return [_plain(value.strip()) for value in text.split(",") if value.strip()]


def _grid_text(values: Any) -> str:
    return ", ".join(map(format_value, values))


def _settings_text(settings: Any) -> str:
    return ", ".join(f"{name}={format_value(value)}" for name, value in settings.items())


def _quantity_text(quantity: Any) -> str:
    return f"{quantity['value']:.15g}{quantity['unit'].removeprefix('1')}"


def _whole(path: str, label: str, *, needed: bool = False) -> Field:
    return Field(path, label, template.whole, needed=needed, width=8)


def _share(path: str, label: str) -> Field:
    return Field(path, label, _number, example="0.5", width=6)


def _count(path: str, label: str) -> Field:
    return Field(path, label, template.quantity, _quantity_text, example="0.27M", width=8)


FAMILIES = get_args(Family)

CARD = (
    Part("", "The method", (
        Field("method", "Name", needed=True, example="MyMethod", width=20),
        Field("title", "What it does, in a few words", needed=True, width=50),
        Field("citation", "Authors, title, where it appeared", needed=True, width=70),
        Field("url", "Address", example="https://arxiv.org/abs/…", width=40),
        Field("family", "Family", choices=FAMILIES),
        Field("default_grid", "Its grid is in every search", lambda text: ANSWERS.get(text, text),
              lambda value: "yes" if value else "no", choices=tuple(ANSWERS)),
    )),
    Part("techniques", "Techniques", (
        Field("id", "Id", needed=True, example="my-technique", width=24),
        Field("title", "Title, unless another card has it", width=50),
    ), "technique"),
    Part("hyperparameters", "Hyperparameters and their grid; none: the card is knowledge only", (
        Field("id", "Id", needed=True, example="HP2", width=8),
        Field("meaning", "Meaning", needed=True, width=36),
        Field("unit", "Unit", needed=True, width=24),
        Field("values", "Values, with commas", _grid, _grid_text, needed=True, example="0.1, 0.2", width=24),
        Field("words", "In words, {} for the value", width=16),
    ), "hyperparameter"),
)  # fmt: skip

RESULTS = (
    Part("", "The source", (
        Field("paper.id", "A short id for it", needed=True, example="he2018_sfp", width=24),
        Field("paper.title", "Title", needed=True, width=60),
        Field("paper.url", "Address", width=40),
        _whole("paper.year", "Year"),
        Field("entered_by", "Who entered this", needed=True, width=30),
    )),
    Part("tasks", "What was compressed: data and model before", (
        Field("id", "Id", needed=True, width=20),
        Field("dataset.name", "Data set", needed=True, example="cifar10"),
        _whole("dataset.classes", "Classes", needed=True),
        _whole("dataset.image_size", "Side of an image", needed=True),
        _whole("dataset.channels", "Channels", needed=True),
        _whole("dataset.images", "Training images", needed=True),
        Field("model", "Model", needed=True, example="ResNet-20"),
        _count("params", "Parameters"),
        _count("macs", "Multiply-adds"),
        _count("flops", "or FLOPs"),
        Field("top1_percent", "Accuracy before, %", template.percent, width=6),
        Field("source", "Where it says that", needed=True, example="Table 1", width=20),
    ), "model"),
    Part("records", "Rows of its tables", (
        Field("id", "Id", needed=True, width=20),
        Field("method", "Method", needed=True, example="NS"),
        Field("settings", "Settings that it states", template.settings, _settings_text,
              example="HP1=0.5, HP6=0.9", width=24),
        Field("task", "Model, by the id above", needed=True, width=20),
        Field("top1_percent", "Accuracy after, %", template.percent, width=6),
        _count("params", "Parameters after"),
        _share("published_ratio.ar", "or AR as printed"),
        _share("published_ratio.pr", "or PR as printed"),
        _share("published_ratio.fr", "FR as printed"),
        Field("table", "Table or figure", needed=True, example="Table 1", width=16),
        Field("source", "How it was read", needed=True, width=24),
        Field("confidence", "How sure", needed=True, choices=get_args(Confidence)),
        Field("family", "Family, if another", choices=FAMILIES),
        Field("weight_bits", "Bits of a weight", _number, width=6),
        Field("assumptions", "What had to be assumed", width=24),
    ), "row"),
)  # fmt: skip

"""The annotated template of an experience file, empty or filled with answers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from kg.errors import ExperienceInvalid, SchemaInvalid
from kg.experience_file import SCALES
from kg.schema import Strategy

Answers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that the template asks for."""

    name: str
    text: str
    read: Callable[[str], Any]
    """Turns the answer into a value; raises ExperienceInvalid."""
    needed: bool = True
    example: str = ""


def _text(answer: str) -> str:
    return answer


def _name(answer: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", answer):
        raise ExperienceInvalid(f"'{answer[:40]}' is not a name. Start with a letter; use letters, digits, - and _.")
    return answer


def whole(answer: str) -> int:
    """Read a whole number."""
    try:
        return int(answer.replace(",", ""))
    except ValueError:
        raise ExperienceInvalid(f"'{answer[:40]}' is not a whole number.") from None


def percent(answer: str) -> float:
    """Read a percentage, with or without its sign."""
    try:
        value = float(answer.removesuffix("%"))
    except ValueError:
        raise ExperienceInvalid(f"'{answer[:40]}' is not a number.") from None
    if not 0 <= value <= 100:
        raise ExperienceInvalid(f"{answer[:40]} does not lie between 0 and 100.")
    return value


def quantity(answer: str) -> dict[str, Any]:
    """Read a count such as 269722 or 0.27M, as experience files have it."""
    match = re.fullmatch(r"([\d.]+(?:e[+-]?\d+)?)\s*([kMG]?)", answer.replace(",", ""))
    try:
        value = float(match[1]) if match else 0.0
    except ValueError:
        value = 0.0
    if match is None or not 0 < value < math.inf:
        raise ExperienceInvalid(f"'{answer[:40]}' is not a count. Write it like 269722 or 0.27M ({', '.join(SCALES)}).")
    return {"value": int(value) if value.is_integer() else value, "unit": match[2] or "1"}


def settings(answer: str) -> dict[str, Any]:
    """Read settings such as HP1=0.5, HP6=0.9."""
    try:
        return dict(Strategy.parse(f"X[{answer}]").settings)
    except SchemaInvalid:
        raise ExperienceInvalid(f"'{answer[:40]}' are not settings. Write them like HP1=0.5, HP6=0.9.") from None


QUESTIONS = (
    Question("title", "Title of the source", _text),
    Question("paper_id", "A short id for it", _name, example="he2018_sfp"),
    Question("url", "Its address", _text, needed=False),
    Question("year", "Its year", whole, needed=False),
    Question("entered_by", "Who enters this", _text),
    Question("dataset", "Data set", _text, example="cifar10"),
    Question("classes", "Classes of the data set", whole),
    Question("image_size", "Side of an image, in pixels", whole),
    Question("channels", "Channels of an image", whole),
    Question("images", "Images of the training set", whole),
    Question("model", "Model that was compressed", _text, example="ResNet-20"),
    Question("params", "Its parameters", quantity, needed=False, example="0.27M"),
    Question("macs", "Its multiply-adds for one image", quantity, needed=False, example="40.6M"),
    Question("baseline", "Its accuracy before, in percent", percent, needed=False),
    Question("task_source", "Where the source says that", _text, example="Table 1"),
    Question("method", "Method", _name, example="NS"),
    Question("settings", "Settings that the source states", settings, needed=False, example="HP1=0.5, HP6=0.9"),
    Question("top1", "Accuracy after, in percent", percent, needed=False),
    Question("after", "Parameters after", quantity, needed=False, example="135k"),
    Question("table", "Table or figure with this result", _text, example="Table 1"),
    Question("record_source", "How it was read", _text, example="the paper's PDF, page 5"),
    Question("confidence", "How sure the figures are", _text, example="verified-one-source"),
)
"""In the order in which a person is asked."""


def fill(answers: Answers) -> str:
    """Return the template with answers in their places; what was not answered stays empty.

    Raises:
        ExperienceInvalid: an answer cannot be understood.
    """
    values: dict[str, str] = {}
    for question in QUESTIONS:
        answer = answers.get(question.name, "").strip()
        if answer:
            value = question.read(answer)
        else:
            value = "" if question.read in (_text, _name) else {} if question.read is settings else None
        values[question.name] = _yaml(value)
    paper = answers.get("paper_id", "").strip()
    names = (answers.get("model", ""), answers.get("dataset", ""))
    task = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", name.strip()).lower() for name in names if name.strip())
    values["task_id"] = _yaml(f"{paper}_{task}" if paper and task else "")
    values["record_id"] = _yaml(f"{paper}_001" if paper else "")
    text = Path(__file__).with_name("experience_template.yaml").read_text(encoding="utf-8")
    return Template(text).substitute(values)


def _yaml(value: Any) -> str:
    """A value on one line; JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)

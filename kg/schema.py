"""The vocabulary of AutoMC: what a strategy, a scheme, a task and an experience are, and how they are written.

Labels are CamelCase and relationship types UPPER_CASE: the embedded store keeps both in one namespace.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from kg.errors import SchemaInvalid

Value = int | float | str
"""One value of a hyperparameter: a number, or the name of a category."""

LABELS = (
    "Strategy", "Method", "Hyperparameter", "Setting", "Technique", "Paper", "Task", "Experience",
    "Scheme", "Study", "Trial", "Replay", "LayerTable", "TrialTable", "EmbeddingRun", "Migration",
    "Sync",
)  # fmt: skip
RELATIONSHIPS = (
    "OF_METHOD", "HAS_SETTING", "HAS_HYPERPARAMETER", "USES_TECHNIQUE", "HAS_VALUE", "NEXT_VALUE",
    "OF_STRATEGY", "ON_TASK", "REPORTED_IN", "OBSERVED_IN", "STEP", "EXTENDS", "OF_SCHEME", "IN_STUDY", "REPLAYS",
    "HAS_LAYERS", "HAS_TRIALS",
)  # fmt: skip

Status = Literal["ok", "infeasible", "diverged", "crashed", "timeout", "out_of_memory"]
"""The fate of a trial."""
STATUSES: tuple[Status, ...] = ("ok", "infeasible", "diverged", "crashed", "timeout", "out_of_memory")

MAX_VALUE = 1e9
"""The largest number that a hyperparameter may have."""

Family = Literal[
    "structured pruning", "unstructured pruning", "semi-structured pruning", "low rank", "distillation",
    "quantisation after training", "quantisation in training", "weight sharing", "sparse training",
    "slimmable networks", "token reduction", "pruning and quantisation", "pruning and distillation",
    "distillation and quantisation", "other",
]  # fmt: skip
"""What a method takes away: what is comparable with what."""
TEACHING_FAMILIES: tuple[Family, ...] = ("structured pruning", "low rank")
"""The families of AutoMC's own methods: only what these lose by size says what ours will."""

START = "START"
"""Id of the empty scheme."""
ARROW = " -> "

_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,99}"
_CATEGORY = re.compile(_NAME)
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,4})?")
_STRATEGY = re.compile(rf"({_NAME})\[([^\[\]]*)\]")


def format_value(value: Value) -> str:
    """Print a value so that `parse_value` reads the same value back.

    Numbers print in their shortest form; an integral float prints as an integer, because 1 and 1.0 are one setting.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return repr(value)


def parse_value(text: str) -> Value:
    """Read a value: an integer, else a float, else a category.

    Raises:
        SchemaInvalid: it is none of them, or a number above MAX_VALUE.
    """
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        if not _CATEGORY.fullmatch(text) or text.lower() in ("nan", "inf", "infinity"):
            raise SchemaInvalid(f"'{text[:40]}' is not a value: expected a number or a name such as l2_bn.")
        return text
    value = float(text)
    if not abs(value) <= MAX_VALUE:
        raise SchemaInvalid(f"{text[:40]} is too large for a value of a hyperparameter.")
    return int(text) if text.lstrip("+-").isdigit() else value


def setting_id(hyperparameter: str, value: Value) -> str:
    """Id of a Setting node, such as "HP1=0.2"."""
    return f"{hyperparameter}={format_value(value)}"


@lru_cache(maxsize=1024)
def hyperparameter_order(name: str) -> tuple[int, str]:
    """Sort key that puts HP2 before HP10."""
    digits = re.search(r"\d+", name)
    return (int(digits.group()) if digits else 0, name)


@dataclass(frozen=True, slots=True)
class Strategy:
    """A method with values for its hyperparameters; only the known ones when it comes from a paper.

    Settings are kept in hyperparameter order, so equal strategies are equal objects with equal ids.
    """

    method: str
    settings: tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.settings, key=lambda item: hyperparameter_order(item[0])))
        names = [name for name, _ in ordered]
        if len(set(names)) != len(names):
            raise SchemaInvalid(f"Strategy of {self.method} sets a hyperparameter twice: {', '.join(names)}.")
        normal = tuple((n, int(v) if isinstance(v, float) and v.is_integer() else v) for n, v in ordered)
        object.__setattr__(self, "settings", normal)

    @property
    def id(self) -> str:
        """Id such as "LeGR[HP1=0.2,HP2=0.12]"."""
        return f"{self.method}[{','.join(setting_id(name, value) for name, value in self.settings)}]"

    def get(self, hyperparameter: str) -> Value | None:
        """Return the value of a hyperparameter, None where it is unknown."""
        return dict(self.settings).get(hyperparameter)

    def number(self, hyperparameter: str) -> float:
        """Return the value of a numeric hyperparameter.

        Raises:
            SchemaInvalid: it is missing or a category.
        """
        value = self.get(hyperparameter)
        if value is None or isinstance(value, str):
            raise SchemaInvalid(f"{self.id}: {hyperparameter} must be a number, it is {value!r}.")
        return float(value)

    @property
    def removal(self) -> float:
        """Share of the original parameters that the step plans to remove: HP2, 0 for a method without it."""
        return 0.0 if self.get("HP2") is None else self.number("HP2")

    @property
    def training(self) -> float:
        """How long it trains what it leaves, in multiples of E0: HP1, or HP9; 0 for a method with neither."""
        return next((self.number(name) for name in ("HP1", "HP9") if self.get(name) is not None), 0.0)

    @classmethod
    @lru_cache(maxsize=16_384)  # a study reads the same thousands of ids again and again
    def parse(cls, text: str) -> Strategy:
        """Read a strategy from its id.

        Raises:
            SchemaInvalid: the text is not METHOD[HP=value,…].
        """
        match = _STRATEGY.fullmatch(text.strip())
        if match is None:
            shown = text.strip()[:80]
            raise SchemaInvalid(f"'{shown}' is not a strategy. Write it like NS[HP1=0.2,HP2=0.12,HP6=0.9].")
        settings = []
        for item in filter(None, (part.strip() for part in match.group(2).split(","))):
            name, equals, value = item.partition("=")
            if not equals or not re.fullmatch(_NAME, name.strip()):
                shown = text.strip()[:80]
                raise SchemaInvalid(f"'{item[:40]}' in '{shown}' is not a setting. Write it like HP2=0.12.")
            settings.append((name.strip(), parse_value(value)))
        return cls(match.group(1), tuple(settings))


LEVELS = 3
"""Thirds of its full length that a scheme can be executed at, see `Scheme.level`."""
_LEVEL = re.compile(rf" @([1-{LEVELS}])/{LEVELS}\s*$")


@dataclass(frozen=True, slots=True)
class Scheme:
    """A sequence of strategies, run one after another; the empty one is START."""

    steps: tuple[Strategy, ...] = ()
    level: int = 0
    """Thirds of the full length that its last step was trained for, in pieces; the steps before it for one.

    0: all steps at full length, in one go each. What was measured at different levels does not compare.
    """

    @property
    def id(self) -> str:
        """Ids of the steps joined by arrows, with the level where there is one; or "START"."""
        level = f" @{self.level}/{LEVELS}" if self.level else ""
        return (ARROW.join(step.id for step in self.steps) or START) + level

    @property
    def parent(self) -> Scheme:
        """The scheme without its last step."""
        return self.begin(len(self.steps) - 1)

    @property
    def full(self) -> Scheme:
        """The same at full length."""
        return Scheme(self.steps)

    def at(self, level: int) -> Scheme:
        """The same at a level; START has none."""
        return Scheme(self.steps, level if self.steps else 0)

    def begin(self, length: int) -> Scheme:
        """Its first steps, as it went on from them."""
        return Scheme(self.steps[: max(0, length)]).at(min(self.level, 1))

    @property
    def before(self) -> Scheme:
        """What must have been executed before it: the same at the level below, or the scheme without its last step."""
        return self.at(self.level - 1) if self.level > 1 else self.parent

    @property
    def beginnings(self) -> tuple[Scheme, ...]:
        """All that must be executed for it, in order, itself the last one."""
        lower = [self.at(level) for level in range(1, self.level)]
        return (*(self.begin(length) for length in range(1, len(self.steps))), *lower, self) if self.steps else ()

    def then(self, strategy: Strategy) -> Scheme:
        """The scheme with one more step."""
        return Scheme((*self.steps, strategy), min(self.level, 1))

    def __len__(self) -> int:
        return len(self.steps)

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """Read a scheme: strategies on lines of their own or joined by arrows; # starts a comment.

        Raises:
            SchemaInvalid: a line is no strategy; the message carries its number.
        """
        steps: list[Strategy] = []
        level = _LEVEL.search(text)
        for number, line in enumerate(_LEVEL.sub("", text).splitlines(), 1):
            for part in line.partition("#")[0].split("->"):
                if not part.strip() or part.strip() == START:
                    continue
                try:
                    steps.append(Strategy.parse(part))
                except SchemaInvalid as error:
                    raise SchemaInvalid(f"line {number}: {error}") from None
        return cls(tuple(steps)).at(int(level[1]) if level else 0)


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """A knob of methods: what it means, its unit, and the values on a card's grid."""

    id: str
    meaning: str
    unit: str
    values: tuple[Value, ...]
    words: str = field(default="", compare=False)
    """A setting of it in a few words, with {} for the value: see `kg.words`. Not kept in the graph."""


@dataclass(frozen=True, slots=True)
class Technique:
    """What a method is made of."""

    id: str
    title: str


@dataclass(frozen=True, slots=True)
class Method:
    """A method card. Without hyperparameters it is knowledge only: embedded and explained, never searched.

    Off the `default_grid` its strategies are in a search only where the method is named.
    """

    id: str
    title: str
    citation: str
    techniques: tuple[Technique, ...]
    hyperparameters: tuple[Hyperparameter, ...] = ()
    label: str = ""
    url: str = ""
    default_grid: bool = True
    family: Family | None = None


TASK_FEATURES = ("classes", "image_size", "channels", "images", "params", "flops", "accuracy")
"""The order of the seven task features everywhere."""


@dataclass(frozen=True, slots=True)
class Task:
    """Dataset features and model features: what a strategy was applied to.

    Units: `image_size` side in pixels, `images` in the training split, `flops` are 2 × MACs of one
    image, `accuracy` in [0, 1]. None where unknown.
    """

    id: str
    dataset: str
    model: str
    classes: float | None = None
    image_size: float | None = None
    channels: float | None = None
    images: float | None = None
    params: float | None = None
    flops: float | None = None
    accuracy: float | None = None

    @property
    def features(self) -> tuple[float | None, ...]:
        """The seven features in the order of TASK_FEATURES, raw."""
        return tuple(getattr(self, name) for name in TASK_FEATURES)


@dataclass(frozen=True, slots=True)
class Paper:
    """A published source."""

    id: str
    title: str
    url: str = ""
    year: int | None = None


@dataclass(frozen=True, slots=True)
class Experience:
    """What one strategy did to one task. `ar`, `pr`, `fr`, `sr` are relative to the strategy's input model.

    `strategy` carries the known settings only. `pr_derived`: PR was computed by us from the source's
    settings. `source` is a paper's id or a study's id, as `origin` says; `n` repeats were averaged.
    `sr` is the share of the stored bits that went: PR for floats, more for quantisers; None where unknown.

    What AutoMC itself executed says with which `code` (a commit or a version of the package), `seed`, training
    `iterations` and `train_images`; papers mostly do not. `not_taught` is why AR is kept as knowledge but teaches
    nothing, such as a fault of the implementation that was measured; "" where it teaches.

    `family` is what was done, mostly that of the method. A quantised result says in how many bits its weights and
    activations are, the mean where they differ; a distilled one whose student it is. A `quoted` one was printed by
    others than who measured it, beside their own.
    """

    id: str
    strategy: Strategy
    task: Task
    source: str
    origin: Literal["paper", "trial"] = "paper"
    ar: float | None = None
    pr: float | None = None
    fr: float | None = None
    sr: float | None = None
    pr_derived: bool = False
    n: int = 1
    table: str = ""
    confidence: str = ""
    note: str = ""
    iterations: int | None = None
    train_images: int | None = None
    code: str = ""
    seed: int | None = None
    not_taught: str = ""
    family: Family | None = None
    weight_bits: float | None = None
    activation_bits: float | None = None
    teacher: str = ""
    quoted: bool = False
    details: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def quantised(self) -> bool:
        """Whether bits went that were not those of removed parameters."""
        return self.sr is not None and (self.pr is None or abs(self.sr - self.pr) > 1e-9)

    @property
    def idle(self) -> bool:
        """Whether it teaches nothing at all: not AR, and with no setting known its PR says nothing of a strategy."""
        return bool(self.not_taught) and not self.strategy.settings

    @property
    def own(self) -> bool:
        """Whether AutoMC's own methods were measured."""
        return self.origin == "trial" or bool(self.code)

    @property
    def mark(self) -> str:
        """All that embeddings learn from it, as text: another text where a correction changed that."""
        features = ["" if value is None else f"{value:.9g}" for value in (*self.task.features, self.ar, self.pr)]
        length = ["" if value is None else str(value) for value in (self.iterations, self.train_images)]
        taught = ("not taught",) if self.not_taught else ()
        return "|".join((self.id, self.source, self.strategy.id, *features, *length, *taught))

"""The recipe: how every step of a study is executed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from automc.bounds import check
from automc.errors import StudyError
from automc.training.own import OwnCode, own_code

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How steps are executed; part of the prefix cache's key, so two equal recipes share one cache.

    Lengths of steps are iterations: `iterations(hp, n_train)`.
    """

    unit_epochs: float = 10.0
    """E0: the epochs that HP1 = 1 stands for; never read from a checkpoint."""
    batch: int = 128
    lr: float = 0.01
    """Peak learning rate of a step's phase; cosine to 0."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: Precision = "float32"
    """Of training only: reported accuracies are always float32."""
    fraction: float = 1.0
    """Share of the full training set that steps train on."""
    round_to: int = 1
    """Channel counts are kept multiples of this where a method prunes channels."""
    recalibration_images: int = 2000
    """Training images from which batch-norm statistics are estimated anew after a change of structure."""
    teacher: float = 0.0
    """Weight w of the original model in every step's training: (1 − w)·loss + w·KL to its outputs."""
    sparsity: float = 0.0
    """Share of its fine-tuning that NS spends on an L1 penalty before it prunes; 0 ranks the scales as they are."""
    loss: OwnCode | None = None
    """The user's loss in place of cross-entropy, see `training.own`."""
    metric: OwnCode | None = None
    """The user's metric in place of top-1 accuracy."""

    def __post_init__(self) -> None:
        for name in ("loss", "metric"):
            given = getattr(self, name)
            # A recipe that was read from JSON has plain values.
            own = OwnCode(**given) if isinstance(given, dict) else own_code(given, name)
            object.__setattr__(self, name, own)
        for option, value in (
            ("--unit-epochs", self.unit_epochs), ("--batch", self.batch), ("--lr", self.lr),
            ("--momentum", self.momentum), ("--weight-decay", self.weight_decay), ("--fraction", self.fraction),
            ("--round-to", self.round_to), ("--recalibrate", self.recalibration_images),
            ("--teacher", self.teacher), ("--sparsity", self.sparsity),
        ):  # fmt: skip
            check(option, value, StudyError)
        if self.precision not in get_args(Precision):
            raise StudyError(
                f"The precision must be one of {', '.join(get_args(Precision))}, it is {self.precision!r}."
            )

    def batch_size(self, n_train: int) -> int:
        """Images in a batch: `batch`, or all of them when there are fewer."""
        return min(self.batch, n_train)

    def iterations(self, epochs: float, n_train: int) -> int:
        """Iterations for `epochs` × E0 epochs of `n_train` images, at least 1 (METHODS: lengths are iterations)."""
        return max(1, round(epochs * self.unit_epochs * n_train / self.batch_size(n_train)))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for keys, the graph and artefacts; without a loss and a metric where they are the usual."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def figure(self) -> str:
        """What measures how good a model is, for people: "accuracy", or the metric's name."""
        return self.metric.name if self.metric else "accuracy"

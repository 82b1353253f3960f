"""How data are asked for, as plain values: nothing is opened, and torch is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from automc.bounds import Size, check, sides
from automc.errors import DataError

Augment = Literal["none", "crop", "crop-flip"]
AUGMENTS: tuple[Augment, ...] = ("none", "crop", "crop-flip")


@dataclass(frozen=True, slots=True)
class DataRef:
    """How the user named the data; plain values, so it travels to workers and into artefacts.

    Args:
        spec: a registered name, an image folder, or `file.py:factory`.
        root: folder with the files of a named data set.
        download: fetch missing files of a named data set.
        mean: per-channel mean of pixels in [0, 1]; None: computed from the training images.
        std: likewise, the standard deviation.
        size: images of a folder are resized to this: the side of a square in pixels, or (height, width).
        classes: class names in the order of the model's outputs; labels follow.
        augment: None: chosen by the size of the images.
        val: image folder that replaces the validation split.
    """

    spec: str
    root: str | None = None
    download: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: Size | None = None
    classes: tuple[str, ...] | None = None
    augment: Augment | None = None
    val: str | None = None

    def __post_init__(self) -> None:
        if not self.spec.strip():
            raise DataError("--data is empty. Name a data set, an image folder, or file.py:factory.")
        if (self.mean is None) != (self.std is None):
            raise DataError("--mean and --std go together: give both or neither.")
        for option, values in (("--mean", self.mean), ("--std", self.std)):
            for value in values or ():
                check(option, value, DataError)
        if self.size is not None:
            sides(self.size, DataError)
        if self.classes is not None:
            names = [name.strip() for name in self.classes]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice or not all(names) or not names:
                wrong = (
                    f"{twice[0]!r} is there twice" if twice and twice[0] else "a name is empty" if names else "no name"
                )
                raise DataError(f"--classes: {wrong}. Name every class exactly once.")
        if self.augment is not None and self.augment not in AUGMENTS:
            raise DataError(f"--augment must be one of {', '.join(AUGMENTS)}, it is {self.augment!r}.")

    def normalised_by(self, recorded: tuple[Sequence[float], Sequence[float]] | None) -> DataRef:
        """This reference with a model's recorded (mean, std) where the user gave none."""
        if self.mean is not None or recorded is None:
            return self
        return replace(self, mean=tuple(map(float, recorded[0])), std=tuple(map(float, recorded[1])))

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `DataRef.from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataRef:
        """Read what `as_dict` wrote, also after a trip through JSON."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

"""Options that several commands share, and how they become one DataRef or Recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from automc.errors import DataError

if TYPE_CHECKING:
    from automc.datasets import DataRef
    from automc.training.recipe import Recipe

Model = Annotated[
    str, typer.Argument(help="A zoo name, file.py:factory, torchvision:NAME, or a saved .am.", show_default=False)
]
Data = Annotated[
    str, typer.Option("--data", help="A data set's name, an image folder, or file.py:factory.", show_default=False)
]
Weights = Annotated[Path | None, typer.Option("--weights", help="Checkpoint to load into the model.")]
Root = Annotated[Path | None, typer.Option("--root", help="Folder with the files of a named data set.")]
Download = Annotated[
    bool, typer.Option("--download", help="Fetch the files of a named data set where they are missing.")
]
Mean = Annotated[
    str | None, typer.Option("--mean", help="Mean per channel of pixels in [0, 1], such as 0.49,0.48,0.45.")
]
Std = Annotated[str | None, typer.Option("--std", help="Standard deviation per channel, likewise.")]
Size = Annotated[int | None, typer.Option("--size", help="Resize images of a folder to this side, in pixels.")]
Classes = Annotated[
    str | None, typer.Option("--classes", help="Class names in the order of the model's outputs: a,b,c or a file.")
]
Augment = Annotated[str | None, typer.Option("--augment", help="none, crop or crop-flip; default by image size.")]
Val = Annotated[Path | None, typer.Option("--val", help="Image folder that replaces the validation split.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda:0.")]
Fraction = Annotated[float, typer.Option("--fraction", help="Share of the training images that steps train on.")]
UnitEpochs = Annotated[float, typer.Option("--unit-epochs", help="Epochs that a length of 1 stands for (E0).")]
Precision = Annotated[str, typer.Option("--precision", help="auto (timed once per device), float32 or bfloat16.")]
Batch = Annotated[int, typer.Option("--batch", help="Images in a training batch.")]
LearningRate = Annotated[float, typer.Option("--lr", help="Peak learning rate of a step.")]
RoundTo = Annotated[int, typer.Option("--round-to", help="Keep channel counts multiples of this.")]
Sparsity = Annotated[float, typer.Option("--sparsity", help="Share of its training that NS spends on an L1 penalty.")]
Keep = Annotated[list[str] | None, typer.Option("--keep", help="Pattern of layers that are never touched; repeatable.")]


def data_ref(
    data: str, root: Path | None, download: bool, mean: str | None, std: str | None, size: int | None,
    classes: str | None, augment: str | None, val: Path | None,
) -> DataRef:  # fmt: skip
    """Return what the data options say.

    Raises:
        DataError: one of them cannot be read.
    """
    from automc.datasets import DataRef

    return DataRef(
        data, str(root) if root else None, download, _numbers("--mean", mean), _numbers("--std", std), size,
        _names(classes), augment, str(val) if val else None,  # type: ignore[arg-type]
    )  # fmt: skip


def recipe_of(fraction: float, unit_epochs: float, batch: int, lr: float, round_to: int, sparsity: float) -> Recipe:
    """Return what the recipe options say; the precision is settled later."""
    from automc.training.recipe import Recipe

    return Recipe(unit_epochs=unit_epochs, batch=batch, lr=lr, fraction=fraction, round_to=round_to, sparsity=sparsity)


def check_precision(text: str) -> str:
    """Return the precision asked for.

    Raises:
        DataError: it is none.
    """
    if text not in ("auto", "float32", "bfloat16"):
        raise DataError(f"--precision must be auto, float32 or bfloat16, it is {text!r}.")
    return text


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise DataError(
            f"{flag} {text!r} is not a list of numbers. Write one per channel, such as 0.49,0.48,0.45."
        ) from None


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    file = Path(text)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else text.split(",")
    return tuple(name.strip() for name in lines if name.strip())

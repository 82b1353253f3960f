"""Options that several commands share, and how they become one DataRef or Recipe."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from automc.bounds import Size, check, check_precision
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
Augment = Annotated[str | None, typer.Option("--augment", help="none, crop or crop-flip; default by image size.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda:0.")]
Precision = Annotated[
    str, typer.Option("--precision", help="auto (timed once per device and model), float32 or bfloat16.")
]
Batch = Annotated[int, typer.Option("--batch", help="Images in a training batch.")]
Force = Annotated[bool, typer.Option("--force", help="Replace whatever file --out names.")]
Keep = Annotated[
    list[str] | None, typer.Option("--keep", help="Pattern of layers that are neither cut nor trained; repeatable.")
]
KeepShape = Annotated[
    list[str] | None, typer.Option("--keep-shape", help="Pattern of layers that are not cut, but trained; repeatable.")
]
TrainFrozen = Annotated[
    bool, typer.Option("--train-frozen", help="Treat parameters that the model's factory froze like all others.")
]
Loss = Annotated[
    str | None,
    typer.Option(
        "--loss",
        help="file.py:name of (outputs, labels), or of (model, images, labels), in place of cross-entropy.",
        show_default=False,
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="file.py:name of (outputs, labels), a number in [0, 1], higher is better, in place of accuracy.",
        show_default=False,
    ),
]
TeacherModel = Annotated[
    str | None, typer.Option("--teacher-model", help="Another model as the teacher, in steps and recovery.")
]
TeacherWeights = Annotated[Path | None, typer.Option("--teacher-weights", help="Checkpoint to load into the teacher.")]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic", help="On a GPU, use only kernels that give the same bits each time: slower; a CPU's do."
    ),
]
RunSeed = Annotated[int, typer.Option("--run-seed", help="Seed of the executed steps.")]


@dataclass(frozen=True)
class DataOptions:
    """How data are read, whatever they are."""

    root: Annotated[Path | None, typer.Option("--root", help="Folder with the files of a named data set.")] = None
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the files of a named data set where they are missing.")
    ] = False
    mean: Annotated[
        str | None, typer.Option("--mean", help="Mean per channel of pixels in [0, 1], such as 0.49,0.48,0.45.")
    ] = None
    std: Annotated[str | None, typer.Option("--std", help="Standard deviation per channel, likewise.")] = None
    size: Annotated[
        str | None,
        typer.Option("--size", help="Resize images of a folder to this side in pixels, or to HEIGHTxWIDTH."),
    ] = None
    classes: Annotated[
        str | None, typer.Option("--classes", help="Class names in the order of the model's outputs: a,b,c or a file.")
    ] = None
    val: Annotated[Path | None, typer.Option("--val", help="Image folder that replaces the validation split.")] = None

    def unused_without_data(self) -> None:
        """Refuse options that say how data are read, where there are none; `size` is of use without.

        Raises:
            DataError: names one of them.
        """
        for option in fields(self):
            if option.name != "size" and getattr(self, option.name) not in (None, False):
                raise DataError(f"--{option.name} says how data are read. Name the data with --data, or leave it out.")

    def ref(self, data: str, augment: str | None = None) -> DataRef:
        """Return what the options say of `data`.

        Raises:
            DataError: one of them cannot be read.
        """
        from automc.datasets import DataRef

        return DataRef(
            data, str(self.root) if self.root else None, self.download, _numbers("--mean", self.mean),
            _numbers("--std", self.std), image_size(self.size), _names(self.classes), augment,  # type: ignore[arg-type]
            str(self.val) if self.val else None,
        )  # fmt: skip


@dataclass(frozen=True)
class TargetOptions:
    """What the smaller model must meet, all together."""

    gamma: Annotated[
        float | None,
        typer.Option(
            "--gamma",
            help="Share of the parameters to remove, in (0, 0.84].",
            show_default="0.3 where nothing else is asked for",
        ),
    ] = None
    gamma_of: Annotated[
        str,
        typer.Option(
            "--gamma-of",
            help="What --gamma is a share of: params, or size, the bits in which they are stored (then up to 0.99, and "
            "the search has quantisers).",
        ),
    ] = "params"
    max_flops: Annotated[
        str | None, typer.Option("--max-flops", help="At most so many FLOPs: 40% of the model's, or 20M.")
    ] = None
    max_size: Annotated[
        str | None, typer.Option("--max-size", help="Saved file at most so large: 50% of the model's, or 500KB.")
    ] = None
    max_latency: Annotated[
        str | None,
        typer.Option("--max-latency", help="One image at most so slow on this device: 60% of the model's, or 3ms."),
    ] = None
    max_drop: Annotated[
        str | None,
        typer.Option(
            "--max-drop", help="Recommend the smallest model that loses at most so much validation accuracy: 0.5pp."
        ),
    ] = None

    def asked(self) -> dict[str, Any]:
        """Return them as fields of a study's spec.

        Raises:
            StudyError: one of them cannot be read.
        """
        from automc.study.limits import asked

        return asked(self.gamma, self.max_flops, self.max_size, self.max_latency, self.max_drop, self.gamma_of)


@dataclass(frozen=True)
class RecipeOptions:
    """How steps are executed; the precision is settled once the device is known."""

    fraction: Annotated[float, typer.Option("--fraction", help="Share of the training images that steps train on.")] = (
        1.0
    )
    unit_epochs: Annotated[float, typer.Option("--unit-epochs", help="Epochs that a length of 1 stands for (E0).")] = (
        10.0
    )
    precision: Precision = "auto"
    batch: Batch = 128
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate of a step.")] = 0.01
    teacher: Annotated[
        float,
        typer.Option("--teacher", help="Weight of the original model's outputs in every training loss, in [0, 1)."),
    ] = 0.0
    recalibrate: Annotated[
        int, typer.Option("--recalibrate", help="Images for new batch-norm statistics after a change of structure.")
    ] = 2000
    round_to: Annotated[
        str,
        typer.Option(
            "--round-to", help="Keep channel counts multiples of this; auto: of what is fast here, timed once."
        ),
    ] = "1"
    runtime: Annotated[
        str, typer.Option("--runtime", help="What will run the smaller model, and times it: torch or onnx.")
    ] = "torch"
    sparsity: Annotated[
        float, typer.Option("--sparsity", help="Share of its training that NS spends on an L1 penalty.")
    ] = 0.0
    loss: Loss = None
    metric: Metric = None

    def recipe(self) -> Recipe:
        """Return the recipe, in float32 until the precision is settled."""
        from automc.training.own import own_code
        from automc.training.recipe import Recipe

        check_precision(self.precision)
        return Recipe(
            unit_epochs=self.unit_epochs, batch=self.batch, lr=self.lr, fraction=self.fraction, teacher=self.teacher,
            recalibration_images=self.recalibrate, round_to=self._multiple(), sparsity=self.sparsity,
            loss=own_code(self.loss, "loss"), metric=own_code(self.metric, "metric"),
        )  # fmt: skip

    @property
    def auto_widths(self) -> bool:
        """Whether `round_to` is to be what pays in the runtime."""
        return self.round_to.strip().lower() == "auto"

    def _multiple(self) -> int:
        from automc.errors import StudyError

        if self.auto_widths:
            return 1
        try:
            return int(self.round_to)
        except ValueError:
            raise StudyError(f"--round-to must be auto, or a whole number, it is {self.round_to!r}.") from None


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take a dataclass above as one parameter: its fields become options of the command line."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if kind in (DataOptions, RecipeOptions, TargetOptions)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))
            continue
        annotations = get_type_hints(groups[name], include_extras=True)
        parameters += [
            inspect.Parameter(f.name, parameter.KEYWORD_ONLY, default=f.default, annotation=annotations[f.name])
            for f in fields(groups[name])
        ]

    @functools.wraps(command)
    def run(**options: Any) -> None:
        given = {name: kind(**{f.name: options.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}
        command(**options, **given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def image_size(text: str | None) -> Size | None:
    """Return the size that `--size` names: 224, or HEIGHTxWIDTH.

    Raises:
        DataError: it is none.
    """
    if text is None:
        return None
    try:
        found = [int(part) for part in text.lower().replace("×", "x").split("x")]
    except ValueError:
        found = []
    if len(found) not in (1, 2):
        raise DataError(
            f"--size {text!r} is not understood. Write the side of square images in pixels, such as 224, or "
            "HEIGHTxWIDTH, such as 64x320."
        )
    for side in found:
        check("--size", side, DataError)
    return found[0] if len(set(found)) == 1 else (found[0], found[1])


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
    from automc.datasets.folder import read_classes

    return read_classes(text)

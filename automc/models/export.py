"""Models for other runtimes: ONNX and `torch.export`, each compared with the PyTorch model before it is written."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from automc.errors import EnvironmentFault, ModelError
from automc.files import write_atomically
from automc.models.load import output_classes, prepare
from automc.models.modes import quiet, unheard
from automc.models.onnx_weights import INT4_OPSET, Stored, has_int4, needs_int4, slim, store
from automc.models.outputs import Scores, alone, logits, place, scores
from automc.models.zoo.registry import Normalisation

Kind = Literal["onnx", "torch"]
KINDS: tuple[Kind, ...] = ("onnx", "torch")
Runner = Callable[[Tensor], Tensor]

TOLERANCE = 1e-4
NUDGE = 1e-5
"""Far less than a grey level of a normalised image: what it changes, rounding may change."""
BATCHES = (1, 2, 7)
"""Batch sizes on which an export for any batch is compared; one for a fixed batch is compared three times."""
CAPTURED = 2
"""Batch size a graph for any batch is captured with: a graph of 1 image may hold only for 1."""
MADE_BY = "automc export"
"""Stands in every file, so that a later run may replace it."""

LIMIT_BYTES = 2**31 - 2**20
"""Weights that fit into one ONNX file beside its graph: protobuf ends at 2 GiB."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that gives the model's logits."""

    path: Path
    kind: Kind
    opset: int | None
    """ONNX operator set; None for torch."""
    images: tuple[int | str, int, int, int]
    """Shape of the input (n, c, h, w), normalised float32; n is "batch" where it is free."""
    classes: int
    batches: tuple[int, ...]
    """Batch sizes that were compared."""
    max_error: float
    """Largest absolute difference of a logit that was found."""
    limit: float
    """Largest that was allowed."""
    file_bytes: int
    stored: Stored
    """Weights that the file holds as integers."""


def export(
    model: nn.Module, example: Tensor, path: Path, *, kind: Kind = "onnx", opset: int | None = None,
    dynamic_batch: bool = True, tolerance: float | None = None, normalisation: Normalisation | None = None,
) -> Exported:  # fmt: skip
    """Write a model for another runtime, once its logits were found to agree with PyTorch's; else write nothing.

    Both kinds hold the graph of the evaluation mode that `torch.export` captures; ONNX (one input `images`, one
    output `logits`) is translated from it and run with onnxruntime on the CPU. Compared are random images, uniform
    pixels normalised as the weights expect; see `compare`. The model is left as it was.

    Args:
        model: on the CPU.
        example: images of the size to export for (n, c, h, w), float32; only their shape counts.
        kind: "onnx", or "torch" for a `.pt2` that `torch.export.load` reads.
        opset: ONNX operator set; default the exporter's own.
        dynamic_batch: let the number of images be free; else it is 1.
        tolerance: of `compare`.

    Raises:
        ModelError: it is no classifier, cannot be captured or translated, the opset is not supported, or the logits
            differ.
        EnvironmentFault: packages are missing, or `path` cannot be written.
    """
    if kind == "torch" and opset is not None:
        raise ModelError(f"--opset {opset} is for ONNX; torch.export has no operator sets. Leave it out.")
    tools = onnx_tools(opset) if kind == "onnx" else None
    shape = tuple(example.shape[1:])
    # The copy's weights are contiguous: torch.export cannot save those of training, channels last, without a warning.
    two = torch.zeros(2, *shape)
    subject = alone(prepare(model, two).eval().to(memory_format=torch.contiguous_format), two)
    program = capture(subject, shape, dynamic_batch)
    if tools is None:
        content, written, stored = _torch_bytes(program), None, Stored()
        run = _torch_runner(content)
    else:
        content, written, stored = onnx_bytes(subject, program, opset, dynamic_batch)
        run = onnx_runner(tools, content)
    batches = BATCHES if dynamic_batch else (1,) * len(BATCHES)
    images = [_images(seed, n, shape, normalisation) for seed, n in enumerate(batches)]
    error, limit = compare(subject, run, images, tolerance)
    write_atomically(path, content)
    channels, height, width = shape
    return Exported(
        path, kind, written, ("batch" if dynamic_batch else 1, channels, height, width),
        output_classes(subject, images[0]), tuple(dict.fromkeys(batches)), error, limit, len(content), stored,
    )  # fmt: skip


def compare(model: nn.Module, run: Runner, batches: Sequence[Tensor], tolerance: float | None) -> tuple[float, float]:
    """Return the largest difference of a logit over all batches, and the largest allowed.

    Allowed is `tolerance` times the largest logit, 1 where that is smaller. By default this is 1e-4, or twice what a
    change of the images by 1e-5 makes, where that is more: a model with jumps, as between the pieces of an LMA, turns
    the rounding of its input into a difference of its output, in PyTorch as elsewhere.

    Raises:
        ModelError: the difference is larger, or the model's own logits are not finite, or random.
    """
    error, largest, unsteady = 0.0, 1.0, 0.0
    for images in batches:
        with torch.no_grad():
            expected, again = logits(model, images), logits(model, images)
        if not expected.isfinite().all():
            raise ModelError(
                "The model's own logits on random images are not finite numbers, so an export cannot be checked. "
                "Was it trained with these weights?"
            )
        if not torch.allclose(expected, again, rtol=0.0, atol=TOLERANCE * max(1.0, float(expected.abs().max()))):
            raise ModelError(
                "The model gives other logits for the same images: its evaluation is random, so no export can agree. "
                "Switch that off in evaluation mode (self.training)."
            )
        found = scores(run(images).detach(), len(images))
        if found.shape != expected.shape:
            raise ModelError(
                f"The exported model gives {tuple(found.shape)} for {len(images)} images, PyTorch "
                f"{tuple(expected.shape)}. Nothing was written."
            )
        # A difference that is not a number is not within any tolerance.
        error = max(error, float((found - expected).abs().nan_to_num(nan=math.inf).max()))
        largest = max(largest, float(expected.abs().max()))
        unsteady = max(unsteady, _unsteadiness(model, images, expected))
    limit = max(TOLERANCE * largest, 2 * unsteady) if tolerance is None else tolerance * largest
    if error > limit:
        raise ModelError(
            f"The exported model differs from PyTorch's by up to {error:.3g}, more than the {limit:.3g} allowed "
            f"(largest logit {largest:.3g}). Nothing was written. If that is acceptable, give a larger --tolerance."
        )
    return error, limit


def _unsteadiness(model: nn.Module, images: Tensor, expected: Tensor) -> float:
    """How much a logit changes when all pixels change a little."""
    generator = torch.Generator().manual_seed(0)
    nudged = [images + NUDGE * torch.randn(images.shape, generator=generator) for _ in range(4)]
    with torch.no_grad():
        return max(float((logits(model, x) - expected).abs().max()) for x in nudged)


def capture(model: nn.Module, shape: tuple[int, ...], dynamic_batch: bool) -> torch.export.ExportedProgram:
    """Capture the evaluation graph for images of this shape (c, h, w)."""
    images = torch.zeros(CAPTURED if dynamic_batch else 1, *shape)
    free = ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None
    try:
        with torch.no_grad(), quiet(), unheard():  # what it cannot follow it prints as a graph
            return torch.export.export(model, (images,), dynamic_shapes=free)
    except Exception as error:  # the user's forward pass runs here, and torch raises many kinds
        layer, line = place(model, error)
        where = "".join(f", {word} {found}" for word, found in (("in layer", layer), ("at", line)) if found)
        raise ModelError(
            f"The forward pass of {_named(model)} cannot be captured by torch.export{where}: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """Why a forward pass cannot become a graph, in our words where torch's are about itself."""
    said = _first_line(error)
    if "data-dependent" in said:
        return (
            "a branch, a loop or a shape depends on the values of the images, which no graph holds. Use torch.where, "
            f"or decide by shapes ({said.partition(' (unhinted')[0].rstrip('.')})."
        )
    if said.startswith("Constraints violated"):
        return (
            "it fixes the number of images, as len(x) does and x.shape[0] does not. Use --no-dynamic-batch for a file "
            "that takes one image."
        )
    if "numpy" in said:
        return f"it leaves torch for NumPy ({said.rstrip('.')}). Write that part with torch."
    return said


def _torch_bytes(program: torch.export.ExportedProgram) -> bytes:
    file = io.BytesIO()
    program.example_inputs = None  # they would be kept whole
    torch.export.save(program, file, extra_files={"made_by": MADE_BY})
    return file.getvalue()


def _torch_runner(content: bytes) -> Runner:
    return cast(Runner, torch.export.load(io.BytesIO(content)).module())


def onnx_tools(opset: int | None) -> ModuleType:
    """Return onnxruntime, once everything is there and the opset can be; None: the exporter's own.

    Raises:
        EnvironmentFault, ModelError: see `export`.
    """
    found: dict[str, Any] = {}
    missing = []
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            found[name] = import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise EnvironmentFault(
            f"Export to ONNX needs {', '.join(missing)}, which cannot be imported here. Install: "
            "pip install 'automc[export]'. Without them --format torch works."
        )
    newest = int(found["onnx"].defs.onnx_opset_version())
    if opset is not None and not 1 <= opset <= newest:
        raise ModelError(f"--opset {opset} does not exist: the installed onnx has 1 to {newest}.")
    return cast(ModuleType, found["onnxruntime"])


def onnx_bytes(
    model: nn.Module, program: torch.export.ExportedProgram, opset: int | None, dynamic_batch: bool, coded: bool = True
) -> tuple[bytes, int, Stored]:
    """Translate a captured graph; return the file's content, its opset, and which weights it holds as integers.

    Args:
        opset: None is the exporter's own, or the first with 4-bit integers where some layer has such weights.
        coded: hold the weights of quantised layers as integers.
    """
    if opset is None and coded and needs_int4(model):
        opset = INT4_OPSET
    weights = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    if weights > LIMIT_BYTES:
        raise ModelError(
            f"The weights take {weights / 2**30:.1f} GiB; one ONNX file holds less than 2 GiB. Use --format torch."
        )
    asked = "" if opset is None else f" with opset {opset}; without --opset the exporter chooses one"
    try:
        translated = cast(
            Any,
            torch.onnx.export(
                program, input_names=["images"], output_names=["logits"], opset_version=opset, verbose=False,
                dynamic_shapes=({0: "batch"},) if dynamic_batch else None,
            ),
        )  # fmt: skip
        written = int(translated.model.opset_imports[""])
        translated.model.metadata_props["made_by"] = MADE_BY
        proto = translated.model_proto
        slim(proto)
        stored = store(proto, model, written) if coded else Stored()
        content = bytes(proto.SerializeToString())
    except Exception as error:  # a conversion that torch does not know fails in many ways
        raise ModelError(f"{_named(model)} cannot be translated to ONNX{asked}: {_untranslated(error)}") from error
    if opset is not None and written != opset:
        raise ModelError(
            f"--opset {opset} is not supported for this model: the exporter arrives at opset {written}. Leave "
            "--opset out, or give a newer one."
        )
    return content, written, stored


def onnx_runner(runtime: Any, content: bytes, threads: int = 0) -> Runner:
    """Return what runs an ONNX file's content with onnxruntime on the CPU; 0 threads: as many as it likes."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        hint = "An older --opset may help."
        if has_int4(content):
            hint = f"Its weights are 4-bit integers; --opset {INT4_OPSET - 1} writes them as 8-bit ones."
        raise ModelError(
            f"onnxruntime {runtime.__version__} cannot run the exported model: {_first_line(error)} {hint}"
        ) from error

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(logits)

    return run


def _images(seed: int, n: int, shape: tuple[int, ...], normalisation: Normalisation | None) -> Tensor:
    """Draw n random images with uniform pixels, normalised."""
    mean, std = normalisation or ((0.5,) * shape[0], (0.5,) * shape[0])
    pixels = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    return (pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def _untranslated(error: BaseException) -> str:
    """Why a graph has no ONNX: the cause at the bottom, not the exporter's stage."""
    while error.__cause__ is not None:
        error = error.__cause__
    unknown = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(error))
    if unknown:
        operation = unknown[1].replace(".", "::", 1)
        return (
            f"the exporter has nothing for {operation}. Use --format torch, or write that part with other operations."
        )
    return _first_line(error)


def _named(model: nn.Module) -> str:
    return type(model.model if isinstance(model, Scores) else model).__name__


def _first_line(error: BaseException) -> str:
    """The first line that says something, without torch's advice to its developers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).partition(" For more information")[0].rstrip(".!") + "."

"""FLOPs of one image, counted while the model runs, and what that count leaves out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from automc.errors import Note
from automc.lazily import without
from automc.models.modes import Watching, evaluating, unheard, watch_alike
from automc.models.outputs import failed

with without("triton"):  # whose own kernels torch's counter could count; it takes 70 MB in each process
    from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode

watch_alike(_FlopCounterMode)

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """What one forward pass in evaluation mode does."""

    flops: int
    """2 × multiply-accumulates of one image."""
    uncounted: tuple[str, ...]
    """Operations that multiply and add, of which no count is known: "aten::_fft_r2c"."""
    unused: tuple[str, ...]
    """Parameters that nothing reads."""

    def tell(self, model: nn.Module) -> None:
        """Warn of what a reader of the figures must know; silent where they say it all.

        Warns:
            Note: operations are not counted, or parameters not used.
        """
        if self.uncounted:
            warnings.warn(f"FLOPs leave out, as not counted: {', '.join(self.uncounted)}.", Note, stacklevel=3)
        if self.unused:
            sizes = {name: p.numel() for name, p in model.named_parameters()}
            shown = ", ".join(self.unused[:3]) + (f" and {len(self.unused) - 3} more" if len(self.unused) > 3 else "")
            warnings.warn(
                f"{sum(sizes[name] for name in self.unused):,} of the {sum(sizes.values()):,} parameters are not used "
                f"in evaluation ({shown}). They count as parameters, and are saved with the model.",
                Note,
                stacklevel=3,
            )


def one_image(model: nn.Module, example: Tensor) -> Tensor:
    """Return the first image of `example` (n, c, h, w) as a batch, or the first two where a model needs so many."""
    try:
        with evaluating(model), torch.no_grad(), unheard():
            model(example[:1])
    except Exception:  # the user's forward pass can raise anything; two images show whether it is the number
        return example[:2] if len(example) > 1 else example.expand(2, *example.shape[1:])
    return example[:1]


def count(model: nn.Module, example: Tensor) -> Counted:
    """Count the FLOPs of one image: 2 × multiply-accumulates of convolutions and products of matrices.

    Attention and recurrent layers are counted by their parts, not as the one operation that torch makes of them;
    a bilinear layer as the product with its weight. Elementwise work (BN, activations, sums) and looking up
    embeddings are not counted. Only the first image of `example` (n, c, h, w) is used, or half of what two take
    where the model does not run on one. Training flags are as before afterwards.

    Raises:
        ModelError: the forward pass fails on this input.
    """
    batch = one_image(model, example)
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS | _of_torchvision())
    seen = _Seen(counter)
    try:
        with evaluating(model), torch.no_grad(), _part_by_part(model), seen, counter:
            model(batch)
    except Exception as error:  # the user's forward pass can raise anything
        raise failed(model, batch, error) from error
    unused = [n for n, p in model.named_parameters() if p.numel() and _key(p) not in seen.read]
    return Counted(int(counter.get_total_flops()) // len(batch), tuple(sorted(seen.uncounted)), tuple(unused))


def count_flops(model: nn.Module, example: Tensor) -> int:
    """Return the FLOPs of one image, see `count`."""
    return count(model, example).flops


_PRODUCTS = re.compile(
    r"fft|linalg_|cdist|euclidean|sparse|quantized|rnn|lstm|gru|trilinear|conv|mm$|mv$|dot|attention|flex|qr$|svd"
)
"""Names that sound like many multiplications."""
_CHEAP = re.compile(r"linalg_vector_norm|_cell|check_errors")
"""Of these, what is elementwise."""


class _Seen(Watching):
    """Notes what is read, and which operations pass a counter by; entered before the counter, so it sees the rest."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counted = counter.flop_registry
        self.uncounted: set[str] = set()
        self.read: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.read.update(_key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        packet = getattr(func, "overloadpacket", func)
        if packet not in self._counted:
            space, _, name = str(getattr(func, "name", lambda: func)()).partition("::")
            name = name.partition(".")[0]
            heavy = _PRODUCTS.search(name) and not _CHEAP.search(name)
            if heavy or space not in ("aten", "prim", "prims", "profiler", "torchvision"):
                self.uncounted.add(f"{space}::{name}" if name else space)
        return func(*args, **(kwargs or {}))


@contextmanager
def _part_by_part(model: nn.Module) -> Iterator[None]:
    """Let torch run attention and recurrent layers as the products that they consist of."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    mha = torch.backends.mha
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with _plain_libraries() if recurrent else nullcontext():  # convolutions are slow without these libraries
            yield
    finally:
        mha.set_fastpath_enabled(before)


@contextmanager
def _plain_libraries() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of TF32 on processors that nobody asked for
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield


def _key(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a storage
        return id(tensor)


def _vector(matrix: Shape, vector: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(matrix)


def _add_vector(_: Shape, matrix: Shape, vector: Shape, *__: Any, **___: Any) -> int:
    return 2 * prod(matrix)


def _add_batch(_: Shape, left: Shape, right: Shape, *__: Any, **___: Any) -> int:
    return 2 * prod(left) * right[-1]


def _bilinear(left: Shape, weight: Shape, right: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(left[:-1]) * prod(weight)


def _deformed(images: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * prod(out_shape) * prod(weight[1:])


_ATEN = torch.ops.aten
_FORMULAS: dict[Any, Any] = {
    _ATEN.mv: _vector,
    _ATEN.dot: _vector,
    _ATEN.vdot: _vector,
    _ATEN.addmv: _add_vector,
    _ATEN.addbmm: _add_batch,
    _ATEN._trilinear: _bilinear,
}
"""Products that torch's counter does not know: operation → count from the shapes of its arguments."""


def _of_torchvision() -> dict[Any, Any]:
    """Torchvision's deformable convolution, where torchvision is loaded: it registers with torch then."""
    found = getattr(torch.ops.torchvision, "deform_conv2d", None)
    return {} if found is None else {found: _deformed}

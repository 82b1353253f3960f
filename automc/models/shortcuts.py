"""Parameter-free shortcuts that change the channel count (ResNet option A), as index maps a pruner can edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from automc.models.edits import insertable
from automc.models.modes import observe


@insertable("GatherShortcut")
class GatherShortcut(nn.Module):
    """Strided subsampling with `out[:, j] = x[:, src[j], ::stride, ::stride]`, or zeros where `src[j] < 0`.

    Shapes: (n, in_channels, h, w) → (n, len(src), ceil(h/stride), ceil(w/stride)). No parameters, and its
    buffers are not in the state_dict: checkpoints written for option-A networks fit as they are.
    Source: He et al. 2016, "Deep Residual Learning", section 3.3, option A. An index map instead of padding,
    because a pruner can then remove any channel on either side.
    """

    index: Tensor
    mask: Tensor

    def __init__(self, stride: int, src: Sequence[int], in_channels: int) -> None:
        super().__init__()
        self.stride = int(stride)
        self.register_buffer("index", torch.empty(0, dtype=torch.long), persistent=False)
        self.register_buffer("mask", torch.empty(0), persistent=False)
        self.in_channels = int(in_channels)
        self._map(src)

    @property
    def src(self) -> tuple[int, ...]:
        """Source channel of every output channel; -1 where the output is zero."""
        return self._src

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return len(self._src)

    def forward(self, x: Tensor) -> Tensor:
        """Gather the mapped channels of every `stride`-th pixel."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        return x.index_select(1, self.index) * self.mask.to(x.dtype)

    def drop_inputs(self, channels: Iterable[int]) -> None:
        """Forget these input channels: outputs that read them become zero, the others keep their source."""
        gone = set(channels)
        kept = [c for c in range(self.in_channels) if c not in gone]
        position = {channel: i for i, channel in enumerate(kept)}
        self.in_channels = len(kept)
        self._map([position.get(s, -1) for s in self._src])

    def drop_outputs(self, channels: Iterable[int]) -> None:
        """Remove these output channels."""
        gone = set(channels)
        self._map([s for j, s in enumerate(self._src) if j not in gone])

    def spec(self) -> dict[str, Any]:
        """Arguments that rebuild this module."""
        return {"stride": self.stride, "src": list(self._src), "in_channels": self.in_channels}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> GatherShortcut:
        """Rebuild from `spec()`."""
        return cls(spec["stride"], spec["src"], spec["in_channels"])

    def extra_repr(self) -> str:
        """Show stride, widths and how many outputs are zero."""
        zeros = sum(s < 0 for s in self._src)
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}, zeros={zeros}"

    def _map(self, src: Sequence[int]) -> None:
        self._src = tuple(int(s) for s in src)
        if any(s >= self.in_channels for s in self._src):
            raise ValueError(f"src names channel {max(self._src)} of an input with {self.in_channels} channels")
        device = self.index.device
        self.index = torch.tensor([max(s, 0) for s in self._src], dtype=torch.long, device=device)
        self.mask = torch.tensor([float(s >= 0) for s in self._src], device=device).view(1, -1, 1, 1)


def option_a(in_channels: int, out_channels: int, stride: int) -> GatherShortcut:
    """Make the CIFAR option-A shortcut: the input centred in the wider output, zeros on both sides."""
    before = (out_channels - in_channels) // 2
    src = [j - before if 0 <= j - before < in_channels else -1 for j in range(out_channels)]
    return GatherShortcut(stride, src, in_channels)


def adapt_shortcuts(model: nn.Module, example: Tensor) -> nn.Module:
    """Replace parameter-free shortcuts that change the channel count by `GatherShortcut`s, in place; return `model`.

    Every submodule without parameters whose output has another channel count than its input is probed: it is
    replaced only if, on two random inputs of each size it sees, output channel j equals exactly one strided
    input channel or zero. Then the model's outputs stay bit-identical. What does not fit is left as it is.

    Args:
        model: changed in place; its training flags and device stay.
        example: an input batch (n, c, h, w) for the model.
    """
    seen = _observe(model, example)
    replacement: dict[nn.Module, GatherShortcut] = {}
    inside: set[nn.Module] = set()
    for module, shapes in seen.items():
        if module in inside:
            continue
        found = {_probe(module, shape, example) for shape in shapes}
        if len(found) != 1 or (mapped := found.pop()) is None:
            continue
        stride, src = mapped
        gather = GatherShortcut(stride, src, next(iter(shapes))[1]).to(example.device)
        replacement[module] = gather.train(module.training)
        inside.update(module.modules())
    for parent in list(model.modules()):
        # Not named_children(), which leaves out the second name of a shared module.
        for name, child in list(parent._modules.items()):
            if child is not None and child in replacement:
                setattr(parent, name, replacement[child])
    return model


def _observe(model: nn.Module, example: Tensor) -> dict[nn.Module, set[tuple[int, ...]]]:
    """Map every candidate module, outermost first, to the input shapes it saw."""
    seen: dict[nn.Module, set[tuple[int, ...]]] = {}
    other: set[nn.Module] = set()

    def watch(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        fits = (
            len(args) == 1
            and isinstance(args[0], Tensor)
            and isinstance(output, Tensor)
            and args[0].ndim == output.ndim == 4
            and args[0].shape[1] != output.shape[1]
        )
        if fits:
            seen.setdefault(module, set()).add(tuple(args[0].shape))
        else:
            other.add(module)

    candidates = [
        m for m in model.modules() if m is not model and not isinstance(m, GatherShortcut) and not list(m.parameters())
    ]
    observe(model, example, [m.register_forward_hook(watch) for m in candidates])
    return {m: seen[m] for m in candidates if m in seen and m not in other}


def _probe(module: nn.Module, shape: tuple[int, ...], example: Tensor) -> tuple[int, tuple[int, ...]] | None:
    """Find (stride, src) that reproduces `module` exactly on inputs of `shape`, or None."""
    generator = torch.Generator().manual_seed(0)
    shape = (min(shape[0], 2), *shape[1:])
    found: set[tuple[int, tuple[int, ...]] | None] = set()
    for _ in range(2):
        x = torch.randn(shape, generator=generator).to(example.device, example.dtype)
        with torch.no_grad():
            y = module(x)
        found.add(_match(x, y))
    return found.pop() if len(found) == 1 else None


def _match(x: Tensor, y: Tensor) -> tuple[int, tuple[int, ...]] | None:
    size, out = tuple(x.shape[2:]), tuple(y.shape[2:])
    if y.shape[0] != x.shape[0]:
        return None
    for stride in range(1, max(size) + 1):
        if tuple(-(-s // stride) for s in size) != out:
            continue
        strided = x[:, :, ::stride, ::stride]
        src = []
        for j in range(y.shape[1]):
            same = (strided == y[:, j : j + 1]).all(dim=(0, 2, 3)) if y.numel() else torch.zeros(0)
            hits = same.nonzero().flatten().tolist()
            if len(hits) == 1:
                src.append(int(hits[0]))
            elif not bool(y[:, j].any()):
                src.append(-1)
            else:
                break
        else:
            return stride, tuple(src)
    return None

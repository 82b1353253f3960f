"""What each operation on tensors does to the labels of channels (see `channels`).

Operations that move elements are applied to the labels themselves; pointwise ones couple the labels that meet;
reductions keep a label that is alone; products couple what they sum over. Whatever is not known here binds: the
channels that enter it must stay, with its name for a reason. So nothing that is missing here can do harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from automc.surgery.labels import FAR, Labels, alike, anyone, compact, nobody, spread, varies

_MOVING = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze",
    "slice", "select", "split", "split_with_sizes", "chunk", "unbind", "stack", "flip", "roll", "index_select",
    "index", "gather", "repeat", "clone", "detach", "alias", "unfold", "diagonal", "lift_fresh",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "movedim", "unsafe_split",
    "split_copy", "slice_copy", "view_copy", "narrow", "rot90", "swapaxes", "slice_scatter", "select_scatter",
    "copy_", "index_put_", "_index_put_impl_", "index_copy_", "repeat_interleave", "contiguous",
}  # fmt: skip
_PLAINLY = {
    "permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "slice", "select", "split", "split_with_sizes",
    "chunk", "unbind", "flip", "roll", "unfold", "alias", "detach",
}  # fmt: skip
"""Those of them that take one tensor and plain numbers."""
_MOVING_FLOATS = {
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
    "replication_pad3d", "im2col",
}  # fmt: skip
_POINTWISE = {
    "hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_", "hardtanh", "hardtanh_", "silu", "silu_", "mish", "gelu",
    "elu", "elu_", "leaky_relu", "leaky_relu_", "softplus", "celu", "selu", "prelu", "_prelu_kernel", "relu6", "relu6_",
    "log_sigmoid_forward", "native_dropout", "_to_copy", "copy", "threshold", "threshold_", "_softmax", "_log_softmax",
    "softmax", "native_layer_norm", "layer_norm", "clamp_min", "clamp_min_", "rrelu_with_noise", "mul", "add", "sub",
    "div", "where", "relu", "sigmoid", "tanh", "lerp", "lerp_", "_fused_rms_norm", "rms_norm", "hardshrink",
    "softshrink", "bernoulli", "logit", "addcmul", "addcdiv", "renorm", "nan_to_num", "masked_fill", "masked_fill_",
    "dropout", "feature_dropout", "sgn", "logical_not", "square", "frac", "fmod", "remainder",
}  # fmt: skip
_REDUCING = {
    "mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm", "logsumexp",
    "prod", "max", "min", "any", "all", "median", "nansum", "nanmean",
}  # fmt: skip
_CREATING = {
    "zeros", "ones", "empty", "full", "rand", "randn", "zeros_like", "ones_like", "empty_like", "full_like",
    "rand_like", "randn_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided", "empty_strided",
    "scalar_tensor", "arange", "linspace", "eye",
}  # fmt: skip
_SPATIAL = {
    "avg_pool1d": 1, "avg_pool2d": 2, "avg_pool3d": 3, "max_pool1d": 1, "max_pool2d": 2, "max_pool3d": 3,
    "adaptive_avg_pool1d": 1, "_adaptive_avg_pool2d": 2, "adaptive_avg_pool2d": 2, "_adaptive_avg_pool3d": 3,
    "adaptive_max_pool1d": 1, "adaptive_max_pool2d": 2, "adaptive_max_pool3d": 3, "max_pool1d_with_indices": 1,
    "max_pool2d_with_indices": 2, "max_pool3d_with_indices": 3, "mkldnn_max_pool2d": 2, "fractional_max_pool2d": 2,
    "upsample_nearest1d": 1, "upsample_nearest2d": 2, "upsample_nearest3d": 3, "upsample_bilinear2d": 2,
    "_upsample_nearest_exact2d": 2, "_upsample_bilinear2d_aa": 2, "upsample_bicubic2d": 2, "_upsample_bicubic2d_aa": 2,
    "upsample_linear1d": 1, "upsample_trilinear3d": 3, "grid_sampler_2d": 2, "_adaptive_max_pool2d": 2,
}  # fmt: skip


class Record(Protocol):
    """Where rules note what they find; `channels.Channels`."""

    def couple(self, first: Labels, second: Labels) -> None:
        """Elements that belong together."""

    def pin(self, labels: Labels, reason: str) -> None:
        """Channels that must stay."""

    def reason(self, text: str) -> int:
        """The label that stands for a reason."""

    def bound(self, known: Sequence[Labels]) -> str | None:
        """The reason that one of these labels stands for."""

    def summed(self, labels: Labels) -> None:
        """Channels that are summed over two branches."""

    def labels(self, tensor: Tensor) -> Labels | None:
        """Labels of a tensor, None where they are unknown."""


def tensors_of(values: Any) -> list[Tensor]:
    """Tensors among an operation's arguments or results, in their order."""
    if isinstance(values, Tensor):
        return [values]
    found: list[Tensor] = []
    if isinstance(values, list | tuple | dict):
        for value in values.values() if isinstance(values, dict) else values:
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, list | tuple | dict) and value:
                found += tensors_of(value)
    return found


@cache
def name_of(func: Any) -> str:
    """Name of an operation without its overload, e.g. "convolution"."""
    return str(func.overloadpacket.__name__)


def creates(func: Any) -> bool:
    """Whether an operation makes a tensor that later ones may write to."""
    return name_of(func) in _CREATING


@cache
def _writable(func: Any) -> bool:
    """Whether later operations may write to what an operation gives."""
    return any(returned.alias_info for returned in func._schema.returns)


def follow(
    record: Record, func: Any, args: Any, kwargs: Any, outputs: Sequence[Tensor], known: Sequence[Labels]
) -> list[Labels]:
    """Return labels for each output of an operation, which has run already; `known` are those of its inputs."""
    name = name_of(func)
    try:
        if name in _CREATING:
            return [torch.zeros(t.shape, dtype=torch.int64) for t in outputs]
        found: list[Labels] | None = _apply(record, func, name, args, kwargs, outputs)
        if found is not None and [f.shape for f in found] == [t.shape for t in outputs]:
            return found if _writable(func) else [spread(labels) for labels in found]
    except (RuntimeError, IndexError, ValueError, TypeError, KeyError, AttributeError):
        pass  # the rule was not made for these arguments: bind
    if not any(anyone(labels) for labels in known):
        return [nobody(t.shape) for t in outputs]
    why = record.bound(known) or f"{name.strip('_')}, which it enters, cannot be followed"
    for labels in known:
        record.pin(labels, why)
    return [torch.tensor(record.reason(why)).expand(t.shape) for t in outputs]


def _apply(record: Record, func: Any, name: str, args: Any, kwargs: Any, outputs: Sequence[Tensor]) -> Any:
    if name in _MOVING or name in _MOVING_FLOATS:
        return _moved(record, func, name, args, kwargs)
    if name in ("as_strided", "as_strided_") and tuple(args[1]) == args[0].shape:
        return [_given(record, args[0])]  # another order in memory, as pools leave it
    if name == "cat":
        return [_concatenated(record, args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0))]
    if name in ("constant_pad_nd", "pad"):
        return [_padded(_given(record, args[0]), args[1])]
    if name in _SPATIAL:
        return [_spatial(record, _given(record, args[0]), _SPATIAL[name], t.shape) for t in outputs]
    if name in _REDUCING:
        dims = args[1] if len(args) > 1 and not isinstance(args[1], Tensor) else kwargs.get("dim")
        if name in ("linalg_vector_norm", "norm"):
            dims = args[2] if len(args) > 2 else kwargs.get("dim")
        averages = name.startswith(("mean", "var", "std", "nanmean"))
        return [_reduced(record, _given(record, args[0]), dims, t.shape, averages) for t in outputs]
    if name in ("bmm", "mm", "matmul"):
        return [_product(record, _given(record, args[0]), _given(record, args[1]))]
    if name in ("baddbmm", "addmm"):
        product = _product(record, _given(record, args[1]), _given(record, args[2]))
        return [_pointwise(record, [product, _given(record, args[0])], product.shape)]
    if "scaled_dot_product" in name:
        return _attended(record, [_given(record, t) for t in args[:3]], outputs)
    if name == "glu":
        first, second = _given(record, args[0]).chunk(2, args[1] if len(args) > 1 else -1)
        return [_pointwise(record, [first, second], first.shape)]
    if name in ("native_group_norm", "native_batch_norm", "batch_norm", "cudnn_batch_norm", "group_norm"):
        return _normed(record, name, args, outputs)
    if name in _POINTWISE or torch.Tag.pointwise in func.tags:
        return _met(record, name, args, kwargs, outputs)
    return None


def _given(record: Record, tensor: Tensor) -> Labels:
    labels = record.labels(tensor)
    return nobody(tensor.shape) if labels is None else labels


def _moved(record: Record, func: Any, name: str, args: Any, kwargs: Any) -> list[Labels]:
    floats = name in _MOVING_FLOATS
    seen: list[Tensor] = []

    def replaced(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        seen.append(value)
        if len(seen) > 1 and not value.is_floating_point() and name != "copy_":
            labels = record.labels(value)
            if labels is not None and anyone(labels):
                raise ValueError("the index depends on channels")
            return value.cpu()
        labels = _given(record, value)
        if name.endswith("_") and len(seen) == 1 and any(alike(labels, d) for d in range(labels.ndim)):
            labels = labels.clone()  # nothing to write through to
        return labels.double() if floats else labels

    if name in ("clone", "contiguous"):
        return [_given(record, args[0])]
    if name in ("view", "_unsafe_view", "_reshape_alias"):
        return [_given(record, args[0]).reshape(args[1])]
    if name in _PLAINLY and not kwargs:
        found = func(_given(record, args[0]), *args[1:])
        return [found] if isinstance(found, Tensor) else list(found)
    args, kwargs = pytree.tree_map(replaced, (args, {k: v for k, v in kwargs.items() if k != "memory_format"}))
    found = pytree.tree_leaves(func(*args, **kwargs))
    return [t.long() if floats else t for t in found if isinstance(t, Tensor)]


def _concatenated(record: Record, tensors: Sequence[Tensor], dim: int) -> Labels:
    parts = [_given(record, t) for t in tensors if t.shape != (0,)]
    dim %= parts[0].ndim
    strides = [part.stride() for part in parts]
    alike = [d != dim and not any(steps) for d, steps in enumerate(zip(*strides, strict=True))]
    small = [[1 if spread else n for n, spread in zip(part.shape, alike, strict=True)] for part in parts]
    joined = torch.cat([part.as_strided(n, step) for part, n, step in zip(parts, small, strides, strict=True)], dim)
    return joined.expand([joined.shape[d] if d == dim else n for d, n in enumerate(parts[0].shape)])


def _padded(labels: Labels, pads: Sequence[int]) -> Labels:
    """Zeros beside channels are nobody's; at the border of a map they count as the channel's."""
    shape = list(labels.shape)
    channels: list[int] = []
    for d in range(labels.ndim):
        before, after = pads[2 * d : 2 * d + 2] if 2 * d + 1 < len(pads) else (0, 0)
        axis = labels.ndim - 1 - d
        shape[axis] += before + after
        if alike(labels, axis) or (labels.shape[axis] == 1 and d < 2):
            labels = labels.narrow(axis, 0, 1)
            before = after = 0
        channels += [before, after]
    return torch.nn.functional.pad(labels, channels).expand(shape)


def _spatial(record: Record, labels: Labels, dims: int, shape: Sequence[int]) -> Labels:
    """Pools and resizing mix what lies along the last `dims` dimensions."""
    axes = list(range(labels.ndim - dims, labels.ndim))
    highest = compact(labels)[0].amax(axes, keepdim=True)
    if varies(labels, axes):
        record.couple(labels, highest)
    return highest.expand(tuple(shape))


def _reduced(record: Record, labels: Labels, dims: Any, shape: Sequence[int], averages: bool) -> Labels:
    """A label stays where it is alone; one set of channels for all elements is nobody's; other sets are coupled.

    An average over channels binds them: it changes with their number.
    """
    axes = list(range(labels.ndim)) if dims is None or dims == [] else dims
    axes = [int(d) % labels.ndim for d in (axes if isinstance(axes, list | tuple) else [axes])] if labels.ndim else []
    if not axes:
        return labels.expand(tuple(shape))
    whole, (labels,) = labels.shape, compact(labels)
    highest = labels.amax(axes, keepdim=True)
    lowest = labels.masked_fill(labels == 0, FAR).amin(axes, keepdim=True)
    if bool((highest > lowest).any()):
        if varies(highest, range(highest.ndim)) or varies(lowest, range(lowest.ndim)):
            record.couple(labels, highest)
        else:
            if averages:
                record.pin(labels, "the code averages over its channels")
            highest = torch.zeros_like(highest)
    left = highest.expand([1 if d in axes else n for d, n in enumerate(whole)])
    return left.reshape([n for d, n in enumerate(whole) if d not in axes]).reshape(tuple(shape))


def _pointwise(record: Record, given: Sequence[Labels], shape: Sequence[int], add: bool = False) -> Labels:
    """Couple what meets. What is spread over different channels, as one gate over all of them, meets none of them."""
    wide = [labels.reshape([1] * (len(shape) - labels.ndim) + list(labels.shape)) for labels in given]
    kept = [
        labels
        for labels in wide
        if anyone(labels)
        and not any(
            shape[d] > 1 and labels.shape[d] == 1 and any(varies(other, [d]) for other in wide if other is not labels)
            for d in range(len(shape))
        )
    ]
    if not kept:
        return nobody(shape)
    for labels in kept[1:]:
        record.couple(kept[0], labels)
    result, *rest = compact(*kept)
    for labels in rest:
        result = torch.where(result == 0, labels, result)
    if add and len(kept) > 1:
        record.summed(result)
    return result.expand(tuple(shape))


def _met(record: Record, name: str, args: Any, kwargs: Any, outputs: Sequence[Tensor]) -> list[Labels]:
    given = [_given(record, t) for t in tensors_of((args, kwargs))]
    labels = _pointwise(record, given, outputs[0].shape, name.strip("_") in ("add", "sub", "rsub"))
    if name.endswith("_") and isinstance(args[0], Tensor) and not torch.equal(*compact(given[0], labels)):
        given[0].copy_(labels)  # a view writes through to what it is a view of
    return [labels if t.shape == labels.shape else nobody(t.shape) for t in outputs]


def _normed(record: Record, name: str, args: Any, outputs: Sequence[Tensor]) -> list[Labels]:
    labels = _given(record, args[0])
    vectors = [_given(record, t) for t in args[1:5] if isinstance(t, Tensor)]
    shape = [1, -1] + [1] * (labels.ndim - 2)
    out = _pointwise(record, [labels, *(v.reshape(shape) for v in vectors)], labels.shape)
    return [out if t.shape == labels.shape else nobody(t.shape) for t in outputs]


def _product(record: Record, left: Labels, right: Labels) -> Labels:
    """Labels of left (…, m, k) times right (…, k, n).

    Raises:
        ValueError: channels along m and n at once, or a channel summed against what is nobody's.
    """
    m, k, n = left.ndim - 2, left.ndim - 1, right.ndim - 1
    shape = (*left.shape[:-1], right.shape[-1])
    rows, columns = varies(left, [m]), varies(right, [n])
    inner = varies(left, [k]), varies(right, [right.ndim - 2])
    if (rows and columns) or (any(inner) and not all(inner)):
        raise ValueError("no rule")
    if all(inner):
        record.couple(left.transpose(-1, -2)[..., :, None], right[..., :, None, :])
        if rows or columns:
            raise ValueError("no rule")
        return nobody(shape)
    if columns:
        return right.amax(-2, keepdim=True).expand(shape)
    if rows:
        return left.amax(-1, keepdim=True).expand(shape)
    return nobody(shape)


def _attended(record: Record, given: Sequence[Labels], outputs: Sequence[Tensor]) -> list[Labels]:
    """Attention over the last but one dimension: queries meet keys channel by channel, values pass."""
    q, k, v = given
    if any(varies(labels, [labels.ndim - 2]) for labels in given):
        raise ValueError("channels lie along the positions")
    record.couple(q[..., :1, :], k[..., :1, :])
    shape = outputs[0].shape
    return [v[..., :1, :].expand(shape), *(nobody(t.shape) for t in outputs[1:])]

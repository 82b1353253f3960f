"""Models in the forms that training and serving leave them in, brought back to plain modules in float32."""

from __future__ import annotations

import warnings
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from automc.errors import ModelError, Note

PLAIN = torch.float32


def plain(model: nn.Module, where: str) -> nn.Module:
    """Return the model that a factory meant: unwrapped, on the CPU, in float32; what was changed is said.

    DataParallel and torch.compile are taken off, inside the model too; averages of weights (`AveragedModel`) are what
    they average. Nothing of this changes what the model computes, but for the rounding of half precision.

    Args:
        where: the factory, for messages.

    Raises:
        ModelError: it is TorchScript, quantised, or has weights without values.

    Warns:
        Note: something was unwrapped, moved or cast.
    """
    done: list[str] = []
    while (inner := _inside(model)) is not None:
        done.append(f"{_wrapper(model)} is taken off")
        model = inner
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and (inner := _inside(child)) is not None:
                done.append(f"{_wrapper(child)} of {name} is taken off")
                parent._modules[name] = inner
        if parent.__dict__.get("_compiled_call_impl") is not None:
            parent._compiled_call_impl = None
            done.append("it runs without torch.compile")
    _refuse(model, where)
    tensors = [*model.parameters(), *model.buffers()]
    devices = {t.device.type for t in tensors} - {"cpu"}
    if devices:
        model = model.to("cpu")
        done.append(f"its weights come from {', '.join(sorted(devices))} to the CPU")
    others = {t.dtype for t in tensors if t.is_floating_point()} - {PLAIN}
    if others:
        model = model.to(PLAIN)
        done.append(f"its {' and '.join(sorted(str(t).removeprefix('torch.') for t in others))} becomes float32")
    if done:
        warnings.warn(f"{where}: {'; '.join(dict.fromkeys(done))}.", Note, stacklevel=2)
    return model


def settled(model: nn.Module) -> nn.Module:
    """Detach results that modules hold as plain attributes, and return the model: with them it cannot be copied.

    Weights that hooks compute before each pass (torch.nn.utils.weight_norm) are such, and caches of a user's own.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                vars(module)[name] = value.detach()
    return model


def _inside(model: nn.Module) -> nn.Module | None:
    """The module that a wrapper wraps; None for what is no wrapper."""
    if isinstance(model, DataParallel | DistributedDataParallel):
        return cast(nn.Module, model.module)
    if type(model).__name__ == "OptimizedModule" and "_orig_mod" in model._modules:
        return model._modules["_orig_mod"]
    if type(model).__module__ == "torch.optim.swa_utils" and "module" in model._modules:
        return model._modules["module"]
    return None


def _wrapper(model: nn.Module) -> str:
    return "torch.compile" if type(model).__name__ == "OptimizedModule" else type(model).__name__


def _refuse(model: nn.Module, where: str) -> None:
    """Refuse forms that nothing can be done to, each with its way out."""
    for name, module in model.named_modules():
        at = f"its layer {name}" if name else "it"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{where}: {at} is TorchScript, whose layers can be neither replaced nor saved as a model. Return the "
                "Python model; its weights are model.state_dict(), given with --weights."
            )
        if "quantized" in type(module).__module__ and hasattr(module, "_packed_params"):
            raise ModelError(
                f"{where}: {at} is quantised ({type(module).__name__}) and cannot be trained. Return the float model."
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ModelError(
                f"{where}: {name} is on the meta device, so it has no values. Build the model on the CPU, or load its "
                "weights in the factory."
            )

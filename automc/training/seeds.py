"""What makes a step repeatable: seeds that follow from run seed and scheme, and sums in a fixed order on request."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from automc.errors import Infeasible


def step_seed(run_seed: int, scheme: str) -> int:
    """Seed of the last step of a scheme, in [0, 2⁶³): a hash of the run seed and of what is executed of the scheme."""
    return derived(run_seed, scheme)


def derived(seed: int, *names: object) -> int:
    """An independent seed in [0, 2⁶³) for a named use of `seed`, e.g. one training phase of a step."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators (CPU and `device`) inside the block and restore them after it."""
    device = torch.device(device)
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def before_cuda() -> None:
    """Let cuBLAS work with buffers that give the same sums each time; has no effect once CUDA was started."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def fixed_order(device: torch.device, wanted: bool = True) -> Iterator[None]:
    """Let an accelerator compute inside the block by kernels alone that give the same bits each time.

    A CPU does anyway, with one thread. Settings are restored at the end. `before_cuda` must have been called before the
    process began to use the device.

    Raises:
        Infeasible: an operation inside has no such kernel; the message names it.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic implementation" not in str(error):
            raise
        raise Infeasible(f"{error} Leave out --deterministic to allow it.") from None
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)

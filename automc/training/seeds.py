"""Seeds: every random choice of a step follows from the run seed and the scheme, whatever the order or worker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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

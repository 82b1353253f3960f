"""Adam without torch's compiler: the same numbers, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kg.adam import Adam


def trained(make: Callable[[list[nn.Parameter]], Any]) -> list[Tensor]:
    """Parameters after 30 updates, one of which never has a gradient and one at times."""
    draw = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in ((8, 16), (16,), (16, 3), (2,), (3,))]
    optimizer = make(parameters)
    for update in range(30):
        optimizer.zero_grad()
        hidden = torch.tanh(torch.randn(32, 8, generator=draw) @ parameters[0] + parameters[1])
        found = hidden @ parameters[2] + (parameters[4] if update % 3 == 1 else 0.0)
        found.square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("fused", [False, True])
def test_it_moves_as_torchs_own_does(fused: bool) -> None:
    found = trained(lambda parameters: Adam(parameters, 0.01, (0.8, 0.95), fused))
    wanted = trained(lambda parameters: torch.optim.Adam(parameters, 0.01, (0.8, 0.95), fused=fused, foreach=False))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_it_loads_no_compiler() -> None:
    code = (
        "import sys, torch\nfrom kg.adam import Adam\n"
        "weight = torch.nn.Parameter(torch.ones(3))\nadam = Adam([weight], 0.1)\n"
        "adam.zero_grad()\nweight.sum().backward()\nadam.step()\n"
        "assert float(weight.detach().max()) < 1\nassert 'torch._dynamo' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

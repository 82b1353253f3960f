#!/usr/bin/env bash
# torch-pruning 1.6.1 (torch 2.15.0): pruning one of two layers that share a weight gives it a weight of its own.
# The smaller network is the larger one: one of eight channels less, and more parameters than before.
# Seen: "130 parameters before, 183 after; tied: False"
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torch-pruning==1.6.1 numpy==2.4.6
cd "$dir"
venv/bin/python - <<'PY'
import torch
import torch_pruning
from torch import nn


class Tied(nn.Module):
    """Two of four convolutions share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        self.c.weight = self.b.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.d(self.c(self.b(self.a(x))))


net = Tied()
before = sum(p.numel() for p in net.parameters())
graph = torch_pruning.DependencyGraph().build_dependency(net, torch.randn(2, 3, 8, 8))
graph.get_pruning_group(net.c, torch_pruning.prune_conv_out_channels, [0]).prune()
after, tied = sum(p.numel() for p in net.parameters()), net.c.weight is net.b.weight
print(f"{before} parameters before, {after} after; tied: {tied}")
assert before == 130
assert after > before and not tied
PY

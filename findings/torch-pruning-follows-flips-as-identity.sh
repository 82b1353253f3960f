#!/usr/bin/env bash
# torch-pruning 1.6.1 (torch 2.15.0): a flip along the channels is followed as if every channel stayed in its place.
# The first filter writes zeros, so that its removal should change nothing; the consumer loses the wrong input. No warning.
# Seen: "outputs change by 85%; without the flip by 0%"
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


class Net(nn.Module):
    """Two convolutions, with the channels in reverse between them or not."""

    def __init__(self, flip: bool) -> None:
        super().__init__()
        self.a, self.b, self.flip = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 5, 1, bias=False), flip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return self.b(x.flip(1) if self.flip else x).mean((2, 3))


def change(flip: bool) -> float:
    """Largest change of an output when a filter that writes zeros is removed, relative to the largest output."""
    torch.manual_seed(0)
    net, x = Net(flip).eval(), torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        net.a.weight[0] = 0
        before = net(x)
    graph = torch_pruning.DependencyGraph().build_dependency(net, x)
    graph.get_pruning_group(net.a, torch_pruning.prune_conv_out_channels, [0]).prune()
    with torch.no_grad():
        return float((net(x) - before).abs().max() / before.abs().max())


flipped, straight = change(True), change(False)
print(f"outputs change by {flipped:.0%}; without the flip by {straight:.0%}")
assert straight < 1e-5
assert flipped > 0.1
PY

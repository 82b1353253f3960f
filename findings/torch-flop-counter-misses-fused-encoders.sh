#!/usr/bin/env bash
# torch 2.15.0: FlopCounterMode finds nothing in an evaluated nn.TransformerEncoder without gradients: its fused
# operation is not in the counter's table, and no warning says so. With gradients the same network has all its operations.
# Seen: "without gradients 0, with gradients 2228224"
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cd "$dir"
venv/bin/python - <<'PY'
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2).eval()
tokens = torch.zeros(1, 16, 64)


def count(gradients: bool) -> int:
    """FLOPs of one pass."""
    counter = FlopCounterMode(display=False)
    with torch.set_grad_enabled(gradients), counter:
        encoder(tokens)
    return counter.get_total_flops()


without, along = count(False), count(True)
print(f"without gradients {without}, with gradients {along}")
assert without == 0
assert along == 2228224
PY

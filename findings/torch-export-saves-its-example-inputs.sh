#!/usr/bin/env bash
# torch 2.15.0: torch.export.save puts the example inputs into the file, whole. The file of a network of 314 numbers
# grows from 0.1 to 12.6 MB with the batch that it was traced with.
# Seen: "2 images: 0.11 MB, 256 images: 12.60 MB"
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cd "$dir"
venv/bin/python - <<'PY'
import os

import torch
from torch import nn

net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)).eval()
any_batch = ({0: torch.export.Dim("batch", min=1, max=512)},)


def megabytes(images: int) -> float:
    """Size of the file that is traced with so many images."""
    example = torch.zeros(images, 3, 64, 64)
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=any_batch), "net.pt2")
    return os.path.getsize("net.pt2") / 1e6


few, many = megabytes(2), megabytes(256)
print(f"2 images: {few:.2f} MB, 256 images: {many:.2f} MB")
assert few < 0.3
assert many > 12
PY

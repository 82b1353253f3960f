#!/usr/bin/env bash
# torch 2.15.0, torch.fx.experimental.meta_tracer, which knows shapes while it traces: of `x.size(0)` it forgets the argument and writes the whole
# shape, so the flatten of many published networks, `x.view(x.size(0), -1)`, becomes `view((5, 4, 1, 1), -1)`. Tracing ends well, with a warning;
# the traced network raises when it runs. With `x.shape[0]` it is right, but the batch is a constant; the usual torch.fx.symbolic_trace keeps both.
# Seen: "size(0): view((5, 4, 1, 1), -1), TypeError; shape[0]: view(5, -1), (5, 2); symbolic_trace of size(0): (5, 2)"
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cat > "$dir/trace.py" <<'PY'
import re
import warnings

import torch
from torch.fx.experimental import meta_tracer

warnings.simplefilter("ignore")


class Net(torch.nn.Module):
    def __init__(self, by_size):
        super().__init__()
        self.conv, self.head, self.by_size = torch.nn.Conv2d(3, 4, 1), torch.nn.Linear(4, 2), by_size

    def forward(self, x):
        x = torch.nn.functional.adaptive_avg_pool2d(self.conv(x), 1)
        return self.head(x.view(x.size(0) if self.by_size else x.shape[0], -1))


def traced(by_size):
    graph = meta_tracer.symbolic_trace(Net(by_size), meta_args={"x": images.to("meta")})
    call = re.search(r"view\(.*?-1\)", graph.code)[0]
    try:
        return f"{call}, {tuple(graph(images).shape)}"
    except TypeError:
        return f"{call}, TypeError"


images = torch.rand(5, 3, 8, 8)
usual = torch.fx.symbolic_trace(Net(True))
print(f"size(0): {traced(True)}; shape[0]: {traced(False)}; symbolic_trace of size(0): {tuple(usual(images).shape)}")
PY
seen="$("$dir/venv/bin/python" "$dir/trace.py" 2> /dev/null)"
echo "$seen"
[ "$seen" = "size(0): view((5, 4, 1, 1), -1), TypeError; shape[0]: view(5, -1), (5, 2); symbolic_trace of size(0): (5, 2)" ]

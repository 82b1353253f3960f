#!/usr/bin/env bash
# torch 2.15.0, nothing compiled: the first torch.optim.SGD loads the compiler (torch._dynamo, torch._inductor, sympy), and so does turning
# deterministic algorithms *off*, which they are already; a layer's to_empty loads sympy. Some 150 MB beside the 530 of `import torch`
# here, in every process that trains; the imports are checked, not the megabytes.
# Seen: "import: none; SGD: compiler; use_deterministic_algorithms(False): compiler; to_empty: sympy"
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cd "$dir"
loaded() {
  venv/bin/python - "$1" <<'PY'
import sys

import torch

exec(sys.argv[1])
names = {"torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules)
print({0: "none", 1: "".join(names), 3: "compiler"}[len(names)])
PY
}
seen="import: $(loaded pass)"
seen="$seen; SGD: $(loaded 'torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)')"
seen="$seen; use_deterministic_algorithms(False): $(loaded 'torch.use_deterministic_algorithms(False)')"
seen="$seen; to_empty: $(loaded 'torch.nn.Linear(2, 2, device="meta").to_empty(device="cpu")')"
echo "$seen"
[ "$seen" = "import: none; SGD: compiler; use_deterministic_algorithms(False): compiler; to_empty: sympy" ]

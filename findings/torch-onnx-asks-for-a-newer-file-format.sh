#!/usr/bin/env bash
# torch 2.15.0's ONNX exporter (onnxscript 0.7.2, onnx-ir 1.1.0, onnx 1.23.2) writes every file in IR version 10, whatever opset it was asked for.
# Opset 18 needs 8 and opset 20 needs 9, so an older opset alone does not make a file for an older runtime: onnxruntime 1.17.3 knows opset 20
# and refuses it for its IR version; with ir_version set to what the opsets need it runs.
# Seen: "opset 18: IR 10, needs 8; opset 20: IR 10, needs 9; opset 21: IR 10, needs 10" and "as written: Unsupported model IR version; lowered: runs"
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/new"
"$dir/new/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnx-ir==1.1.0
cd "$dir"
cat > write.py <<'PY'
import warnings

import onnx
import torch
from onnx.helper import find_min_ir_version_for

warnings.simplefilter("ignore")
found = []
for opset in (18, 20, 21):
    model = torch.onnx.export(torch.nn.Linear(2, 2), (torch.rand(1, 2),), opset_version=opset, verbose=False).model_proto
    least = find_min_ir_version_for(model.opset_import)
    found.append(f"opset {model.opset_import[0].version}: IR {model.ir_version}, needs {least}")
    if opset == 20:
        onnx.save(model, "written.onnx")
        model.ir_version = least
        onnx.save(model, "lowered.onnx")
print("; ".join(found))
PY
seen="$(new/bin/python write.py 2> /dev/null)"
echo "$seen"
[ "$seen" = "opset 18: IR 10, needs 8; opset 20: IR 10, needs 9; opset 21: IR 10, needs 10" ]
python3 -m venv old
old/bin/pip install --quiet --disable-pip-version-check onnxruntime==1.17.3 numpy==1.26.4
seen="$(old/bin/python - 2> /dev/null <<'PY'
import onnxruntime
import numpy


def tried(file):
    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        session.run(None, {session.get_inputs()[0].name: numpy.zeros((1, 2), numpy.float32)})
        return "runs"
    except Exception as error:
        return "Unsupported model IR version" if "Unsupported model IR version" in str(error) else str(error)


print(f"as written: {tried('written.onnx')}; lowered: {tried('lowered.onnx')}")
PY
)"
echo "$seen"
[ "$seen" = "as written: Unsupported model IR version; lowered: runs" ]

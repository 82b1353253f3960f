"""What every method leaves can be exported: the file, run elsewhere, gives the same logits."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from composing import NAMES, Bench, first_strategy, random_schemes
from torch import Tensor

from automc import methods
from automc.models.export import export
from kg.schema import Scheme

SCHEMES = {name: Scheme((first_strategy(name, 0.2),)) for name in NAMES}
SCHEMES |= {"five steps": random_schemes(1, seed=3)[0]}
QUICK = ("LMA", "five steps")
"""The one module that is ours, and everything at once; the others are for the long tests."""


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench("resnet8")


def run_onnx(path: Path, images: Tensor) -> Tensor:
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


def run_torch(path: Path, images: Tensor) -> Tensor:
    return torch.export.load(io.BytesIO(path.read_bytes())).module()(images)


@pytest.mark.parametrize(
    "scheme",
    [pytest.param(s, id=name, marks=[] if name in QUICK else [pytest.mark.slow]) for name, s in SCHEMES.items()],
)
def test_products_run_elsewhere(scheme: Scheme, bench: Bench, tmp_path: Path) -> None:
    model = bench.product(scheme).eval()
    for kind, run in (("onnx", run_onnx), ("torch", run_torch))[: 2 if len(scheme.steps) > 1 else 1]:
        done = export(model, bench.example, tmp_path / f"x.{kind}", kind=kind)
        assert done.max_error <= done.limit
        for n in (1, 3, 16):
            images = torch.randn(n, *bench.example.shape[1:], generator=torch.Generator().manual_seed(100 + n))
            with torch.no_grad():
                expected = model(images)
            error = (run(done.path, images) - expected).abs().amax(1) / max(1.0, float(expected.abs().max()))
            # Where rounding moves an element across a breakpoint of an LMA, that image's logits jump a little.
            assert error.median() < 1e-5, kind
            assert error.max() < (0.01 if any(type(m).__name__ == "LMA" for m in model.modules()) else 1e-4), kind


def test_every_method_is_there() -> None:
    assert set(SCHEMES) - {"five steps"} == set(methods.registered()) & set(NAMES)
    assert len(SCHEMES["five steps"].steps) == 5

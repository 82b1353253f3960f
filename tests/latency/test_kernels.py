"""What a forward pass calls, what a runtime makes one of, and the same on other channels."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from automc.errors import ModelError
from automc.latency.kernels import Kernel, resized, torch_kernels
from automc.latency.networks import kernels_of, timed
from automc.latency.nodes import profiled
from automc.latency.sampling import drawn
from automc.latency.timing import in_turns, seconds
from automc.models.runtimes import onnx_content
from automc.surgery.levels import uniform
from automc.surgery.quantised import quantise, settle

IMAGES = torch.zeros(1, 3, 8, 8)


class Residual(nn.Module):
    """A stem, a block with a shortcut, a depthwise layer with odd channels, a factored pair and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)
        self.wide, self.narrow = nn.Conv2d(6, 7, (3, 1), padding=(1, 0)), nn.Conv2d(7, 6, (1, 3), padding=(0, 1))
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.narrow(self.wide(x)))
        return self.head(self.deep(x).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Residual().eval()


@pytest.fixture(scope="module")
def content(model: nn.Module) -> bytes:
    return onnx_content(model, IMAGES)


def test_kernels_have_the_shapes_and_the_work_of_their_layers(model: nn.Module) -> None:
    kernels = torch_kernels(model, IMAGES)
    assert [k.kind for k in kernels] == [
        "conv", "native_batch_norm", "relu", "conv", "conv", "add", "relu", "depthwise", "mean", "linear",
    ]  # fmt: skip
    stem, wide, narrow = (k for k in kernels if k.kind == "conv")
    assert (stem.inputs, stem.outputs, stem.height, stem.size, stem.stride) == (3, 6, 4, (3, 3), (2, 2))
    assert (wide.size, narrow.size, wide.outputs) == ((3, 1), (1, 3), 7)
    assert [k.macs for k in kernels if k.multiplies] == [
        16 * 3 * 6 * 9, 16 * 6 * 7 * 3, 16 * 7 * 6 * 3, 16 * 6 * 9, 60,
    ]  # fmt: skip


def test_onnxruntime_takes_norms_sums_and_activations_with_the_convolution(content: bytes) -> None:
    kernels = [k for k, _ in profiled(content, IMAGES)]
    computing = [k for k in kernels if not k.kind.startswith(("Reorder", "Reshape", "ReduceMean"))]
    assert [k.kind.removesuffix("+blocked") for k in computing] == ["conv", "conv", "conv", "depthwise", "linear"]
    stem, wide, narrow, deep, head = computing
    assert (stem.size, stem.stride, stem.height, wide.size, narrow.size) == ((3, 3), (2, 2), 4, (3, 1), (1, 3))
    # With the shortcut it reads as many numbers more as it writes.
    assert narrow.read == (narrow.inputs + narrow.outputs) * narrow.height * narrow.width
    assert deep.groups == deep.inputs >= 6
    assert (head.inputs, head.outputs, head.weights) == (6, 10, 60)


def test_weights_of_fewer_bits_are_unpacked_by_kernels_of_their_own_in_onnxruntime(model: nn.Module) -> None:
    low = copy.deepcopy(model)
    for name in ("narrow", "head"):
        quantise(low.get_submodule(name), uniform(low.get_submodule(name).weight, 4))
    settle(low)
    kinds = Counter(k.kind for k in kernels_of(low.eval(), IMAGES, "onnx"))
    assert sum(n for kind, n in kinds.items() if kind.startswith("DequantizeLinear+")) == 2
    assert torch_kernels(low, IMAGES) == torch_kernels(model, IMAGES)


def test_nodes_are_timed_in_their_places_beside_the_whole_network(model: nn.Module, content: bytes) -> None:
    images = IMAGES.expand(2, -1, -1, -1)
    nodes = profiled(content, images, runs=4)
    assert [k for k, _ in nodes] == [k for k, _ in profiled(content, images)]
    assert all(seconds > 0 for _, seconds in nodes)
    assert {k.batch for k, _ in nodes if k.multiplies} == {2}
    (one,) = (found for found in timed(model, [model], IMAGES, "onnx") if found is not None)
    assert len(one.kernels) == len(one.seconds) == len(nodes)
    assert one.ms > 0


def test_what_does_not_run_is_told() -> None:
    with pytest.raises(ModelError, match="cannot run"):
        profiled(b"no graph", IMAGES)


def test_a_resized_kernel_is_that_of_a_resized_layer(model: nn.Module) -> None:
    def of(layer: nn.Module, images: Tensor) -> Kernel:
        return torch_kernels(layer, images)[0]

    square = torch.zeros(1, 6, 4, 4)
    assert resized(of(nn.Conv2d(6, 7, 3, 2, 1), square), 5, 3) == of(nn.Conv2d(5, 3, 3, 2, 1), square[:, :5])
    deep = of(nn.Conv2d(6, 6, 3, groups=6), square)
    assert resized(deep, 2, 4) == of(nn.Conv2d(4, 4, 3, groups=4), square[:, :4])
    norm = nn.BatchNorm2d(6).eval()
    assert resized(of(norm, square), 5, 5) == of(nn.BatchNorm2d(5), square[:, :5])
    linear = of(nn.Linear(6, 10), torch.zeros(1, 6))
    assert resized(linear, 5, 10) == of(nn.Linear(5, 10), torch.zeros(1, 5))


def test_every_drawn_kernel_can_be_timed_alone(model: nn.Module) -> None:
    own = torch_kernels(model, IMAGES)
    sample = drawn(own, share=0.002)
    assert {k.kind for k in sample} == {k.kind for k in own}
    assert all((seconds(k) or 0) > 0 for k in sample)


def test_forms_that_compressing_brings_are_drawn_too(model: nn.Module) -> None:
    plain = torch_kernels(nn.Conv2d(3, 8, 3), IMAGES)
    sizes = {k.size for k in drawn(plain, torch_kernels(model, IMAGES), share=0.05)}
    assert sizes >= {(3, 3), (3, 1), (1, 3)}
    # Halves of a product are always drawn; a stride of two comes of the networks alone.
    assert {k.stride for k in drawn(plain, share=0.05)} == {(1, 1)}
    assert (2, 2) in {k.stride for k in drawn(plain, torch_kernels(model, IMAGES), share=0.05)}


def test_a_model_that_does_not_run_is_told() -> None:
    with pytest.raises(ModelError):
        torch_kernels(nn.Conv2d(4, 4, 3), IMAGES)


def test_networks_are_timed_in_turns_and_one_that_does_less_takes_less() -> None:
    small, large = torch.rand(8, 8), torch.rand(256, 256)
    first, second, _ = in_turns(lambda: small @ small, lambda: large @ large)
    assert 0 < first < second

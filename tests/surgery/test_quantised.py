"""Quantised layers: trained through the rounding, cut like others, saved and exported."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from group_nets import build
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from automc.datasets.base import TrainData
from automc.errors import ArtefactError
from automc.methods.quantising import quantisable
from automc.models import packing, structure
from automc.models.description import digest_of, layer_shapes
from automc.models.edits import from_spec, spec_of
from automc.models.export import export
from automc.models.load import load
from automc.models.measure import count_flops, count_params, latency
from automc.surgery import lowrank, tucker
from automc.surgery.groups import Groups
from automc.surgery.levels import Levels, kmeans, uniform
from automc.surgery.quantised import QUANTISED, QuantConv2d, QuantLinear, quantise, quantised, settle
from automc.training.loop import fit
from automc.training.recipe import Recipe

NETS = ["resnet-a", "vgg", "grouped", "inverted", "concat"]
EXAMPLE = torch.zeros(2, 3, 16, 16)
KINDS = ["scale", "codebook"]


def quantise_all(model: nn.Module, kind: str, bits: int = 4, done: bool = True) -> nn.Module:
    for layer in quantisable(model).values():
        weight = layer.weight
        quantise(layer, uniform(weight, bits) if kind == "scale" else Levels(bits, codebook=kmeans(weight, 2**bits)))
    if done:
        settle(model)
    return model


def codes(model: nn.Module) -> dict[str, Tensor]:
    return {name: m.levels.codes(m.weight) for name, m in model.named_modules() if isinstance(m, QUANTISED)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_computes_with_the_nearest_levels(kind: str) -> None:
    model = quantise_all(build("vgg"), kind, done=False).train()
    layer = model.features[4]
    x = torch.randn(2, layer.in_channels, 5, 5, requires_grad=True)
    plain = copy.deepcopy(layer)
    plain.settle()
    torch.testing.assert_close(layer(x), plain.eval()(x))
    layer(x).square().sum().backward()
    plain(x).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)  # straight through the rounding
    assert not torch.equal(layer.weight, plain.weight)
    assert torch.equal(layer.eval()(x), nn.Conv2d.forward(layer, x))


@pytest.mark.parametrize("kind", KINDS)
def test_training_ends_on_the_levels_and_moves_some_weights_to_others(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    data = TrainData(torch.randint(0, 255, (32, 3, 16, 16), generator=generator, dtype=torch.uint8),
                     torch.arange(32) % 10, mean=[0.5] * 3, std=[0.25] * 3)  # fmt: skip
    model = quantise_all(build("vgg"), kind)
    before = codes(model)
    fit(model, data, iterations=4, recipe=Recipe(batch=16, lr=0.05), seed=0)
    for layer in (m for m in model.modules() if isinstance(m, QUANTISED)):
        assert torch.equal(layer.levels.nearest(layer.weight), layer.weight)
        assert len(layer.weight.unique()) <= 16 * (len(layer.weight) if kind == "scale" else 1)
    assert any(not torch.equal(before[name], now) for name, now in codes(model).items())


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("kind", KINDS)
def test_pruning_leaves_the_codes_of_what_stays(net: str, kind: str) -> None:
    model, floats = quantise_all(build(net), kind), build(net)
    floats.load_state_dict(model.state_dict(), strict=False)
    groups, same = Groups(model, EXAMPLE), Groups(floats, EXAMPLE)
    assert [g.root for g in groups.groups] == [g.root for g in same.groups]
    scores = [groups.weight_norms(g) for g in groups.groups]
    plan = groups.plan(scores, int(0.7 * count_params(model)), groups.caps(0.5))
    before = {name: set(m.scale.tolist()) for name, m in model.named_modules() if getattr(m, "scale", None) is not None}
    groups.apply(plan)
    same.apply(same.removal(plan.removed, plan.params))
    assert count_params(model) == count_params(floats) == plan.params
    for name, layer in model.named_modules():
        if isinstance(layer, QUANTISED):
            assert torch.equal(layer.weight, floats.get_submodule(name).weight)
            assert torch.equal(layer.levels.nearest(layer.weight), layer.weight)
            assert kind == "codebook" or set(layer.scale.tolist()) <= before[name]
    assert model.eval()(torch.randn(2, 3, 16, 16)).isfinite().all()


def test_a_quantised_layer_is_no_place_for_factors() -> None:
    model = build("resnet-a")
    assert lowrank.sites(model)
    quantise_all(model, "scale")
    assert not lowrank.sites(model)
    assert not tucker.sites(model)


def test_what_is_quantised() -> None:
    model = build("vgg")
    model.features[4] = nn.utils.parametrizations.weight_norm(model.features[4])
    names = list(quantisable(model, keep=("features.0",)))
    assert "features.4" not in names
    assert "features.0" not in names
    assert {"features.8", "fc"} <= set(names)
    quantise_all(model, "scale")
    assert set(quantised(model)) == set(names) | {"features.0"}
    assert not quantisable(model)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    tied[1].weight = tied[0].weight
    assert list(quantisable(tied)) == ["2"]


@pytest.mark.parametrize("levels", [None, 9])
def test_specs_rebuild_layers(levels: int | None) -> None:
    conv = QuantConv2d(
        4, 6, (3, 1), stride=2, padding="valid", dilation=(1, 2), groups=2, bias=False, bits=5, levels=levels
    )
    linear = QuantLinear(7, 5, bits=3, levels=levels)
    for layer in (conv, linear):
        again = from_spec(spec_of(layer))
        assert type(again) is type(layer)
        assert repr(again) == repr(layer)
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in layer.state_dict().items()
        }
    assert "bits=5" in repr(conv)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_measured_and_exported(kind: str, tmp_path: Path) -> None:
    loaded = load("resnet8")
    plain = copy.deepcopy(loaded.model).eval()
    model = quantise_all(loaded.model, kind, bits=3).eval()
    example = torch.randn(2, 3, 32, 32)
    assert count_params(model) == count_params(plain)
    assert count_flops(model, example) == count_flops(plain, example)
    assert latency(model, example, repeats=2).median_ms > 0
    structure.save(tmp_path / "x.am", model, loaded.source, metadata={})
    back = structure.read(tmp_path / "x.am").model
    assert torch.equal(back(example), model(example))
    assert all(torch.equal(now, codes(model)[name]) for name, now in codes(back).items())
    assert quantised(back) == quantised(model)
    weights = {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert layer_shapes(tmp_path / "x.am") == {name: weight.shape for name, weight in weights.items()}
    done = export(model, example, tmp_path / "x.onnx")
    assert done.max_error <= done.limit


def about(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["automc"])
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_file_holds_codes_and_gives_every_bit_back(kind: str, bits: int, tmp_path: Path) -> None:
    loaded = load("resnet8")
    model = quantise_all(loaded.model, kind, bits=bits).to(memory_format=torch.channels_last)
    path = tmp_path / "x.am"
    structure.save(path, model, loaded.source, metadata={"a": 1})
    weights = [f"{name}.weight" for name in quantised(model)]
    assert set(about(path)["coded"]) == set(weights)
    assert (about(path)["format"], structure.read_head(path)[1]) == (3, {"a": 1})
    back = structure.read(path).model
    for name, tensor in model.state_dict().items():
        held = back.state_dict()[name]
        assert torch.equal(held.reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8)), name
        assert held.stride() == tensor.stride()
    assert structure.weights_hash(back) == structure.weights_hash(model)
    numbers = sum(model.get_parameter(name).numel() for name in weights)
    left = sum(t.numel() * t.element_size() for k, t in model.state_dict().items() if k not in weights)
    assert path.stat().st_size < numbers * bits / 8 + left + 20_000


def test_resnet20_at_4_bits_takes_less_than_150_kb(tmp_path: Path) -> None:
    torch.manual_seed(0)
    loaded = load("resnet20")
    structure.save(tmp_path / "float.am", loaded.model, loaded.source, metadata={})
    layers = quantisable(loaded.model)
    for place, layer in enumerate(layers.values()):
        quantise(layer, uniform(layer.weight, 8 if place in (0, len(layers) - 1) else 4))
    settle(loaded.model)
    structure.save(tmp_path / "x.am", loaded.model, loaded.source, metadata={})
    assert (tmp_path / "x.am").stat().st_size < 150_000
    assert (tmp_path / "float.am").stat().st_size > 1_000_000
    held = packing.pack(loaded.model.state_dict(), packing.find(loaded.model, loaded.model.state_dict()))
    assert sum(t.numel() for name, t in held.items() if name.endswith(packing.SUFFIX)) == (268_336 + 1_072) // 2


def test_weights_off_their_levels_are_held_as_they_are(tmp_path: Path) -> None:
    loaded = load("resnet8")
    model = quantise_all(loaded.model, "scale")
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] += 1e-4
    structure.save(tmp_path / "x.am", model, loaded.source, metadata={})
    assert set(about(tmp_path / "x.am")["coded"]) == {f"{name}.weight" for name in quantised(model)} - {"conv1.weight"}
    assert torch.equal(structure.read(tmp_path / "x.am").model.conv1.weight, model.conv1.weight)


@pytest.mark.parametrize(
    "change",
    [
        {"content_bytes": 100}, {"coded": {}}, {"coded": None}, {"bits": 9}, {"bits": 3}, {"shape": [1]},
        {"table": "no"}, {"centre": None},
    ],
)  # fmt: skip
def test_a_file_of_codes_that_says_something_else_is_damaged(change: dict[str, Any], tmp_path: Path) -> None:
    loaded = load("resnet8")
    path = tmp_path / "x.am"
    structure.save(path, quantise_all(loaded.model, "scale"), loaded.source, metadata={})
    said = about(path)
    if set(change) <= set(said):
        said |= change
    else:
        said["coded"]["conv1.weight"] |= change
    said["digest"] = digest_of(said)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"automc": json.dumps(said)})
    with pytest.raises(ArtefactError, match="is damaged: its weights"):
        structure.read(path)

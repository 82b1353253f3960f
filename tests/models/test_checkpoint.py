"""Checkpoints as trainers and tools leave them: understood and said, or refused with the reason; no code is run."""

from __future__ import annotations

import argparse
import copy
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from automc.errors import ModelError, Note
from automc.models.checkpoint import load_weights

State = dict[str, torch.Tensor]
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def averaged(state: State) -> Any:
    model = net()
    model.load_state_dict(state)
    return AveragedModel(model).state_dict()


FORMS: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda s: s, ""),
    "wrapped": (lambda s: {"model": s, "epoch": 3, "optimizer": {"state": {0: {"m": torch.zeros(3)}}}}, ""),
    "lightning": (
        lambda s: {
            "state_dict": {**{f"model.{k}": v for k, v in s.items()}, "criterion.weight": torch.ones(3)},
            "hyper_parameters": argparse.Namespace(lr=0.1),
            "best": np.float64(0.5),
        },
        r"prefix 'model\.' is taken off.*left out, being outside of 'model\.': criterion\.weight",
    ),
    "a longer prefix": (lambda s: {f"backbone.encoder.{k}": v for k, v in s.items()}, r"prefix 'backbone\.encoder\.'"),
    "averaged": (lambda s: {"swa": averaged(s)}, "under 'swa' are read.*left out, as no layer has them: n_averaged"),
    "under any name": (lambda s: {"a": {"b": {"ema_weights": s}}}, r"under 'a\.b\.ema_weights' are read"),
    "compiled inside": (lambda s: {k.replace("0.", "0._orig_mod.", 1): v for k, v in s.items()}, "_orig_mod"),
    "profiled": (
        lambda s: {**s, "total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
        r"left out, as no layer has them: total_ops, 0\.total_params",
    ),
    "of two, the training's": (
        lambda s: {"ema": {k: v * 2 for k, v in s.items()}, "state_dict": s},
        "under 'state_dict' are read; 'ema' would fit too",
    ),
    "behind what an optimiser keeps of each weight": (
        lambda s: {"opt": {"exp_avg": {k: v * 0 for k, v in s.items()}}, "backbone": s},
        r"under 'backbone' are read; 'opt\.exp_avg' would fit too",
    ),
    "behind one that cannot be used": (
        lambda s: {"model": {**s, "1.running_var": -s["1.running_var"]}, "swa": s},
        r"under 'swa' are read; 'model' would fit too",
    ),
    "averaged by hand, counters and all": (lambda s: {**s, "1.num_batches_tracked": torch.tensor(2.75)}, ""),
    "deep": (lambda s: {"a": {"b": {"c": {"d": {"e": {"f": s}}}}}}, r"under 'a\.b\.c\.d\.e\.f' are read"),
    "arrays": (lambda s: {k: v.numpy() for k, v in s.items()}, ""),
    "without counters": (lambda s: {k: v for k, v in s.items() if "num_batches" not in k}, ""),
    "double": (lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()}, "float64 numbers"),
    "double, counters and all": (lambda s: {k: v.double() for k, v in s.items()}, "float64 numbers become float32"),
    "sparse": (lambda s: {**s, "5.weight": s["5.weight"].to_sparse()}, "sparse_coo are made dense"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_are_understood_and_said(form: str, tmp_path: Path) -> None:
    change, said = FORMS[form]
    torch.manual_seed(1)
    source, other = net().eval(), net().eval()
    torch.save(change(copy.deepcopy(source.state_dict())), tmp_path / "w.pt")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", Note)
        load_weights(other, tmp_path / "w.pt")
    assert torch.equal(other(X), source(X))
    told = " ".join(str(note.message) for note in notes if issubclass(note.category, Note))
    assert bool(told) == bool(said), told
    if said:
        assert re.search(said, told), told


def test_a_mask_may_be_infinite(tmp_path: Path) -> None:
    source, other = net(), net()
    for model in (source, other):
        model.register_buffer("mask", torch.zeros(3))
    source.mask[1] = -torch.inf
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(other, tmp_path / "w.pt")
    assert torch.equal(other.mask, source.mask)


class Plain(nn.Sequential):
    """Its state_dict is a dictionary that knows nothing of versions."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return dict(super().state_dict(*args, **kwargs))


def test_a_state_dict_of_the_users_own(tmp_path: Path) -> None:
    source, other = Plain(*net()).eval(), Plain(*net()).eval()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(other, tmp_path / "w.pt")
    assert torch.equal(other(X), source(X))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_halves_are_cast(dtype: torch.dtype, tmp_path: Path) -> None:
    source, other = net(), net()
    for tensor in (*source.parameters(), *source.buffers()):
        tensor.data = tensor.data.to(dtype) if tensor.is_floating_point() else tensor.data
    torch.save(source.state_dict(), tmp_path / "w.pt")
    with pytest.warns(Note, match=f"{str(dtype)[6:]} numbers become float32"):
        load_weights(other, tmp_path / "w.pt")
    assert torch.equal(other[5].weight, source[5].weight.float())


def test_safetensors_by_content(tmp_path: Path) -> None:
    source, other = net().eval(), net().eval()
    save_file(source.state_dict(), tmp_path / "model.bin")
    load_weights(other, tmp_path / "model.bin")
    assert torch.equal(other(X), source(X))
    torch.save(source.state_dict(), tmp_path / "model.safetensors")
    load_weights(net(), tmp_path / "model.safetensors")


def test_one_of_two_names_of_a_tensor(tmp_path: Path) -> None:
    source, other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for model in (source, other):
        model[1].weight = model[0].weight
    torch.save({k: v for k, v in source.state_dict().items() if k != "0.weight"}, tmp_path / "w.pt")
    load_weights(other, tmp_path / "w.pt")
    assert torch.equal(other[0].weight, source[1].weight)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {**s, "0.bias2": torch.zeros(4)}, r"the model has no 0\.bias2"),
        (lambda s: {**s, "6.weight": torch.zeros(1)}, r"the model has no 6\.weight"),
        (lambda s: {k: v for k, v in s.items() if k != "5.bias"}, r"it lacks 5\.bias"),
        (lambda s: {**s, "5.weight": torch.zeros(3, 5)}, r"5\.weight is 3×5 in the file and 3×4"),
        (lambda s: {**s, "5.weight": s["5.weight"].to("meta")}, r"5\.weight is without content"),
        (lambda s: {**s, "5.weight": s["5.weight"].to(torch.complex64)}, r"5\.weight is of complex64 numbers"),
        (
            lambda s: {**s, "5.weight": s["5.weight"] / torch.tensor([[1.0], [0.0], [1.0]]) * 0},
            "4 values of 5.weight are NaN",
        ),
        (lambda s: {**s, "5.weight": s["5.weight"] / 0}, "12 values of 5.weight are (NaN|infinite)"),
        (lambda s: {**s, "1.running_var": -s["1.running_var"]}, "4 values of 1.running_var are negative"),
        (lambda s: {**s, "1.running_mean": s["1.running_mean"] + torch.inf}, "4 values of 1.running_mean are infinite"),
        (lambda s: {**s, "1.num_batches_tracked": torch.tensor(torch.nan)}, r"tracked is of float32 numbers; .*int64"),
        (lambda s: {**s, "5.weight": s["5.weight"].to(torch.int8)}, r"5\.weight is of int8 numbers"),
        (
            lambda s: {**s, "5.weight": torch.quantize_per_tensor(s["5.weight"], 0.1, 0, torch.qint8)},
            r"5\.weight is quantised",
        ),
        (lambda s: {"epoch": 3, "model": {}}, "holds no tensors"),
        (lambda s: {}, "holds nothing"),
    ],
)
def test_what_cannot_be_used_is_refused(change: Callable[[State], Any], said: str, tmp_path: Path) -> None:
    torch.save(change(net().state_dict()), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=said):
        load_weights(net(), tmp_path / "w.pt")


class Evil:
    def __reduce__(self) -> Any:
        return open, (str(Path(__file__).with_name("was_run")), "w")


def test_no_code_is_run(tmp_path: Path) -> None:
    for content in ({"state_dict": net().state_dict(), "callback": Evil()}, {"model": Evil()}):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(ModelError, match=r"holds a pickled Python object"):
            load_weights(net(), tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelError, match=r"w\.pt"):
        load_weights(net(), tmp_path / "w.pt")
    assert not Path(__file__).with_name("was_run").exists()

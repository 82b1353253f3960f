"""The LMA module: its formula, its gradients, its statistics, its warm start, and how it travels."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from model_nets import USER_FILE, randomise
from torch import Tensor, fx, nn

from automc.models import structure
from automc.models.artefact import unpack
from automc.models.load import load, prepare
from automc.models.measure import count_flops, count_params
from automc.surgery import lma as lma_module
from automc.surgery.groups import Groups
from automc.surgery.lma import LMA, Pieces, fit, grid, statistics
from automc.surgery.lma_sites import insert, multi_segment, replaceable
from automc.surgery.sites import split_activations

SEGMENTS = (2, 3, 6, 8, 10)


def reference(x: Tensor, slope: Tensor, offset: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The paper's formula by its index, with a plain gather."""
    k = len(slope)
    index = torch.floor((x - mean + 3 * std) * k / (6 * std)).clamp(0, k - 1).long()
    return slope[index] * x + offset[index]


def some(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained(segments: int, seed: int = 3) -> LMA:
    """Parameters and statistics that no initialisation has."""
    lma = LMA(segments)
    lma.slope.data, lma.offset.data = some(segments, seed=seed), some(segments, seed=seed + 1)
    lma.mean.fill_(0.3)
    lma.std.fill_(0.8)
    return lma


@pytest.mark.parametrize("k", SEGMENTS)
@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 3, 4, 5), (3, 5, 9, 2)])
def test_forward_and_gradients_are_those_of_the_gather(k: int, shape: tuple[int, ...]) -> None:
    x, weights = 2 * some(*shape, dtype=torch.float64) + 1, some(*shape, seed=1, dtype=torch.float64)
    mean, std = x.mean(), x.std()
    results = []
    for fused in (True, False):
        leaves = [t.clone().requires_grad_() for t in (x, some(k, seed=2).double(), some(k, seed=3).double())]
        if fused:
            y = Pieces.apply(*leaves, *grid(mean, std, k))
        else:
            y = reference(*leaves, mean, std)
        (y * weights).sum().backward()
        results.append([y.detach(), *(t.grad for t in leaves)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", SEGMENTS)
def test_gradcheck(k: int) -> None:
    scale, shift = grid(torch.tensor(0.2, dtype=torch.float64), torch.tensor(1.1, dtype=torch.float64), k)
    x = 2 * some(40, dtype=torch.float64)
    assert (x * scale + shift).frac().abs().clamp(max=0.5).min() > 1e-4, "away from the jumps"
    leaves = [x.requires_grad_(), *(some(k, seed=s).double().requires_grad_() for s in (2, 3))]
    assert torch.autograd.gradcheck(lambda *t: Pieces.apply(*t, scale, shift), leaves)


def test_large_tensors_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = some(2, 3, 11, 5)
    outputs = []
    for cached in (7, 64, 10**6):
        monkeypatch.setattr(lma_module, "CACHED", cached)
        lma, leaf = trained(6).train(), x.clone().requires_grad_()
        y = lma(leaf)
        y.square().sum().backward()
        outputs.append([y.detach(), leaf.grad, lma.slope.grad, lma.offset.grad, lma.mean, lma.std])
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("arrange", ["contiguous", "channels_last", "sliced", "transposed"])
def test_any_memory_format_gives_the_same(arrange: str) -> None:
    x = some(3, 4, 6, 5)
    if arrange == "channels_last":
        given = x.contiguous(memory_format=torch.channels_last)
    elif arrange == "sliced":
        given = torch.cat((x, x), 3)[..., :5]
    else:
        given = x if arrange == "contiguous" else x.transpose(0, 3).contiguous().transpose(0, 3)
    assert torch.equal(given, x)
    upstream = some(3, 4, 6, 5, seed=1)
    expected = trained(6).train()
    actual = copy.deepcopy(expected)
    leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, given)]
    outs = [lma(t) for lma, t in zip((expected, actual), leaves, strict=True)]
    for out in outs:
        out.backward(upstream)
    torch.testing.assert_close(outs[1], outs[0])
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad)
    torch.testing.assert_close(actual.slope.grad, expected.slope.grad)
    torch.testing.assert_close(actual.offset.grad, expected.offset.grad)
    if arrange == "channels_last":
        assert outs[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("k", SEGMENTS)
def test_it_adds_two_parameters_per_segment(k: int) -> None:
    assert sum(p.numel() for p in LMA(k).parameters()) == 2 * k


@pytest.mark.parametrize("k", [2, 6, 8, 10])
def test_a_fresh_one_is_relu_where_the_mean_is_zero(k: int) -> None:
    h = some(500)
    x = torch.cat((h, -h)).view(10, 4, 5, 5)
    assert torch.equal(LMA(k).train()(x), F.relu(x))


def test_slope_one_and_offset_zero_is_the_identity() -> None:
    lma = LMA(7)
    lma.slope.data.fill_(1)
    x = some(4, 5)
    assert torch.equal(lma.train()(x), x)
    assert torch.equal(lma.eval()(x), x)


def test_it_is_piecewise_linear() -> None:
    lma = trained(6).eval()
    x = torch.linspace(-5, 5, 2001).requires_grad_()
    (slope,) = torch.autograd.grad(lma(x).sum(), x)
    assert len(slope.unique()) == 6
    changes = x.detach()[1:][slope.diff() != 0]
    torch.testing.assert_close(changes, 0.3 + 0.8 * torch.arange(-2.0, 3.0), rtol=0, atol=0.0051)


def test_statistics_are_those_of_all_elements() -> None:
    for x in (some(4, 3, 5, 7), 1000 + 0.5 * some(20000), some(3, 4, 5, 6).to(memory_format=torch.channels_last)):
        mean, std = statistics(x)
        torch.testing.assert_close(mean.double(), x.double().mean(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(std.double(), x.double().std(), rtol=1e-4, atol=0)
    assert statistics(torch.ones(1))[1] == 0


def test_averages_start_with_the_first_batch_and_then_follow() -> None:
    lma = LMA(6).train()
    means, stds = [], []
    for step in range(150):
        x = some(50, seed=step) * (1 + step / 50) + step
        lma(x)
        means.append(x.mean().item())
        stds.append(x.std().item())
        if step == 0:
            assert (lma.mean.item(), lma.std.item()) == pytest.approx((means[0], stds[0]), rel=1e-5)
    expected = [sum(values[:100]) / 100 for values in (means, stds)]
    for late in zip(means[100:], stds[100:], strict=True):
        expected = [0.99 * e + 0.01 * value for e, value in zip(expected, late, strict=True)]
    assert [lma.mean.item(), lma.std.item()] == pytest.approx(expected, rel=1e-4)
    before = copy.deepcopy(lma.state_dict())
    lma.eval()(some(50))
    assert all(torch.equal(v, before[k]) for k, v in lma.state_dict().items())
    assert {"mean", "std", "batches"} < set(before)


def test_training_uses_the_batch_and_evaluation_the_averages() -> None:
    lma = trained(8)
    x = 2 * some(300) - 1
    expected = reference(x, lma.slope, lma.offset, lma.mean.clone(), lma.std.clone())
    torch.testing.assert_close(lma.eval()(x), expected)
    torch.testing.assert_close(lma.train()(x), reference(x, lma.slope, lma.offset, x.mean(), x.std()))


def test_evaluation_does_not_depend_on_the_batch() -> None:
    lma = trained(6).eval()
    x = some(6, 3, 4, 4)
    together = lma(torch.cat((x, 100 * x)))[:6]
    torch.testing.assert_close(together, lma(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(together[2:3], lma(x[2:3]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, -300.0])
@pytest.mark.parametrize("mode", [True, False])
def test_a_constant_input_stays_finite(value: float, mode: bool) -> None:
    lma = trained(6)
    lma.mean.fill_(value)
    lma.std.fill_(0)
    x = torch.full((3, 2, 4, 4), value).requires_grad_()
    y = lma.train(mode)(x)
    y.sum().backward()
    assert all(torch.isfinite(t).all() for t in (y, x.grad, lma.slope.grad, lma.offset.grad, lma.mean, lma.std))


def test_what_is_not_a_number_stays_so() -> None:
    y = trained(6).eval()(torch.tensor([0.1, torch.nan, torch.inf]))
    assert y.isfinite().tolist() == [True, False, False]


def test_bfloat16_is_worked_on_in_float32() -> None:
    x = some(8, 4, 9, 9).bfloat16()
    results = []
    for half in (True, False):
        lma = trained(8).train()
        leaf = (x if half else x.float()).clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = lma(leaf)
        assert y.dtype == leaf.dtype
        y.backward(x.to(y.dtype))
        results.append([y.float(), leaf.grad.float(), lma.slope.grad, lma.offset.grad, lma.mean, lma.std])
    half, full = results
    torch.testing.assert_close(half[:2], full[:2], rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(half[2:], full[2:], rtol=1e-4, atol=1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_agrees_with_the_cpu(dtype: torch.dtype) -> None:
    x = some(16, 8, 9, 9).to(dtype)
    results = []
    for device in ("cpu", "cuda"):
        lma, leaf = trained(8).to(device).train(), x.to(device).requires_grad_()
        with torch.autocast(device, torch.bfloat16, enabled=dtype is torch.bfloat16):
            y = lma(leaf)
        y.square().sum().backward()
        results.append([t.detach().float().cpu() for t in (y, leaf.grad, lma.slope.grad, lma.offset.grad, lma.std)])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(("k", "tolerance"), [(6, 0.022), (8, 0.014), (10, 0.009)])
@pytest.mark.parametrize("mean", [-2.0, -0.7, 0.0, 0.31, 1.2])
@pytest.mark.parametrize("std", [0.02, 1.0, 30.0])
def test_the_warm_start_is_close_to_relu(k: int, tolerance: float, mean: float, std: float) -> None:
    mean = mean * std
    lma = LMA(k).eval()
    lma.mean.fill_(mean)
    lma.std.fill_(std)
    slope, offset = fit(nn.ReLU(inplace=True), lma.mean, lma.std, k)
    lma.slope.data.copy_(slope)
    lma.offset.data.copy_(offset)
    x = mean + std * some(20000)
    assert (lma(x) - F.relu(x)).abs().mean() <= tolerance * std


@pytest.mark.parametrize("act", [nn.ReLU6(), nn.LeakyReLU(0.2), nn.GELU(), nn.SiLU(), nn.ELU(), nn.Hardswish()])
def test_other_activations_are_fitted_too(act: nn.Module) -> None:
    mean, std = torch.tensor(0.4), torch.tensor(1.5)
    x = mean + std * some(20000)
    index = ((x - mean + 3 * std) * 10 / (6 * std)).floor().clamp(0, 9).long()
    slope, offset = (t.float() for t in fit(act, mean, std, 10))
    error = slope[index] * x + offset[index] - act(x)
    assert error.abs().mean() < 0.02 * std
    for j in range(10):  # a least-squares line leaves nothing that a line could explain
        inside = error[index == j]
        assert abs(inside.mean()) < 0.02 * std


def test_the_exportable_form_is_the_same_function() -> None:
    lma = trained(10).eval()
    x = 2 * some(4, 3, 8, 8)
    exported = torch.export.export(nn.Sequential(lma), (x,))
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert all(name.startswith("aten.") for name in called), called
    torch.testing.assert_close(exported.module()(x), lma(x))
    traced = torch.jit.trace(lma, x)
    torch.testing.assert_close(traced(x), lma(x))


class Called(nn.Module):
    """One shared ReLU under two names, one that never runs, functions, and a PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.alias = self.act
        self.unused = nn.ReLU()
        self.prelu = nn.PReLU(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv1(x))
        x = self.prelu(self.conv2(x))
        return self.fc(x.mean((2, 3)))


def test_only_activations_that_run_are_replaced_each_by_its_own() -> None:
    model, x = Called().train(), some(8, 3, 6, 6)
    names = replaceable(model, x)
    assert names == ("act",)
    assert replaceable(model, x, ("ac*",)) == ()
    insert(model, names, 6, x)
    assert isinstance(model.act, LMA)
    assert model.alias is model.act
    assert model.training
    assert model.act.training
    assert type(model.unused) is nn.ReLU
    assert type(model.prelu) is nn.PReLU
    h = model.conv1(x)
    torch.testing.assert_close([model.act.mean, model.act.std], [h.mean(), h.std()])
    assert list(multi_segment(model)) == ["act"]


def test_sites_are_calibrated_behind_each_other() -> None:
    torch.manual_seed(0)
    net = [layer for _ in range(5) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())]
    model, x = nn.Sequential(*net).eval(), some(16, 4, 8, 8)
    with torch.no_grad():
        before = model(x)
        insert(model, replaceable(model, x), 10, x)
        inside = model[:4](x)
    torch.testing.assert_close(model[5].mean, model[4](inside).mean())
    error = (model(x) - before).abs().mean() / before.std()
    assert error < 0.05
    official = copy.deepcopy(model)
    for lma in multi_segment(official).values():
        fresh = LMA(10)
        lma.slope.data, lma.offset.data = fresh.slope.data, fresh.offset.data
    assert (official(x) - before).abs().mean() / before.std() > 3 * error


def test_another_number_of_segments_resamples_the_lines() -> None:
    x = some(64, 3, 8, 8)
    model = nn.Sequential(nn.ReLU()).eval()
    insert(model, ("0",), 6, x)
    coarse = model[0]
    with torch.no_grad():
        wanted = coarse(x)
        insert(model, ("0",), 60, x)
        assert model[0].segments == 60
        assert (model[0](x) - wanted).abs().mean() < 0.01
    assert coarse.segments == 6


def test_fx_and_the_pruner_step_over_it(tmp_path: Path) -> None:
    """A function-style model, split, swapped, traced again, pruned, counted, and read back from a file."""
    (tmp_path / "mine.py").write_text(USER_FILE)
    loaded = load(f"{tmp_path / 'mine.py'}:build")
    x = some(4, 3, 8, 8)
    model = split_activations(prepare(randomise(loaded.model), x).eval())
    flops, params, groups = count_flops(model, x), count_params(model), Groups(model, x)
    names = replaceable(model, x)
    assert len(names) == 5
    insert(model, names, 6, x)
    assert count_flops(model, x) == flops
    assert count_params(model) == params + 5 * 12
    assert isinstance(split_activations(model), fx.GraphModule)
    assert len(multi_segment(split_activations(model))) == 5

    swapped = Groups(model, x)
    assert [(g.root, g.units, g.stream) for g in swapped.groups] == [(g.root, g.units, g.stream) for g in groups.groups]
    plan = swapped.plan([swapped.weight_norms(g).double().numpy() for g in swapped.groups], 1200, swapped.caps(0.5))
    swapped.apply(plan)
    assert count_params(model) == plan.params
    structure.save(tmp_path / "m.am", model, loaded.source, metadata={})
    again = structure.read(tmp_path / "m.am").model
    assert torch.equal(again(x), model(x))
    assert structure.weights_hash(again) == structure.weights_hash(model)


def test_too_few_segments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        LMA(1)


def test_files_name_its_module_as_the_first_release_did(tmp_path: Path) -> None:
    loaded = load("resnet8")
    loaded.model.relu1 = LMA(5)
    structure.save(tmp_path / "m.am", loaded.model, loaded.source, metadata={})
    head = unpack(tmp_path / "m.am", tmp_path / "m.am", weights=False)[0]
    assert [edit["spec"]["from"] for edit in head["edits"]] == ["automc.models.lma"]
    # In a process of its own nothing has imported the class before the file asks for it by that name.
    code = f"""
from automc.models.structure import read
print(type(read({str(tmp_path / "m.am")!r}).model.relu1).__module__)
"""
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == "automc.surgery.lma"

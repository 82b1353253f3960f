"""Resolution and channels by one search: what is asked is met, gates are the scales that they become, and who asks."""

from __future__ import annotations

import copy

import pytest
import torch
from group_nets import build
from test_contract import count, same
from torch import nn

from automc import methods
from automc.datasets.ref import DataRef
from automc.errors import Infeasible, MethodError
from automc.methods.gates import Gates
from automc.models import structure
from automc.models.export import export
from automc.models.load import load
from automc.models.measure import count_flops
from automc.study.limits import Limit
from automc.study.reach import unasked
from automc.study.spec import Budget, StudySpec
from automc.surgery.downsampled import Downsampled
from automc.surgery.groups import Groups
from automc.training.recipe import Recipe
from kg.schema import Strategy

DEFAULTS = {"HP1": 0.2, "HP2": 0.2, "HP25": 0.2, "HP27": 0.2}
EXAMPLE = torch.zeros(2, 3, 16, 16)


def strategy(**settings: float) -> Strategy:
    return Strategy("MDP", tuple({**DEFAULTS, **settings}.items()))


@pytest.mark.parametrize("share", [0.1, 0.4])
@pytest.mark.parametrize("net", ["resnet-a", "vgg"])
def test_flops_go_by_resolution_and_parameters_by_channels(net: str, share: float, context) -> None:
    model = build(net)
    out, report = methods.get("MDP").apply(model, strategy(HP27=share), context(count(model)))
    assert report.details["flops_by_resolution"] >= share
    assert 1 - count_flops(out, EXAMPLE) / count_flops(model, EXAMPLE) >= share
    lowered = {name: m.factor for name, m in out.named_modules() if isinstance(m, Downsampled)}
    assert lowered == report.details["resolutions"]
    assert report.params_out <= report.target
    assert report.details["channels"]


def test_nothing_is_lowered_where_nothing_is_asked(context) -> None:
    model = build("vgg")
    out, report = methods.get("MDP").apply(model, strategy(HP27=0), context(count(model)))
    assert report.details["resolutions"] == {}
    assert not any(isinstance(m, Downsampled) for m in out.modules())


@pytest.mark.parametrize("net", ["resnet-a", "vgg", "factored", "norms"])
def test_gates_begin_open_and_become_part_of_the_weights(net: str) -> None:
    model = build(net)
    before, images = copy.deepcopy(model), torch.randn(3, 3, 16, 16)
    wanted = model(images)
    groups = Groups(model, EXAMPLE)
    gates = Gates(groups)
    with gates.working():
        assert torch.equal(model(images), wanted)
        with torch.no_grad():
            for scores in gates.scores:
                scores.uniform_(0.5, 1.5)
        gated = model(images)
    assert not torch.allclose(gated, wanted)
    assert torch.equal(model(images), wanted)
    assert same(model, before)
    gates.fold()
    torch.testing.assert_close(model(images), gated, rtol=1e-4, atol=1e-5)


def test_closed_gates_count_as_units_that_went() -> None:
    model = build("resnet-a")
    groups = Groups(model, EXAMPLE)
    gates = Gates(groups)
    assert int(gates.open_params()) == count(model)
    with torch.no_grad():
        gates.scores[1][:3] = 0.0
    place = next(g for g, group in enumerate(groups.groups) if group is gates.of[1][0])
    assert int(gates.open_params()) == groups.params([3 if g == place else 0 for g in range(len(groups.groups))])


def test_a_model_without_large_maps_and_too_much_are_refused(context) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 8), nn.ReLU(), nn.Linear(8, 10))
    with pytest.raises(Infeasible, match=r"MDP.*no convolution of this model has an output of at least 4 × 4"):
        methods.get("MDP").apply(flat, strategy(), context(count(flat)))
    model = build("vgg")
    kept = context(count(model), keep=("features.4", "features.8"))
    with pytest.raises(Infeasible, match=r"80\.0% of the FLOPs should go by resolution, but at most 2\d\.\d% can"):
        methods.get("MDP").apply(model, strategy(HP27=0.8), kept)
    with pytest.raises(MethodError, match=r"HP27 must lie between 0 and 0\.8"):
        methods.get("MDP").apply(model, strategy(HP27=0.9), kept)


def test_the_result_is_the_same_from_a_file_and_in_another_runtime(context, tmp_path) -> None:
    from onnxruntime import InferenceSession

    start = load("resnet8")
    out, report = methods.get("MDP").apply(
        start.model, strategy(HP27=0.4), context(count(start.model), max_iterations=1)
    )
    assert report.details["resolutions"]
    structure.save(tmp_path / "x.am", out, start.source, metadata={})
    images = torch.randn(3, 3, 16, 16)
    wanted = out.eval()(images)
    assert torch.equal(structure.read(tmp_path / "x.am").model.eval()(images), wanted)
    done = export(out, EXAMPLE, tmp_path / "x.onnx", kind="onnx")
    session = InferenceSession(done.path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), wanted.detach(), rtol=1e-4, atol=1e-4)


def test_a_study_leaves_it_out_unless_flops_or_time_are_limited() -> None:
    def limited(*limits: Limit) -> StudySpec:
        return StudySpec("s", "m.am", DataRef("digits"), 0.3, Budget.parse("1step"), Recipe(), limits=limits)

    assert "--max-flops or --max-latency" in unasked(limited(), ("NS", "MDP"))["MDP"]
    assert set(unasked(limited(Limit.parse("file_bytes", "50%")), ("NS", "MDP"))) == {"MDP"}
    for figure in ("flops", "latency_ms"):
        assert not unasked(limited(Limit.parse(figure, "50%")), ("NS", "MDP"))

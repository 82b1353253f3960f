"""Exports: free and fixed batches, the comparison with PyTorch, and what cannot be exported."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn
from user_nets import transformer

from automc.errors import EnvironmentFault, ModelError
from automc.models.export import Kind, compare, export
from automc.models.shortcuts import option_a

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Net(nn.Module):
    """A batch norm that is not neutral, an option-A shortcut, dropout, and a hidden flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.shortcut = option_a(3, 6, 1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6 * 16, 4)
        nn.init.uniform_(self.bn.running_mean)
        nn.init.uniform_(self.bn.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn(self.conv(x)) + self.shortcut(x))
        return self.fc(self.drop(nn.functional.adaptive_avg_pool2d(y, 4).flatten(1)))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net()


def logits(path: Path, images: Tensor) -> Tensor:
    (found,) = InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"images": images.numpy()})
    return torch.from_numpy(found)


def test_onnx_with_a_free_batch(net: nn.Module, tmp_path: Path) -> None:
    net.train().to(memory_format=torch.channels_last)  # as training leaves it
    net.bn.eval()
    done = export(net, EXAMPLE, tmp_path / "deep" / "x.onnx")
    assert [m.training for m in (net, net.drop, net.bn)] == [True, True, False]
    assert done.images == ("batch", 3, 8, 8)
    assert (done.classes, done.batches, done.file_bytes) == (4, (1, 2, 7), done.path.stat().st_size)
    assert done.max_error < 1e-5
    written = onnx.load(done.path)
    onnx.checker.check_model(written, full_check=True)
    assert {o.domain: o.version for o in written.opset_import}[""] == done.opset
    (into,), (out,) = written.graph.input, written.graph.output
    assert (into.name, out.name) == ("images", "logits")
    assert into.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert out.type.tensor_type.shape.dim[0].dim_param == "batch"
    for n in (1, 5):
        images = torch.randn(n, 3, 8, 8)
        assert torch.allclose(logits(done.path, images), net.eval()(images), atol=1e-5)


def test_onnx_for_one_image_in_an_opset_that_is_asked_for(net: nn.Module, tmp_path: Path) -> None:
    done = export(net, EXAMPLE, tmp_path / "x.onnx", dynamic_batch=False, opset=21)
    assert (done.images, done.batches) == ((1, 3, 8, 8), (1,))
    assert done.opset == 21 == {o.domain: o.version for o in onnx.load(done.path).opset_import}[""]
    images = torch.randn(1, 3, 8, 8)
    assert torch.allclose(logits(done.path, images), net.eval()(images), atol=1e-5)
    with pytest.raises(Exception, match=r"(?i)dimension|shape"):
        logits(done.path, torch.zeros(2, 3, 8, 8))


def test_torch_export(net: nn.Module, tmp_path: Path) -> None:
    net.to(memory_format=torch.channels_last)
    done = export(net, EXAMPLE, tmp_path / "x.pt2", kind="torch")
    assert done.opset is None
    assert done.max_error <= 1e-6
    back = torch.export.load(done.path).module()
    for n in (1, 2, 9):
        images = torch.randn(n, 3, 8, 8)
        assert torch.allclose(back(images), net.eval()(images), atol=1e-6)
    fixed = export(net, EXAMPLE, tmp_path / "y.pt2", kind="torch", dynamic_batch=False)
    assert fixed.batches == (1,)


@pytest.mark.slow
def test_a_transformer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    done = export(transformer(), torch.zeros(1, 3, 32, 32), tmp_path / "x.onnx")
    assert done.max_error < 1e-4


class Noisy(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.rand_like(x))


class Counting(Net):
    """One graph for one image, another for more."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if len(x) < 4 else y * 2


class Branching(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Dictionary(Net):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(x)}


class Leaving(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(x.detach().numpy().mean())


class Decomposing(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.linalg.svdvals(x[:, 0]).sum(1, keepdim=True)


class Squeezing(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


class Nameless(Net):
    def forward(self, x: Tensor) -> str:  # type: ignore[override]
        return str(super().forward(x).argmax(1))


class Exploded(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0.0


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        (Noisy, "torch", "evaluation is random"),
        (Counting, "onnx", r"len\(x\).*--no-dynamic-batch"),
        (
            Branching,
            "torch",
            r"captured by torch.export.*at line \d+ of test_export.py: a branch.*values of the images",
        ),
        (Leaving, "torch", "at line .*it leaves torch for NumPy"),
        (Decomposing, "onnx", "the exporter has nothing for aten::_linalg_svd.*--format torch"),
        (Nameless, "onnx", "is no classifier"),
        (Exploded, "torch", "not finite"),
    ],
)
def test_refused_and_nothing_left_behind(
    model: type[nn.Module], kind: Kind, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(ModelError, match=said):
        export(model(), EXAMPLE, tmp_path / "x", kind=kind)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]
    printed = "".join(capfd.readouterr())
    assert "def forward" not in printed
    assert "symbolic_shapes" not in printed


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_of_several_outputs_the_scores_alone(kind: Kind, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert export(Dictionary(), EXAMPLE, tmp_path / "x", kind=kind).classes == 4


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_code_that_squeezes_the_batch_away(kind: Kind, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert export(Squeezing(), EXAMPLE, tmp_path / "x", kind=kind).images[0] == "batch"


def test_a_torch_file_keeps_no_images(net: nn.Module, tmp_path: Path) -> None:
    done = export(net, torch.zeros(1, 3, 64, 64), tmp_path / "x.pt2", kind="torch")
    assert done.file_bytes < 2 * 3 * 64 * 64 * 4
    assert torch.export.load(done.path).example_inputs is None


def test_one_graph_for_one_image_is_fine(tmp_path: Path) -> None:
    assert export(Counting(), EXAMPLE, tmp_path / "x", kind="torch", dynamic_batch=False).images[0] == 1


def test_unsupported_opsets(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--opset 99 does not exist.*1 to \d\d"):
        export(net, EXAMPLE, tmp_path / "x.onnx", opset=99)
    with pytest.raises(ModelError, match=r"[Oo]pset 7"):
        export(net, EXAMPLE, tmp_path / "x.onnx", opset=7)
    with pytest.raises(ModelError, match="no operator sets"):
        export(net, EXAMPLE, tmp_path / "x.pt2", kind="torch", opset=18)
    assert not list(tmp_path.iterdir())


def test_images_of_another_size(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not run on images of shape"):
        export(net, torch.zeros(1, 4, 8, 8), tmp_path / "x.onnx")


def test_packages_that_are_missing(net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)  # as Python does for what cannot be imported
    with pytest.raises(EnvironmentFault, match=r"onnxscript, onnxruntime.*pip install 'automc\[export\]'") as fault:
        export(net, EXAMPLE, tmp_path / "x.onnx")
    assert fault.value.exit_code == 1
    assert not list(tmp_path.iterdir())
    export(net, EXAMPLE, tmp_path / "x.pt2", kind="torch")


def test_a_place_that_cannot_be_written(net: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        export(net, EXAMPLE, tmp_path / "file" / "x.pt2", kind="torch")


def test_compare_measures_and_refuses() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    batches = [torch.randn(n, 3, 2, 2) for n in (1, 4)]
    scale = max(1.0, max(float(model(x).detach().abs().max()) for x in batches))
    error, limit = compare(model, lambda x: model(x) + 0.25 * (len(x) == 4), batches, 0.3)
    assert error == pytest.approx(0.25)
    assert limit == pytest.approx(0.3 * scale)
    for wrong in (0.31 * scale, float("nan"), float("inf")):
        with pytest.raises(ModelError, match="differs"):
            compare(model, lambda x, wrong=wrong: model(x) + wrong, batches, 0.3)
    with pytest.raises(ModelError, match=r"gives \(1, 2\) for 1 images"):
        compare(model, lambda x: model(x)[:, :2], batches, 0.3)


class Steps(nn.Module):
    """Logits that jump by 0.01 wherever a pixel crosses a multiple of 1e-4."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.01 * torch.remainder((x * 1e4).floor(), 2).flatten(1)[:, :4]


def test_jumps_of_the_model_itself_are_allowed_by_default() -> None:
    batches = [torch.rand(16, 3, 2, 2)]
    error, limit = compare(Steps(), lambda x: Steps()(x + 1e-6), batches, None)
    assert limit == pytest.approx(0.02)
    assert error <= 0.011
    with pytest.raises(ModelError, match="differs"):
        compare(Steps(), lambda x: Steps()(x) + 0.03, batches, None)
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    assert compare(smooth, smooth, batches, None)[1] == pytest.approx(1e-4, rel=0.5)

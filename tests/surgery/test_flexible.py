"""Which groups can shrink is tried on one copy, with few tries, and costs the model nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from automc.surgery import flexible
from automc.surgery.coupling import read_groups, trace
from automc.surgery.groups import Groups
from automc.surgery.proof import _Twin


class Heads(nn.Module):
    """Four blocks, each with a width that its code counts on (`inner`) and one that is free (`outer`)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.inner = nn.ModuleList(nn.Conv2d(8, 6, 1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(4))
        self.outer = nn.ModuleList(nn.Conv2d(6, 8, 1) for _ in range(4))
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for inner, norm, outer in zip(self.inner, self.norms, self.outer, strict=True):
            y = inner(x).reshape(len(x), 2, 3, -1).relu().reshape(len(x), 6, *x.shape[2:])
            x = torch.relu(outer(norm(y)))
        return self.last(x.mean((2, 3)))


def _heads() -> tuple[Heads, Tensor]:
    torch.manual_seed(0)
    return Heads().eval(), torch.zeros(1, 3, 8, 8)


def test_the_operations_that_fail_name_their_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One try for all layers that its code counts on, and one for each draw of the rest: no search by halves."""
    model, example = _heads()
    tries: list[int] = []
    compare = flexible.compare

    def counted(found, smaller, example, groups, *others):  # type: ignore[no-untyped-def]
        tries.append(len(groups))
        compare(found, smaller, example, groups, *others)

    monkeypatch.setattr(flexible, "compare", counted)
    groups = Groups(model, example)
    assert {g.root for g in groups.groups} == {"stem", *(f"outer.{i}" for i in range(4))}
    assert {name for name, why in groups.refused.items() if "this number" in why} == {f"inner.{i}" for i in range(4)}
    assert len(tries) == 1 + flexible.DRAWS


def test_the_copy_that_is_tried_gets_its_tensors_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where some layers got them back before its pass was over, which no statistics learn from."""
    model, example = _heads()
    model.train()
    statistics = [buffer.clone() for buffer in model.buffers()]
    before = {name: (id(p), p.shape) for name, p in model.named_parameters()}
    widths = [(m.in_channels, m.out_channels) for m in model.modules() if isinstance(m, nn.Conv2d)]
    found = trace(model, example, {}, float("inf"))
    groups = read_groups(found)[0]
    during: list[int] = []
    compare = flexible.compare

    def looked_at(*given):  # type: ignore[no-untyped-def]
        during.append(model.stem.out_channels)
        try:
            compare(*given)
        finally:
            during.append(model.inner[0].out_channels)

    monkeypatch.setattr(flexible, "compare", looked_at)
    trial = flexible._Trial(model, example, found, groups, 0, groups)
    assert not trial.passed(float("inf"))
    assert trial.culprits == {f"inner.{i}" for i in range(4)}
    assert during == [7, 6]
    assert {name: (id(p), p.shape) for name, p in model.named_parameters()} == before
    assert all(torch.equal(now, then) for now, then in zip(model.buffers(), statistics, strict=True))
    assert all(module.training for module in model.modules())
    assert [(m.in_channels, m.out_channels) for m in model.modules() if isinstance(m, nn.Conv2d)] == widths


class Positions(nn.Module):
    """Adds a constant of single precision; `through` computes with the channels in single precision as well."""

    def __init__(self, through: bool) -> None:
        super().__init__()
        self.first, self.second, self.through = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), through

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = (y.float() if self.through else y).relu().to(x.dtype)
        return self.second(y + torch.linspace(0, 1, 4, dtype=torch.float32).sin().to(y.dtype)).mean((2, 3))


@pytest.mark.parametrize(("through", "precision"), [(False, torch.float64), (True, torch.float32)])
def test_only_what_passes_through_single_precision_makes_the_proof_coarse(
    through: bool, precision: torch.dtype
) -> None:
    model = Positions(through).eval()
    assert _Twin(model, torch.zeros(1, 3, 4, 4), False, set(), torch.float64).precision == precision
    assert [g.root for g in Groups(model, torch.zeros(1, 3, 4, 4)).groups] == ["first"]


class Rigid(nn.Module):
    """Whose only width is one that its code counts on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).mean((2, 3)).view(-1, 2, 4).relu().view(-1, 8))


def test_what_must_stay_is_told_with_its_layers() -> None:
    groups = Groups(Rigid().eval(), torch.zeros(1, 3, 8, 8))
    assert groups.groups == ()
    assert groups.why_not() == (
        "last: its outputs are the model's outputs; first: the code after it counts on this number of channels"
    )

"""Seeds follow from run seed and scheme alone."""

from __future__ import annotations

import hashlib
import os

import pytest
import torch

from automc.errors import Infeasible
from automc.training.loop import fixed_shapes
from automc.training.seeds import before_cuda, derived, fixed_order, seeded, step_seed


def test_step_seed_is_a_hash() -> None:
    wanted = int(hashlib.sha256(b"7\x1fNS[HP1=0.1]").hexdigest()[:16], 16) >> 1
    assert step_seed(7, "NS[HP1=0.1]") == wanted
    assert len({step_seed(run, scheme) for run in range(20) for scheme in ("START", "A", "A -> B", "B")}) == 80
    assert all(0 <= step_seed(run, "x") < 2**63 for run in range(50))


def test_uses_of_one_seed_are_independent() -> None:
    assert len({derived(1, "sparsity"), derived(1, "tune"), derived(1, "tune", 0), derived(2, "tune"), derived(1)}) == 5


def test_seeded_block_restores_the_generator() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    with seeded(4):
        inside = torch.rand(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    with seeded(4, "cpu"):
        assert torch.equal(torch.rand(2), inside)


def test_a_fixed_order_is_asked_of_an_accelerator_alone_and_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is restored
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before_cuda()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    for device, wanted, asked in (("cuda", True, True), ("cuda", False, False), ("cpu", True, False)):
        with fixed_order(torch.device(device), wanted):
            assert torch.are_deterministic_algorithms_enabled() is asked
            with fixed_shapes(torch.device(device)):
                assert torch.backends.cudnn.benchmark is (device == "cuda" and not asked)
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_fixed_order_is_infeasible_and_other_errors_stay() -> None:
    with pytest.raises(Infeasible, match=r"put_.* Leave out --deterministic"), fixed_order(torch.device("cuda")):
        torch.empty(4).put_(torch.tensor([0, 1]), torch.ones(2))  # has none on any device
    with pytest.raises(RuntimeError, match="out of memory"), fixed_order(torch.device("cuda")):
        raise RuntimeError("out of memory")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
def test_in_a_fixed_order_a_card_gives_the_same_bits_again() -> None:
    values = torch.rand(1 << 20, device="cuda")
    place = torch.randint(0, 16, (1 << 20,), device="cuda")
    with fixed_order(values.device):
        sums = [torch.zeros(16, device="cuda").scatter_add_(0, place, values) for _ in range(5)]
    assert all(torch.equal(sums[0], other) for other in sums)

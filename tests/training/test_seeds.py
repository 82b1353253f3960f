"""Seeds follow from run seed and scheme alone."""

from __future__ import annotations

import hashlib

import torch

from automc.training.seeds import derived, seeded, step_seed


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

"""Distillation against its formula, and a teacher beside another loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from automc.training.distill import distillation, taught
from automc.training.loop import cross_entropy


def logits(seed: int, n: int = 5, classes: int = 7) -> torch.Tensor:
    return torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 3.0, 10.0])
def test_it_is_the_divergence_summed_over_classes(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    expected = 0.0
    for s, t in zip((student / temperature).tolist(), (teacher / temperature).tolist(), strict=True):
        ps = [math.exp(v) / sum(map(math.exp, s)) for v in s]
        pt = [math.exp(v) / sum(map(math.exp, t)) for v in t]
        expected += sum(p * math.log(p / q) for p, q in zip(pt, ps, strict=True)) / len(student)
    assert float(distillation(student, teacher, temperature)) == pytest.approx(temperature**2 * expected, rel=1e-4)


def test_it_is_nothing_between_equals_and_teaches_the_student_only() -> None:
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    assert distillation(student, student.detach() + 3.0).item() == pytest.approx(0, abs=1e-6), "logits may be shifted"
    distillation(student, teacher).backward()
    assert teacher.grad is None
    # The gradient of the divergence at temperature 1, over the batch's mean.
    expected = (student.softmax(1) - teacher.softmax(1)).detach() / len(student)
    assert torch.allclose(student.grad, expected, atol=1e-6)


def test_a_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="above 0"):
        distillation(logits(0), logits(1), 0.0)


def test_a_teacher_beside_another_loss_costs_one_forward_pass_of_the_model() -> None:
    torch.manual_seed(0)
    model, teacher = (nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)) for _ in range(2))
    x, y = torch.randn(9, 6), torch.arange(9) % 4
    teacher.train()
    statistics = teacher[1].running_mean.clone()
    calls = []
    model.register_forward_hook(lambda module, inputs, output: calls.append(output))
    value = taught(cross_entropy, teacher, 0.3)(model, x, y)
    assert len(calls) == 1
    assert teacher[1].training, "the teacher keeps its flags"
    assert torch.equal(teacher[1].running_mean, statistics), "and its statistics"
    with torch.no_grad():
        wanted = teacher.eval()(x)
    expected = 0.7 * F.cross_entropy(calls[0], y) + 0.3 * distillation(calls[0], wanted)
    assert value.item() == pytest.approx(float(expected), rel=1e-6)
    value.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None for p in teacher.parameters())

"""Learning from another model's outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from automc.errors import ModelError
from automc.models.modes import evaluating
from automc.models.outputs import logits, scores
from automc.training.loop import Loss


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """τ² · KL(softmax(teacher/τ) ‖ softmax(student/τ)), the mean over images, in float32.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2: τ² keeps the gradient's size
    independent of τ. Summed over classes and averaged over images (`batchmean`), so the number of classes does
    not scale it. Both are logits of shape (n, classes); no gradient reaches the teacher.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"The temperature must be above 0, it is {temperature:g}.")
    log_student = F.log_softmax(student.float() / temperature, 1)
    log_teacher = F.log_softmax(teacher.detach().float() / temperature, 1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def taught(loss: Loss, teacher: nn.Module, weight: float, temperature: float = 1.0) -> Loss:
    """(1 − weight) · `loss` + weight · the distance to the teacher's outputs on the same batch, see `distillation`.

    The teacher runs in evaluation mode, without gradients.
    """

    def mixed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        value, found = scored(loss, model, x, y)
        with evaluating(teacher), torch.no_grad():
            wanted = logits(teacher, x)
        return (1 - weight) * value + weight * distillation(found, wanted, temperature)

    return mixed


def scored(loss: Loss, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return a loss, and the scores (n, classes) of the pass that it made: one pass serves several terms.

    Raises:
        ModelError: the loss does not run the model on these images.
    """
    outputs: list[Tensor] = []
    hook = model.register_forward_hook(lambda module, inputs, output: outputs.append(scores(output, len(x))))
    try:
        value = loss(model, x, y)
    finally:
        hook.remove()
    if not outputs:
        raise ModelError(
            "The loss does not run the model on its images, so there is nothing to compare a teacher with."
        )
    return value, outputs[-1]

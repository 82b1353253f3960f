"""Whether a `torch.export` program could stand in for a model that has no factory: five networks, exported and run.

Asked of each: does torch.fx trace it, does torch.export take it (exported as it trains, any number of images), and of
the module that comes back: layers with a kind, training and evaluation mode, answers in evaluation, a step of training,
and groups of channels that torch-pruning finds.

    python -m benchmarks.programs > docs/results/programs.md      # seconds
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from importlib.metadata import version

import torch
import torch_pruning
from torch import Tensor, fx, nn
from torch.nn import functional as F

from automc.models.factory import FactoryRef, build

LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.GroupNorm)


class Small(nn.Module):
    """Two convolutions and a head, with dropout as a function."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 16, 3, padding=1), norm, nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def shrink(self, x: Tensor) -> Tensor:
        """What the others do with the first features."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Scores of images, (n, 10)."""
        x = self.shrink(F.relu(self.norm(self.first(x))))
        x = F.relu(self.second(x)).mean((2, 3))
        scores: Tensor = self.head(F.dropout(x, 0.5, self.training))
        return scores


class ByShape(Small):
    """Its code asks for the size of its features."""

    def shrink(self, x: Tensor) -> Tensor:
        """Pool as often as the size asks for."""
        while x.shape[-1] > 8:
            x = F.max_pool2d(x, 2)
        return x


class ByValue(Small):
    """Its code asks for the values of its features."""

    def shrink(self, x: Tensor) -> Tensor:
        """Halve what is large."""
        return x / 2 if x.abs().max() > 1e6 else x


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-20": lambda: build(FactoryRef("zoo", "resnet20", {"classes": 10})),
    "dropout as a function": lambda: Small(nn.BatchNorm2d(16)),
    "group norm": lambda: Small(nn.GroupNorm(4, 16)),
    "flow by shape": lambda: ByShape(nn.BatchNorm2d(16)),
    "flow by value": lambda: ByValue(nn.BatchNorm2d(16)),
}


def tried(work: Callable[[], object]) -> str:
    """What a call gives, or the name of its error."""
    try:
        said = work()
    except Exception as error:  # libraries refuse in ways of their own; the name is the finding
        return type(error).__name__
    return "yes" if said is None else str(said)


def groups(model: nn.Module, images: Tensor) -> int:
    """The number of channel groups that torch-pruning finds."""
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=images)
    return len(list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear])))


def step(model: nn.Module, images: Tensor) -> None:
    """One step of training."""
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    loss = F.cross_entropy(model(images), torch.zeros(len(images), dtype=torch.long))
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def layers(model: nn.Module) -> int:
    """The number of layers with a kind."""
    return sum(isinstance(module, LAYERS) for module in model.modules())


def row(model: nn.Module) -> list[str]:
    """The answers for one network."""
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    traced = tried(lambda: fx.symbolic_trace(copy.deepcopy(model)) and None)
    try:
        program = torch.export.export(
            model.train(), (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        ).module()  # fmt: skip
    except Exception as error:
        return [traced, type(error).__name__, *[""] * 6]
    with torch.no_grad():
        apart = float((model.eval()(images) - program(images)).abs().max())
    return [
        traced, "yes", f"{layers(program)} of {layers(model)}", tried(lambda: program.train() and None),
        tried(lambda: program.eval() and None), f"{apart:.2g}", tried(lambda: step(program, images)),
        f"{tried(lambda: groups(program, images))}; of the model {groups(model, images)}",
    ]  # fmt: skip


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    about = ", ".join(f"{name} {version(name)}" for name in ("torch", "torch-pruning"))
    print("# Exported programs in place of models\n")
    print(f"Written by `python -m benchmarks.programs`; {about}, CPU, seed 0. Exported in training mode.\n")
    head = ("network", "torch.fx", "torch.export", "layers kept", "train()", "eval()", "answers in evaluation apart by",
            "a step of training", "torch-pruning's groups")  # fmt: skip
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name, made in NETWORKS.items():
        print(f"| {name} | {' | '.join(row(made()))} |")
    print("\nA program computes and can be trained, but has operators where the model had layers, stays in the mode that it was exported in, and cannot be cut. What is gained is flow by shape alone.")  # fmt: skip


if __name__ == "__main__":
    main()

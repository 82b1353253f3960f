"""The methods and the published experience of this installation, and which of them can be executed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from math import prod
from pathlib import Path

from kg.errors import CardInvalid
from kg.schema import Experience, Method, Paper


def card_paths() -> list[Path]:
    """Return the packaged method cards and those of installed packages.

    A package adds a method by an entry point of the group `automc.methods` that names a module; its card lies
    beside the module and has its name, with `.yaml`.

    Raises:
        CardInvalid: an entry point's module or card is missing.
    """
    from kg.cards import packaged_cards

    paths = packaged_cards()
    for point in sorted(entry_points(group="automc.methods"), key=lambda point: point.name):
        try:
            spec = find_spec(point.module)
        except ModuleNotFoundError:
            spec = None
        if spec is None or spec.origin is None:
            raise CardInvalid(f"Entry point {point.name} names the module {point.module}, which is not installed.")
        card = Path(spec.origin).with_suffix(".yaml")
        if not card.is_file():
            raise CardInvalid(f"Entry point {point.name}: the method card {card} is missing. Package it.")
        paths.append(card)
    return paths


def methods(extra: Sequence[Path] = ()) -> tuple[Method, ...]:
    """Return all methods that are known, and those of `extra` cards.

    Raises:
        CardInvalid: a card breaks a rule.
    """
    from kg.cards import read_cards

    return read_cards([*card_paths(), *extra])


def grid_size(method: Method) -> int:
    """Return how many strategies a method's grid spans; 0 for one that is knowledge only."""
    return prod(len(h.values) for h in method.hyperparameters) if method.hyperparameters else 0


def executable(method: str) -> bool:
    """Return whether this installation can run the method."""
    from automc import methods as code

    return code.executable(method)


@cache
def real_size(architecture: str, classes: int) -> tuple[int, int]:
    """Return params and FLOPs of a zoo architecture on one 32 × 32 colour image."""
    import torch

    from automc.models import zoo
    from automc.models.measure import count_flops, count_params

    model = zoo.build(architecture, classes=classes).eval()
    return count_params(model), count_flops(model, torch.zeros(1, 3, 32, 32))


def published(
    paths: Sequence[Path] | None = None, *, count: bool = False
) -> tuple[tuple[Experience, ...], tuple[Paper, ...]]:
    """Return the published experience of `paths`, or of the packaged files, and its papers.

    Args:
        paths: experience files; None or none for the packaged ones.
        count: build the architectures that tasks name and compare params and FLOPs.

    Raises:
        ExperienceInvalid: a file breaks a rule.
    """
    from kg.experience import read_experience

    return read_experience(paths or None, real_size if count else None, methods())

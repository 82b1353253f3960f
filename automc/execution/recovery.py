"""A saved model trained on with M as its teacher, on all training images but validation, and saved in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automc.execution.setup import Setup
from automc.models import structure
from automc.training import evaluate
from automc.training.recover import WHOLE, Extent, recover
from automc.training.seeds import derived


@dataclass(frozen=True, slots=True)
class Recovery:
    """What training on has brought. Accuracies are float32 top-1 on validation, in [0, 1]."""

    kept: bool
    """Whether the model that trained on is the one that is saved."""
    before: float
    after: float
    iterations: int
    seconds: float
    ended: str
    measure: str = "accuracy"
    """What `before` and `after` are: accuracy, or the name of the user's metric."""

    @property
    def text(self) -> str:
        """Say it to a person."""
        change = f"{self.before:.2%} -> {self.after:.2%}" if self.kept else f"no more than {self.before:.2%}"
        took = f"{self.iterations:,} iterations, {self.seconds:.0f} s; {self.ended}"
        return f"Recovery: validation {self.measure} {change} ({took})."

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def recover_saved(
    setup: Setup, path: Path, extent: Extent, *, everything: bool = True,
    progress: Callable[[int, int], None] | None = None, part: tuple[float, float] = WHOLE,
) -> Recovery:  # fmt: skip
    """Train the model in `path` on; the file is replaced, all at once, unless validation says that it got worse.

    Until then it is the model that came, so that whoever stops this loses the time alone.

    Args:
        everything: train on all images but validation; False: on the recipe's fraction.
        progress: of the share that is done, as (done, of).
        part: of the cosine, see `recover`.

    Raises:
        ArtefactError: the file is damaged.
        EnvironmentFault: it cannot be written.
    """
    bench = setup.open()
    loaded = structure.read(path)
    data = bench.rest if everything else bench.train
    # A recovery that goes on from a race's place sees other images than the race did.
    seed = derived(setup.run_seed, "recovery", *part[:1] if part[0] else ())
    with bench.repeatable():
        done = recover(
            loaded.model.to(bench.device), bench.teacher, data, bench.validation, setup.recipe, extent,
            seed=seed, still=setup.still, progress=progress, part=part,
        )  # fmt: skip
    found = Recovery(done.kept, done.before, done.after, done.iterations, done.seconds, done.ended, setup.recipe.figure)
    if done.kept:
        figures = {**loaded.metadata.get("figures", {}), "accuracy": done.after}
        about = {**loaded.metadata, "figures": figures, "recovery": found.as_dict()}
        structure.save(path, done.model, bench.source, metadata=about, shape=bench.example.shape[1:])
    return found


def loss_of(setup: Setup, path: Path) -> float:
    """Return a saved model's cross-entropy on validation; where the user has a metric, how far that is from 1.

    Raises:
        ArtefactError: the file is damaged.
    """
    bench = setup.open()
    model = structure.read(path).model.to(bench.device)
    if setup.recipe.metric is not None:
        return 1.0 - evaluate.score(model, bench.validation, setup.recipe.metric)
    return evaluate.cross_entropy(model, bench.validation)

"""Learnt embeddings as one object: the vectors, everything to continue from, and where they came from.

Saved as one safetensors file with JSON metadata. Reading one needs no PyKEEN.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kg.cards import enumerate_strategies
from kg.embedding.experience_net import ExperienceNet
from kg.embedding.fingerprint import FORMAT
from kg.embedding.law import Law, Verdict
from kg.embedding.records import locate
from kg.errors import VectorsInvalid
from kg.schema import Experience, Method, Strategy, Task

Floats = NDArray[np.float32]

PREFIX = 16
"""Characters of the fingerprint in a run's id."""
_ARRAYS = ("entity_vectors", "relation_vectors", "projections")
_NET = "net."


@dataclass(frozen=True)
class Vectors:
    """Embeddings of one run.

    The strategies are the first of the entities, method by method in the order of the cards, each grid in the
    order of `kg.cards.enumerate_strategies`. Every entity vector lies in the unit ball.

    `epochs` counts all epochs, also those of the runs this one continued from; `continued_from` is the id of the
    last of those, "" for a run from nothing, and `new_strategies` counts what it did not know. `losses` are this
    run's, one per epoch: "graph" (margin ranking) and "experience" (Eq. 3). `coverage` counts the records per
    method; `options` are the ablations.
    """

    strategies: tuple[str, ...]
    entities: tuple[str, ...]
    entity_vectors: Floats
    relations: tuple[str, ...]
    relation_vectors: Floats
    projections: Floats
    net: dict[str, Floats]
    fingerprint: str
    seed: int
    epochs: int
    losses: dict[str, list[float]]
    continued_from: str = ""
    new_strategies: int = 0
    law: Law | None = None
    """What a step costs by its size, fitted on the experience; None without any."""
    verdict: Verdict | None = None
    """How the law does on papers that it has not read."""
    coverage: dict[str, dict[str, int]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Name of the run: what it learnt from, shortened, and its seed."""
        return f"{self.fingerprint[:PREFIX]}-seed{self.seed}"

    @property
    def vectors(self) -> Floats:
        """The strategies' embeddings (n_strategies, 32)."""
        return self.entity_vectors[: len(self.strategies)]

    @property
    def guess(self) -> Law | None:
        """The law where it does better than a constant on unread papers; None: nothing is known that helps a search."""
        return self.law if self.verdict is not None and self.verdict.used else None

    def predict(self, task: Task) -> Floats:
        """Predict AR and PR of every strategy on a task, trained as long as papers do: (n_strategies, 2).

        The law's AR and what NN_exp adds to it (AutoMC paper, Eq. 3). AR ≥ −1, PR in [0, 1]; all zero where no
        experience was learnt.
        """
        net = self.experience_net()
        inputs = net.inputs(_raw(task), np.zeros(1)).expand(len(self.strategies), -1)
        steps = [Experience(id, Strategy.parse(id), task, source="") for id in self.strategies]
        return self._with_law(net.predict(torch.from_numpy(self.vectors), inputs), steps)

    def _with_law(self, found: Floats, steps: Sequence[Experience]) -> Floats:
        if self.law is not None:
            found[:, 0] = np.maximum(found[:, 0] + self.law.predict(steps), -1)
        return found

    def predict_step(self, strategy: Strategy, task: Task, method: Method) -> tuple[float, float]:
        """Predict AR and PR of one strategy on a task, also off the grid of its method, as a record of it would teach.

        Raises:
            KeyError: the method was not learnt.
            ExperienceInvalid: it sets a number where its method's card has categories, or the other way round.
        """
        step = Experience(strategy.id, strategy, task, source="")
        place = locate(step, method)
        row = {name: i for i, name in enumerate(self.entities)}
        names = [one.id for one in enumerate_strategies(method)] or [method.id]
        vector = place.weights @ self.entity_vectors[[row[name] for name in names]]
        net = self.experience_net()
        inputs = net.inputs(_raw(task), np.array([place.excess]))
        ar, pr = self._with_law(net.predict(torch.from_numpy(vector[None]).float(), inputs), [step])[0]
        return float(ar), float(pr)

    def scale(self, task: Task) -> Floats:
        """Return the task's features (7,) as NN_exp sees them: logarithms, standardised, 0 where unknown."""
        scaled: Floats = self.experience_net().scale(_raw(task))[0].numpy()
        return scaled

    def experience_net(self) -> ExperienceNet:
        """Return a copy of NN_exp."""
        net = ExperienceNet()
        net.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in self.net.items()})
        return net.eval()

    def save(self, path: Path) -> None:
        """Write to one file, whole or not at all.

        Raises:
            OSError: the folder cannot be written; an older file is intact.
        """
        path = Path(path)
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        arrays |= {_NET + name: np.ascontiguousarray(value) for name, value in self.net.items()}
        about = {
            "format": FORMAT,
            "strategies": len(self.strategies),
            **{name: getattr(self, name) for name in ("entities", "relations", "fingerprint", "seed", "epochs")},
            **{name: getattr(self, name) for name in ("continued_from", "new_strategies")},
            **{name: getattr(self, name) for name in ("losses", "coverage", "options")},
            **{name: asdict(value) for name in ("law", "verdict") if (value := getattr(self, name)) is not None},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".automc-{platform.node()}-{os.getpid()}-"  # as the sweep of a home knows them
        handle, name = tempfile.mkstemp(prefix=prefix, dir=path.parent)
        os.close(handle)
        try:
            save_file(arrays, name, metadata={"vectors": json.dumps(about)})
            Path(name).replace(path)
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from error
        finally:
            Path(name).unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Vectors:
        """Read what `save` wrote.

        Raises:
            VectorsInvalid: the file is missing, damaged, or of another kind or format.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})["vectors"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if about.pop("format") > FORMAT:
                raise VectorsInvalid(f"{path} was written by a newer AutoMC. Learn it anew: automc kg embed --full.")
            about.pop("graph", None)  # of format 1
            n = about.pop("strategies")
            law, verdict = about.pop("law", None), about.pop("verdict", None)
            entities = tuple(about.pop("entities"))
            return cls(
                strategies=entities[:n],
                entities=entities,
                relations=tuple(about.pop("relations")),
                net={name.removeprefix(_NET): value for name, value in arrays.items() if name.startswith(_NET)},
                **{name: arrays[name] for name in _ARRAYS},
                law=Law(**law) if law else None,
                verdict=_verdict(verdict),
                **about,
            )
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise VectorsInvalid(
                f"{path} holds no embeddings that can be read ({error}). Learn them anew: automc kg embed --full."
            ) from error


def is_current(path: Path) -> bool:
    """Tell whether learning may go on from a file; True also for one that cannot be read, which `load` explains."""
    try:
        with safe_open(path, framework="numpy") as file:
            return bool(json.loads((file.metadata() or {})["vectors"])["format"] == FORMAT)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return True


def _verdict(values: dict[str, Any] | None) -> Verdict | None:
    if not values:
        return None
    median, law = (tuple(float(v) for v in values[name]) for name in ("median", "law"))
    return Verdict(values["rows"], values["papers"], (median[0], median[1]), (law[0], law[1]))


def _raw(task: Task) -> NDArray[np.float64]:
    """A task's features as a row, NaN where unknown."""
    return np.array([[np.nan if value is None else float(value) for value in task.features]])

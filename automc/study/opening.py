"""What a new study begins with: its vectors, its files, its node in the graph, what its model stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from automc import knowledge
from automc.methods.quantising import quantisable
from automc.models import structure
from automc.models.bits import stored
from automc.models.stored import Stored
from automc.study.bits import quantisers
from automc.study.gauge import base_figures
from automc.study.loop import Listener
from automc.study.outbox import insist, now
from automc.study.place import folder
from automc.study.protocol import Protocol
from automc.study.spec import StudySpec
from automc.study.task import Subject
from automc.study.teaching import TEACHER_FILE, Teacher
from automc.surgery.layer_table import layer_table
from kg import studies
from kg.embedding.vectors import Vectors


def counts(spec: StudySpec, subject: Subject, keep: Sequence[str]) -> Stored | None:
    """Return what the arithmetic of bit widths needs of M; None where a study asks for nothing that they change.

    Args:
        keep: patterns of layers that stay as they are.
    """
    return stored(subject.model, quantisable(subject.model, keep).values()) if spec.sized else None


def vectors_for(spec: StudySpec, listener: Listener) -> Vectors:
    """Return the vectors of what a study may ask for, learning them where the knowledge has changed."""
    knowledge.prepare(full=False)

    def progress(done: int, of: int, _: Any) -> None:
        listener.progress("learning embeddings", done, of)

    if spec.use_graph and spec.use_experience and not spec.only:
        named = tuple(quantisers(spec))
        return knowledge.vectors(own_trials=spec.own_experience, named=named, progress=progress, say=listener.say)
    listener.say(f"Ablation: {', '.join(spec.ablations)}.")
    return knowledge.ablated(
        use_graph=spec.use_graph, use_experience=spec.use_experience, only=spec.only, own_trials=spec.own_experience,
        progress=progress,
    )  # fmt: skip


def record_of(spec: StudySpec, subject: Subject) -> dict[str, Any]:
    """Return the properties of a new study's node."""
    return {
        "id": spec.id, "spec": spec.as_dict(), "model": spec.model, "data": subject.dataset.name, "gamma": spec.gamma,
        "gamma_of": spec.gamma_of,
        "max_length": spec.max_length, "budget": str(spec.budget), "searcher": spec.searcher, "seed": spec.seed,
        "ablations": ", ".join(spec.ablations),
        "run_seed": spec.run_seed, "base_accuracy": subject.accuracy, "base_params": subject.params,
        "base_flops": subject.flops, "validation_images": subject.splits.validation.n,
        "saw_validation": subject.saw_validation, "status": "running", "started": now(), "updated": now(),
        "elapsed_seconds": 0.0, "data_hash": subject.dataset.hash,
    }  # fmt: skip


def founded(
    spec: StudySpec, subject: Subject, vectors: Vectors, teacher: Teacher | None, listener: Listener
) -> dict[str, Any] | None:
    """Put a new study's files into its folder and its node into the graph; return the node's properties.

    None where another machine was first to take its name.
    """
    place = folder(spec.id)
    structure.save(
        place / "base.am", subject.model, subject.source, metadata={"study": spec.id, "model": spec.model},
        normalisation=(subject.dataset.mean, subject.dataset.std), shape=subject.example.shape[1:],
    )  # fmt: skip
    if teacher is not None:
        teacher.save(place / TEACHER_FILE, tuple(subject.example.shape[1:]))
    vectors.save(place / "vectors.safetensors")
    record = record_of(spec, subject) | base_figures(spec.limits, subject, place / "base.am", spec.runtime)
    record["target"] = Protocol.of(spec, record).asked
    token, layers = uuid4().hex, layer_table(subject.model, subject.example).as_dict()

    def begin() -> bool:
        with knowledge.graph() as store:
            return studies.create_study(store, record, task=subject.task(), token=token, layers=layers)

    return record if insist(begin, listener.say) else None

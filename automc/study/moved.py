"""A study's data found again: where they were, or where somebody says they are now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from automc.datasets import located
from automc.errors import DataError, StudyError
from automc.study.spec import StudySpec
from automc.study.task import Subject, open_subject


def reopened(
    spec: StudySpec, base: Path, record: dict[str, Any], data: str | None, progress: Callable[[int, int], None]
) -> tuple[StudySpec, Subject]:
    """Open a study's model and data; with `data`, those named there, which the study keeps from then on.

    Raises:
        OwnCodeError: its loss or its metric has changed.
        StudyError: the data are not there, or not those that the study was made on; the message names the study.
    """
    for what, own in (("loss", spec.recipe.loss), ("metric", spec.recipe.metric)):
        if own is not None:
            own.check_unchanged(what, spec.id)
    if data is not None:
        spec = replace(spec, data=located(replace(spec.data, spec=data)))
    way = f"If they are elsewhere now: automc resume {spec.id} --data PLACE"
    try:
        subject = open_subject(
            str(base),
            spec.data,
            fraction=spec.recipe.fraction,
            device=spec.device,
            progress=progress,
            metric=spec.recipe.metric,
        )
    except DataError as error:
        raise StudyError(f"The data of the study {spec.id} cannot be read. {error} {way}") from error
    known = record.get("data_hash")
    if known and subject.dataset.hash != known:
        raise StudyError(
            f"The images in {spec.data.spec} are not those that the study {spec.id} was made on: its trials would mean "
            f"nothing on them. {way}"
        )
    return spec, subject

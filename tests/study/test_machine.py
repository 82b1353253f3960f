"""What a study says and sets of the device it runs on."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

import pytest

from automc.datasets import DataRef
from automc.errors import EnvironmentFault
from automc.study.machine import default_workers, get_ready, say_order
from automc.study.spec import Budget, StudySpec
from automc.training.recipe import Recipe

SPEC = StudySpec("s", "m", DataRef("digits"), 0.3, Budget(steps=1), Recipe())


def test_on_a_card_it_is_said_what_running_a_step_again_gives() -> None:
    said: list[str] = []
    say_order(SPEC, "cpu", said.append)
    assert said == []
    for spec in (SPEC, replace(SPEC, deterministic=True)):
        say_order(spec, "cuda", said.append)
    assert "--deterministic: the same bits" in said[0]
    assert said[1].startswith("Deterministic: steps give the same bits")


@pytest.mark.parametrize("asked", [False, True])
def test_what_cublas_reads_is_set_before_anything_uses_a_card(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    get_ready(replace(SPEC, deterministic=asked))
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) is asked


def test_a_cluster_that_does_not_answer_is_no_cluster() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"ray://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(EnvironmentFault, match=rf"no Ray cluster at --cluster {place}.* refused.* ray start --head"):
        default_workers("cpu", replace(SPEC, cluster=place))


def test_studies_of_before_are_not_deterministic() -> None:
    known = SPEC.as_dict()
    del known["deterministic"]
    assert StudySpec.from_dict(known) == replace(SPEC, grid_only=SPEC.grid_only)

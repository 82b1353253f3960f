"""A study whose workers are on a cluster is the study that it would be here."""

from __future__ import annotations

from pathlib import Path

import pytest

from automc import api
from automc.training.recipe import Recipe


@pytest.mark.slow
def test_a_search_on_a_cluster_has_the_same_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trials(cluster: str) -> list[tuple[object, ...]]:
        monkeypatch.setenv("AUTOMC_HOME", str(tmp_path / (cluster or "here")))
        done = api.search(
            "resnet8",
            "digits",
            gamma=0.4,
            budget="6steps",
            workers=2,
            cluster=cluster,
            recover="none",
            recipe=Recipe(unit_epochs=1.0),
        )
        return [(t.ordinal, t.scheme.id, t.status, t.accuracy, t.params) for t in done.trials]

    here = trials("")
    assert len(here) == 6
    assert trials("local") == here

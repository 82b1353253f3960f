"""Models and data that Python handed over: kept while a study needs them."""

from __future__ import annotations

import os
from pathlib import Path

from automc import knowledge
from automc.study import stored
from kg import studies


def test_what_was_handed_over_goes_once_no_study_uses_it(automc_home: Path) -> None:
    assert stored.prune_given() == 0
    for name in ("used", "old", "fresh"):
        place = automc_home / "given" / f"{name:0>12}"
        place.mkdir(parents=True)
        (place / "Net.am").write_bytes(b"weights")
        if name != "fresh":
            os.utime(place, (0, 0))
    with knowledge.graph() as store:
        studies.save_study(store, {"id": "one", "spec": {"model": str(automc_home / "given/00000000used/Net.am")}})
    assert stored.prune_given() == len(b"weights")
    assert sorted(path.name for path in (automc_home / "given").iterdir()) == ["00000000used", "0000000fresh"]

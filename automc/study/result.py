"""What a study came to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from automc.knowledge.words import in_words
from automc.models import structure
from automc.models.given import remember
from automc.study.headline import Headline, headline
from automc.study.html import share, table
from automc.study.protocol import Protocol, Recommendation
from automc.study.spec import StudySpec
from automc.study.trial import Figures, Trial


@dataclass(frozen=True)
class Result:
    """What a study came to. `final` holds the figures of the saved model, None where there is none."""

    spec: StudySpec
    base: Figures
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    recommendation: Recommendation | None
    final: dict[str, Any] | None
    protocol: Protocol

    @property
    def headline(self) -> Headline | None:
        """What is to be said first: the saved model's test accuracy; None where nothing met the target."""
        chosen = self.recommendation.trial if self.recommendation else None
        return headline(
            self.trials, chosen, self.final, self.base.accuracy, self.protocol.validation_images, self.protocol.measure
        )

    @property
    def model(self) -> Path | None:
        """The saved model."""
        return Path(self.final["path"]) if self.final else None

    @cached_property
    def module(self) -> nn.Module | None:
        """The saved model, on the CPU, in evaluation mode; read when it is first asked for."""
        if self.model is None:
            return None
        found = structure.read(self.model)
        return remember(found.model, found.source)

    def _repr_html_(self) -> str:
        """Show itself in a notebook: what is said first, and the front."""
        first, chosen = self.headline, self.recommendation.trial if self.recommendation else None
        said = [f"Study {self.spec.id}: {self.protocol.asked}.", *(first.lines() if first else ())]
        if chosen is None:
            said.append(f"No scheme {self.protocol.unmet}. {self.protocol.nearest_text(self.trials)}")
        columns = ("", "trial", "scheme", self.protocol.measure, "parameters", "removed", "FLOPs removed")
        rows = [
            ("★" if t is chosen else "", t.ordinal, in_words(t.scheme).replace(" -> ", "\n"), share(t.accuracy),
             t.params, share(t.pr), share(t.fr))
            for t in self.front
        ]  # fmt: skip
        return table(columns, rows, said)

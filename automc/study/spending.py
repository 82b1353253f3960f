"""One budget for a search and for what follows it: finalists' runs or race, and the recovery of what is saved."""

from __future__ import annotations

from dataclasses import dataclass

from automc.errors import StudyError
from automc.study.spec import Budget, StudySpec, seconds_in
from automc.training.recover import Extent

AUTO, NONE = "auto", "none"
SEARCH = 0.3
"""Of a budget of seconds that the search may use where a recovery follows it …"""
SEARCH_AND_RUNS = 2 / 3
"""… and where only runs do."""
RUNS = 0.25
"""Of what is left for the end that finalists' runs may use, where a recovery in epochs follows; else all of it."""
RUNS_PER_STEP = 0.5
"""Steps of finalists' runs for each step of a search whose budget is in steps."""


def extent(text: str) -> Extent | None:
    """Read how long a saved model trains on: "30m", "20epochs", or "none".

    Raises:
        StudyError: it is none of these.
    """
    compact = str(text).strip().lower().replace(" ", "")
    if compact == NONE:
        return None
    number = compact.removesuffix("s").removesuffix("epoch")
    if compact.removesuffix("s").endswith("epoch") and number.replace(".", "", 1).isdecimal():
        return Extent(epochs=float(number))
    seconds = seconds_in(compact)
    if seconds is None:
        raise StudyError(f"--recover {str(text)[:40]!r} is not understood. Write 30m, 2h, 20epochs or none.")
    return Extent(seconds=seconds)


@dataclass(frozen=True, slots=True)
class Spending:
    """How a study divides its budget. Seconds are of the clock, from when the study is opened on."""

    search: Budget
    """With what opening the study has taken."""
    end_seconds: float | None
    """For all that follows the search, at least; None where the budget is in steps."""
    recovery: Extent | None
    """What was asked for; with `rest` whatever the budget leaves."""
    rest: bool

    @classmethod
    def of(cls, spec: StudySpec, opening: float = 0.0) -> Spending:
        """Divide the budget of a study; shares are of what opening it, so many seconds, has left.

        Raises:
            StudyError: the recovery alone would use all of it.
        """
        rest = spec.recover == AUTO and spec.final and spec.budget.seconds is not None
        asked = None if spec.recover == AUTO else extent(spec.recover)
        whole = spec.budget.seconds
        if whole is None:
            return cls(spec.budget, None, asked, False)
        fixed = (asked and asked.seconds) or 0.0
        if fixed >= whole:
            raise StudyError(
                f"--recover {spec.recover} leaves nothing of --budget {spec.budget} for the search, of which it is a "
                "part. Give more time, or less to the recovery."
            )
        in_epochs = asked is not None and asked.epochs is not None
        share = SEARCH if rest or in_epochs else SEARCH_AND_RUNS if spec.final else 1.0
        search = opening + share * max(0.0, whole - fixed - opening)
        return cls(Budget(seconds=search), max(0.0, whole - search), asked, rest)

    @property
    def fixed(self) -> float:
        """Seconds of a recovery that was asked for in seconds, else 0."""
        return (self.recovery and self.recovery.seconds) or 0.0

    @property
    def most(self) -> float | None:
        """Seconds that a search may take while nothing meets the target: then nothing is trained on either.

        None where the budget is in steps.
        """
        if self.search.seconds is None or self.end_seconds is None:
            return None
        return self.search.seconds + self.end_seconds - self.fixed

    def runs(self, left: float | None, searched: int) -> float:
        """Return what the finalists' runs may use: seconds, or steps where the budget is in steps.

        Args:
            left: seconds that the budget leaves.
            searched: steps that the search has executed.
        """
        if left is None:
            return RUNS_PER_STEP * searched
        shared = self.recovery is not None and not self.fixed
        return max(0.0, left - self.fixed) * (RUNS if shared else 1.0)

    def recovering(self, left: float | None) -> Extent | None:
        """Return how long the saved model trains on; `left` are the seconds that the budget still leaves."""
        if not self.rest:
            return self.recovery
        return Extent(seconds=left) if left is not None and left >= 1.0 else None

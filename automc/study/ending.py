"""What follows a search: finalists are run again, the best is saved, and what the budget leaves trains it on.

Every run is noted on the study's node when it is done, and the model is saved before it trains on: a stop loses the run
that was under way, or the recovery alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from automc.errors import StudyError
from automc.execution.jobs import final, loss_of, recover_saved
from automc.execution.setup import Setup
from automc.study.finalists import contenders, halve, winner
from automc.study.finish import account, measured, own_model
from automc.study.forecast import Forecast
from automc.study.loop import Listener
from automc.study.place import folder
from automc.study.protocol import Protocol, Recommendation
from automc.study.race import Won, course, race, runners
from automc.study.spec import StudySpec
from automc.study.spending import Spending
from automc.study.task import Subject
from automc.study.trial import Trial
from automc.training.recover import WHOLE, Extent

Account = dict[str, Any]


def leg(end: float) -> str:
    """What the file of a model is named after that has trained in a race up to a place on the cosine."""
    return f"race-{end:g}"


@dataclass
class Ending:
    """The end of one study; `note` saves properties of its node, which `record` holds."""

    spec: StudySpec
    setup: Setup
    subject: Subject
    protocol: Protocol
    forecast: Forecast
    record: Account
    note: Callable[..., None]
    listener: Listener
    elapsed: float
    """Seconds that the search has taken."""
    began: float = field(default_factory=time.monotonic)

    def of(self, trials: Sequence[Trial]) -> Account | None:
        """Return the figures of the saved model; what was done for these trials before is not done again."""
        known: Account | None = self.record.get("final")
        made_for = {"trials": len(trials), "budget": str(self.spec.budget), "recover": self.spec.recover}
        if known and self._out.is_file() and all(known.get(name) == value for name, value in made_for.items()):
            return self._recovered(known, trials)
        won = self._raced(trials)
        choice, source = (won.choice, self._file(won.choice.trial, leg(won.place))) if won else self._chosen(trials)
        if choice is None:
            return None
        saved = self._save(choice.trial, source)
        place = won.place if won and saved else 0.0
        done = {**self._account(choice.trial), **made_for, "why": choice.why, "recovered": False, "place": place}
        self.note(final=done, recommended=choice.trial.scheme.id, why=choice.why)
        return self._recovered(done, trials)

    @property
    def _out(self) -> Path:
        return folder(self.spec.id) / "final.am"

    @property
    def _left(self) -> float | None:
        """Seconds that the budget leaves; None where it is in steps."""
        whole = self.spec.budget.seconds
        return None if whole is None else whole - self.elapsed - (time.monotonic() - self.began)

    def _chosen(self, trials: Sequence[Trial]) -> tuple[Recommendation | None, Path | None]:
        """Return the scheme to save, and the file of its best run; None for that where the trial's model is saved."""
        recommended = self.protocol.recommended(trials)
        if recommended is None or not self.spec.final:
            return recommended, None
        if (spending := Spending.of(self.spec)).rest:
            # What running it again would cost trains the trial's own model on.
            return recommended, None
        timed = self.spec.budget.seconds is not None
        allowance = spending.runs(self._left, len(trials))
        whole = [t for t in trials if not t.scheme.level] if self.spec.recipe.fraction == 1 else []
        known = {t.scheme: [t.accuracy or 0.0] for t in whole}

        def cost(trial: Trial) -> float:
            n = self.subject.splits.rest.n
            return sum(self.forecast.step(s, n) for s in trial.scheme.steps) if timed else len(trial.scheme)

        done = halve(contenders(self.protocol, trials), allowance, cost, self._run, known)
        best = winner(self.protocol, trials, done, known)
        if best is None:
            self.listener.say("No final run ended well. The recommended trial's own model is saved instead.")
            return recommended, None
        trial = best.choice.trial
        number = 1 + max(range(len(best.runs)), key=lambda n: best.runs[n])
        return best.choice, self._file(trial, number)

    def _raced(self, trials: Sequence[Trial]) -> Won | None:
        """Return the winner of a race among finalists of different kinds; None where there is no time, or only one."""
        pool, left = runners(self.protocol, trials), self._left
        seconds = course(len(pool), left) if left is not None and Spending.of(self.spec).rest else None
        if seconds is None:
            return None

        def run(trial: Trial, begin: float, end: float) -> float:
            file, known = self._file(trial, leg(end)), self.record.setdefault("race", {})
            key = f"{len(trials)} {self.spec.budget} {end:g} {trial.scheme.id}"
            if key not in known or not file.is_file():
                file.parent.mkdir(exist_ok=True)
                shutil.copyfile(self._file(trial, leg(begin)) if begin else self._own(trial), file)
                extent = Extent(seconds=seconds * (end - begin))
                done = recover_saved(
                    self.setup, file, extent, part=(begin, end),
                    progress=lambda did, of: self.listener.progress(f"race of trial {trial.ordinal}", did, of),
                )  # fmt: skip
                loss = loss_of(self.setup, file)
                self.listener.say(f"Race: trial {trial.ordinal} has a loss of {loss:.3f} after {extent}. {done.text}")
                self.note(race={**known, key: loss})
            found: float = self.record["race"][key]
            return found

        return race(pool, run)

    def _file(self, trial: Trial, number: int | str) -> Path:
        name = sha256(trial.scheme.id.encode()).hexdigest()[:16]
        return folder(self.spec.id) / "finals" / f"{name}-{number}.am"

    def _run(self, trial: Trial, number: int) -> float | None:
        """Run a scheme with the n-th other seed; return its validation accuracy, None where it failed."""
        file, runs = self._file(trial, number), self.record.setdefault("finals", {})
        key = f"{number} {trial.scheme.id}"
        if key in runs and (runs[key] is None or file.is_file()):
            accuracy: float | None = runs[key]
            return accuracy
        file.parent.mkdir(exist_ok=True)
        what = f"final run {number} of trial {trial.ordinal}"
        done = final(
            self.setup, trial.scheme, file, metadata={"study": self.spec.id}, run_seed=self.spec.run_seed + number,
            progress=lambda did, of: self.listener.progress(what, did, of),
        )  # fmt: skip
        if done.status == "ok":
            found = f"validation {self.protocol.measure} {done.accuracy:.2%}"
            self.listener.say(f"Final run {number} of trial {trial.ordinal}: {found}.")
        else:
            self.listener.say(f"Final run {number} of trial {trial.ordinal} ended as {done.status}: {done.reason}")
        self.note(finals={**runs, key: done.accuracy if done.status == "ok" else None})
        return done.accuracy if done.status == "ok" else None

    def _save(self, trial: Trial, source: Path | None) -> bool:
        """Put the model that is to be saved in its place; say whether it is `source`, not where that misses the target.

        The trial's own model takes its place. Latency is no reason: it is that of the same scheme, measured again.
        """
        if source is not None and not self.protocol.gamma_alone:
            found = measured(source, trial, self.subject, self.protocol)
            if missed := self.protocol.misses(found, leave_out="latency_ms"):
                reasons = "; ".join(miss.text for miss in missed)
                self.listener.say(f"The model of the final run misses the target: {reasons}. The trial's own is saved.")
                source = None
        shutil.copyfile(source or self._own(trial), self._out)
        return source is not None

    def _own(self, trial: Trial) -> Path:
        """Return the file of a trial's own model; where a small cache has lost it, that of its scheme run once more."""
        if (kept := own_model(self.setup, trial)) is not None:
            return kept
        self.listener.say(f"The model of trial {trial.ordinal} is no longer in the cache: its scheme is run again.")
        if self._run(trial, 1) is None:
            raise StudyError(
                "The recommended model is no longer in the cache, and running its scheme again failed: "
                f"{trial.scheme.id}. automc resume {self.spec.id} tries again; a larger --cache-size keeps models."
            )
        return self._file(trial, 1)

    def _account(self, trial: Trial) -> Account:
        return account(self._out, trial, self.spec, self.subject, self.protocol, self.listener)

    def _recovered(self, known: Account, trials: Sequence[Trial]) -> Account:
        """Train the saved model on, if that is to be and was not done; return the figures of what is saved then."""
        extent = None if known.get("recovered", True) else Spending.of(self.spec).recovering(self._left)
        if extent is not None:
            self.listener.say(f"Saved: {self._out}. It trains on, with the original as its teacher, for {extent}.")
            done = recover_saved(
                self.setup, self._out, extent, part=(known.get("place", 0.0), WHOLE[1]),
                progress=lambda did, of: self.listener.progress("recovery", did, of),
            )  # fmt: skip
            self.listener.say(done.text)
            trial = next(t for t in trials if t.scheme.id == known["scheme"])
            known = {**known, **self._account(trial), "recovery": done.as_dict()}
        if not known.get("recovered", True):
            known = {**known, "recovered": True}
            self.note(final=known)
        return known

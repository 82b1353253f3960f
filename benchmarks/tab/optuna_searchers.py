"""Optuna's TPE and NSGA-II behind the contract of a searcher, for comparison.

They suggest a length and one strategy per position. A searcher is rebuilt from what it was told, so each `ask`
makes a study of it anew; suggestions that were executed already are told back at no cost, those that are not
admissible are told as failed, and what is then missing is drawn at random.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from automc.search.base import Limits, Outcome, SchemeIndices, Searcher, Space
from automc.search.history import History
from automc.search.random_search import fill

POPULATION = 20
TRIES = 5
"""Suggestions for each scheme asked, at most."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class OptunaSearch(Searcher):
    """A sampler of Optuna on (accuracy, PR), both up. Told parents are trials of their own."""

    every_position: ClassVar[bool]
    """Whether positions behind the end of a scheme are suggested too, and left unused."""

    def __init__(self, space: Space, limits: Limits, seed: int) -> None:
        super().__init__(space, limits, seed)
        self.history = History(self.space, limits)
        self._length = IntDistribution(1, limits.max_length)
        self._step = CategoricalDistribution(tuple(int(i) for i in np.flatnonzero(self.space.mask)) or (0,))
        self._trials: list[FrozenTrial] = []

    @abstractmethod
    def sampler(self, seed: int) -> BaseSampler:
        """Return the sampler."""

    def ask(self, k: int, pending: Sequence[SchemeIndices] = ()) -> list[SchemeIndices]:
        """Return up to `k` new schemes."""
        self.history.expect(pending)
        rng = self.history.generator(self.seed)
        study = optuna.create_study(directions=["maximize"] * 2, sampler=self.sampler(int(rng.integers(2**31))))
        study.add_trials(self._trials)
        asked: list[SchemeIndices] = []
        for _ in range(TRIES * k if self.space.mask.any() else 0):
            trial = study.ask()
            scheme = self._suggest(trial)
            known = self.history.outcomes.get(scheme)
            if known is not None and (values := values_of(known)):
                study.tell(trial, values)
            elif scheme in asked or self.history.known(scheme) or not self._admissible(scheme):
                study.tell(trial, state=TrialState.FAIL)
            else:
                asked.append(scheme)
            if len(asked) == k:
                break
        return fill(asked, k, self.history, rng)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Make a trial of each outcome; of none with steps that it may not suggest."""
        self.history.record(outcomes)
        for outcome in outcomes:
            if not set(outcome.scheme) <= set(self._step.choices):
                continue
            values = values_of(outcome)
            state = TrialState.COMPLETE if values else TrialState.FAIL
            params, distributions = self._parameters(outcome.scheme)
            self._trials.append(create_trial(state=state, values=values, params=params, distributions=distributions))

    def _suggest(self, trial: Trial) -> SchemeIndices:
        length = trial.suggest_int("length", 1, self.limits.max_length)
        positions = self.limits.max_length if self.every_position else length
        steps = [trial.suggest_categorical(f"step{i}", self._step.choices) for i in range(positions)]
        return tuple(cast("int", step) for step in steps[:length])

    def _parameters(self, scheme: SchemeIndices) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a told scheme as parameters; unused positions repeat the last step."""
        positions = self.limits.max_length if self.every_position else len(scheme)
        steps = {f"step{i}": scheme[min(i, len(scheme) - 1)] for i in range(positions)}
        return {"length": len(scheme), **steps}, {"length": self._length, **dict.fromkeys(steps, self._step)}

    def _admissible(self, scheme: SchemeIndices) -> bool:
        return all(self.history.admissible(scheme[:n])[scheme[n]] for n in range(len(scheme)))


class OptunaTPE(OptunaSearch):
    """Tree-structured Parzen estimator, for several objectives."""

    name: ClassVar[str] = "optuna-tpe"
    every_position: ClassVar[bool] = False

    def sampler(self, seed: int) -> BaseSampler:
        """Return TPE, one parameter at a time, else as Optuna sets it up."""
        return TPESampler(seed=seed, multivariate=False)


class OptunaNSGA2(OptunaSearch):
    """NSGA-II, 20 trials a generation in the order told.

    Its crossover needs parameters that every trial has, so positions behind the end are suggested too.
    """

    name: ClassVar[str] = "optuna-nsga2"
    every_position: ClassVar[bool] = True

    def sampler(self, seed: int) -> BaseSampler:
        """Return NSGA-II."""
        return _Generations(population_size=POPULATION, seed=seed)


class _Generations(NSGAIISampler):
    """NSGA-II whose generations follow from the order of trials, so that a study can be made anew."""

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        """Return the generation of a trial: twenty trials that did not fail make one."""
        return self._complete_before(study, trial.number) // POPULATION

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Return the complete trials of a generation."""
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return complete[generation * POPULATION : (generation + 1) * POPULATION]

    def _complete_before(self, study: optuna.Study, number: int) -> int:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return sum(trial.number < number for trial in complete)


def values_of(outcome: Outcome) -> list[float] | None:
    """Return accuracy and PR of an outcome that is ok, None of others."""
    if outcome.status != "ok" or outcome.accuracy is None or outcome.pr is None:
        return None
    return [outcome.accuracy, outcome.pr]

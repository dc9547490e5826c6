"""Optuna's study of a search: kept in a journal, trial 0 the config as given, suggestions that no kill changes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from mer_ray.data.storage import Store
from mer_ray.tune import record
from mer_ray.tune.journal import StoreJournal
from mer_ray.tune.record import Step, Tried
from mer_ray.tune.space import Space

JOURNAL = "journal"
_NAME = "search"


class TrialSampler(BaseSampler):
    """TPE, a key at a time, seeded by (seed, trial, key): what it suggests depends on nothing but the trials ended."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See ``BaseSampler``: no key is drawn together with another."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See ``BaseSampler``."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:  # noqa: ANN401 - what the key takes
        """See ``BaseSampler``."""
        entropy = np.random.SeedSequence([self.seed, trial.number, zlib.crc32(param_name.encode())])
        sampler = TPESampler(seed=int(entropy.generate_state(1)[0]))
        return sampler.sample_independent(study, trial, param_name, param_distribution)


class Suggestions:
    """A search's study: trials are asked for, taken up again by their numbers, and told.

    Args:
        store: the folder ``trials/``.
        seed: of the suggestions.
        space: what is drawn.
        given: the values of the config, which trial 0 has; Optuna is told those that the space holds.
    """

    def __init__(self, store: Store, seed: int, space: Space, given: Mapping[str, Any]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = optuna.storages.JournalStorage(StoreJournal(store / JOURNAL))
        if _NAME not in optuna.get_all_study_names(self._storage):
            optuna.create_study(storage=self._storage, study_name=_NAME, direction="maximize")
        self._study = optuna.load_study(study_name=_NAME, storage=self._storage, sampler=TrialSampler(seed))
        self._given = dict(given)
        self._space, self._first = space, space.holding(given)
        if not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial({one.key: given[one.key] for one in self._first.dimensions})

    @property
    def tried(self) -> list[Tried]:
        """Every trial that was asked for, in order."""
        trials = self._study.get_trials(deepcopy=False)
        return [record.read(trial, self._given) for trial in trials if trial.state != TrialState.WAITING]

    def ask(self) -> Trial:
        """A new trial, drawn; the first is the config."""
        return self._draw(self._study.ask())

    def again(self, number: int) -> Trial:
        """A trial that a kill cut short; what had not been drawn of it is."""
        study_id = self._storage.get_study_id_from_name(_NAME)
        return self._draw(Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study_id, number)))

    def note(self, trial: Trial, step: Step, seconds: float) -> None:
        """Write down what a trial told after a round, and how long it had taken so far."""
        if step.round not in self._study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            trial.report(step.objective, step.round)
        trial.set_user_attr(str(step.round), {"step": asdict(step), "seconds": seconds})

    def done(self, trial: Trial, oof: str) -> None:
        """Write down that a trial was mined to its end, and what it predicts out of fold, see ``Tried.oof``."""
        trial.set_user_attr(record.OOF, oof)
        self._study.tell(trial, self.tried[trial.number].objective, TrialState.COMPLETE)

    def stopped(self, trial: Trial) -> None:
        """Write down that a trial fell behind."""
        self._study.tell(trial, state=TrialState.PRUNED)

    def failed(self, trial: Trial, reason: str) -> None:
        """Write down that a trial failed, and why."""
        trial.set_user_attr(record.REASON, reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def _draw(self, trial: Trial) -> Trial:
        (self._space if trial.number else self._first).draw(trial)
        return trial

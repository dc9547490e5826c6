"""What the learners of an experiment say together: votes heard, combined, compared and selected from.

By ``fit.final=all`` a learner has one more model than there are folds, the last, that holds nothing out: it answers for
the clips without a label.

Shapes: K learners, F models of a learner, N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mer_ray.config import MiningConfig
from mer_ray.evaluation.metrics import waf
from mer_ray.learners.experiment import Experiment
from mer_ray.learners.folds import Folds, share_pool
from mer_ray.learners.learner import Last, Predictions
from mer_ray.mining.base import Context, Strategy
from mer_ray.rounds import ensemble, guard, votes
from mer_ray.rounds.ensemble import Ensemble
from mer_ray.rounds.split import Adoptions, adopt


@dataclass(frozen=True)
class Votes:
    """One learner's votes as strategies and the ensemble take them.

    Attributes:
        by_fold: float32 (F, N, C), by each model, as it gave them.
        raw: float64 (N, C), out of fold for labelled clips, else as ``fit.final`` says; as the models gave them.
        votes: float64 (N, C), the same, tempered.
        temperatures: what ``votes`` were tempered by, of each model.
    """

    by_fold: NDArray[np.float32]
    raw: NDArray[np.float64]
    votes: NDArray[np.float64]
    temperatures: tuple[float, ...]


@dataclass(frozen=True)
class Committee:
    """How votes are read; of the experiment everything but the features.

    Attributes:
        experiment: whose labels, pool and classes.
        folds: how its labelled clips are held out.
        mining: the class shares expected.
        how: the final ensemble, ``mode`` or ``mean``.
        last: whether a learner has one more model, that holds nothing out.

    Raises:
        ConfigError: ``mining.prior`` does not fit the classes.
    """

    experiment: Experiment
    folds: Folds
    mining: MiningConfig
    how: Literal["mode", "mean"]
    last: Last = "folds"

    def __post_init__(self) -> None:
        self.prior_FC  # noqa: B018 - a bad prior is told at once

    @cached_property
    def held_out(self) -> NDArray[np.int64]:
        """The fold that holds a labelled clip out, int64 (N,), -1 for all other clips."""
        held_out = np.full(len(self.experiment.labels), -1, dtype=np.int64)
        held_out[self.experiment.labelled] = self.folds.held_out
        return held_out

    @property
    def num_models(self) -> int:
        """F: one for each fold, and the one that holds nothing out."""
        return self.folds.num_folds + (self.last == "all")

    @cached_property
    def prior_FC(self) -> NDArray[np.float64]:
        """The class shares that each model expects of the pool."""
        names = self.experiment.class_names
        return votes.priors(self.mining.prior, self._truth, self.folds.held_out, names, self.num_models)

    @cached_property
    def pools(self) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
        """The clips that may teach each model without a label, bool (F, N), and what is to be warned of."""
        experiment = self.experiment
        pool_FN, warnings = share_pool(self.folds, experiment.labelled, experiment.speakers, experiment.pool)
        everything = np.tile(experiment.pool, (self.num_models - len(pool_FN), 1))
        return np.concatenate([pool_FN, everything]), warnings

    def hear(self, prediction: Predictions) -> Votes:
        """A learner's votes: tempered for the ensemble, and as they are for the strategy.

        The models that answered for a temperature's clips know the labels that its own fold holds out, and by it these
        could come back to the fold in what is adopted.
        """
        raw_FNC, raw_NC = prediction.probabilities_FNC, prediction.clean(self.held_out)[0]
        temperatures_F = self._temperatures(raw_NC, len(raw_FNC))
        tempered_FNC = votes.temper(raw_FNC, temperatures_F[:, None, None]).astype(np.float32)
        tempered_NC = replace(prediction, probabilities_FNC=tempered_FNC).clean(self.held_out)[0]
        return Votes(raw_FNC, raw_NC, tempered_NC, tuple(temperatures_F.tolist()))

    def temper(self, said: Ensemble) -> tuple[Ensemble, float]:
        """What is said, its probabilities tempered, and the temperature of all clips but the labelled ones.

        As of votes, those of a fold's clips are tempered by what the other folds' clips say.
        """
        temperatures_F = self._temperatures(said.probabilities, self.folds.num_folds + 1)
        return said.tempered(temperatures_F[self.held_out]), float(temperatures_F[-1])

    def mean(self, said: Mapping[str, NDArray[np.float64]]) -> Ensemble:
        """The mean-probability ensemble."""
        return self._combine(said, "mean", list(said))

    def final(self, said: Mapping[str, NDArray[np.float64]], ranking: Sequence[str]) -> Ensemble:
        """The ensemble that the config asks for; ``ranking`` names the learners, best first."""
        return self._combine(said, self.how, ranking)

    def select(self, strategy: Strategy, number: int, heard: Mapping[str, Votes], standing: Adoptions) -> Adoptions:
        """What a round's votes adopt, fold by fold; ``learner`` is the place in ``heard``."""
        votes_KFNC = self._aligned(np.stack([one.by_fold for one in heard.values()]))
        contexts = [Context(number, prior_C) for prior_C in self.prior_FC]
        return adopt(strategy, votes_KFNC, self.pools[0], standing, contexts, seed=self.experiment.seed)

    def teach(self, teacher: Predictions) -> NDArray[np.float32]:
        """What the models of a teacher tell those of its student of each clip, float32 (F, N, C)."""
        told_FNC: NDArray[np.float32] = self._aligned(teacher.probabilities_FNC[None])[0]
        return told_FNC

    def compare(self, label: NDArray[np.int64], other: NDArray[np.int64]) -> guard.Comparison:
        """Two predictions of all clips, on the labelled ones."""
        rows = self.experiment.labelled
        return guard.compare(self._truth, label[rows], other[rows], self.folds.held_out, self.experiment.seed)

    def oof_waf(self, votes_NC: NDArray[np.float64]) -> float:
        """A learner's WAF on the labelled clips; where it abstains it answers with the commonest class."""
        return self.waf(np.where(np.isnan(votes_NC), self.experiment.prior, votes_NC).argmax(axis=1))

    def waf(self, label: NDArray[np.int64]) -> float:
        """WAF of predicted classes (N,) on the labelled clips."""
        return waf(self._truth, label[self.experiment.labelled])

    def _aligned(self, votes_KFNC: NDArray[np.float32]) -> NDArray[np.float32]:
        """Votes, of each model's pool aligned to the class shares expected; as they are where none is asked for."""
        if self.mining.prior == "none":
            return votes_KFNC
        return votes.align_pool(votes_KFNC, self.pools[0], self.prior_FC).astype(np.float32)

    def _temperatures(self, said_NC: NDArray[np.float64], num_models: int) -> NDArray[np.float64]:
        return votes.temperatures(said_NC[self.experiment.labelled], self._truth, self.folds.held_out, num_models)

    @property
    def _truth(self) -> NDArray[np.int64]:
        return self.experiment.labels[self.experiment.labelled]

    def _combine(
        self, said: Mapping[str, NDArray[np.float64]], how: Literal["mode", "mean"], ranking: Sequence[str]
    ) -> Ensemble:
        order = [list(said).index(name) for name in ranking]
        return ensemble.combine(how, np.stack(list(said.values())), order, self.experiment.prior)

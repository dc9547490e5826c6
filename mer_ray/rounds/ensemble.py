"""One label per clip from the learners' votes: mode with drop-last (P1, figure 4) or mean of probabilities.

Shapes: K learners, N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mer_ray.mining import base
from mer_ray.rounds import votes


@dataclass(frozen=True)
class Ensemble:
    """The final word on each clip.

    Attributes:
        label: int64 (N,).
        confidence: float64 (N,), probability of ``label``.
        probabilities: float64 (N, C), mean over the learners that do not abstain; by ``mode`` the label need not be
            the likeliest class.
        answered: bool (N,), False where all learners abstain and the probabilities are the prior.
    """

    label: NDArray[np.int64]
    confidence: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    answered: NDArray[np.bool_]

    def tempered(self, temperature_N: NDArray[np.float64]) -> Ensemble:
        """The same labels, the probabilities of each clip that is answered tempered; see ``votes.temper``."""
        tempered = votes.temper(self.probabilities, temperature_N[:, None])
        probabilities = np.where(self.answered[:, None], tempered, self.probabilities)
        return replace(
            self, confidence=probabilities[np.arange(len(self.label)), self.label], probabilities=probabilities
        )


def combine(
    how: Literal["mode", "mean"],
    votes_KNC: NDArray[np.floating],
    ranking: Sequence[int],
    prior: NDArray[np.float64],
) -> Ensemble:
    """Combine the learners' votes.

    Args:
        how: ``mode`` or ``mean``.
        votes_KNC: probabilities; NaN rows where a learner abstains.
        ranking: learners' indices, best first, by out-of-fold WAF (P1 ranks on the test set, which is a leak).
        prior: (C,), the answer for a clip on which all learners abstain.
    """
    mean_NC = base.mean(votes_KNC)
    answered: NDArray[np.bool_] = np.logical_not(np.isnan(mean_NC).any(axis=1))
    probabilities = np.where(answered[:, None], mean_NC, prior)
    by_mean = probabilities.argmax(axis=1)
    label = by_mean if how == "mean" else mode(base.predicted(votes_KNC), ranking, by_mean)
    confidence = probabilities[np.arange(len(label)), label]
    return Ensemble(label.astype(np.int64), confidence, probabilities, answered)


def mode(predicted_KN: NDArray[np.int64], ranking: Sequence[int], otherwise: NDArray[np.int64]) -> NDArray[np.int64]:
    """The commonest class per clip; while it is not unique the lowest-ranked learner is dropped (P1, figure 4).

    Args:
        predicted_KN: int64, -1 where a learner abstains.
        ranking: learners' indices, best first.
        otherwise: int64 (N,), the answer where all abstain.
    """
    label = otherwise.copy()
    open_N = np.ones(len(label), dtype=bool)
    num_classes = int(predicted_KN.max(initial=0)) + 1
    for kept in range(len(ranking), 0, -1):
        counts_NC = base.count(predicted_KN[list(ranking[:kept])], num_classes)
        most_N = counts_NC.max(axis=1)
        unique_N = ((counts_NC == most_N[:, None]).sum(axis=1) == 1) & (most_N > 0) & open_N
        label[unique_N] = counts_NC.argmax(axis=1)[unique_N]
        open_N &= ~unique_N
    return label


def mean_valence(said: Sequence[NDArray[np.float64]], stand_in: float | None) -> NDArray[np.float64] | None:
    """The mean over the learners that do not abstain, float64 (N,); None where none learns it.

    Args:
        said: by learner (N,), NaN where it abstains.
        stand_in: for a clip on which all abstain.

    >>> mean_valence([np.array([1.0, np.nan]), np.array([2.0, np.nan])], 0.25)
    array([1.5 , 0.25])
    """
    if not said:
        return None
    found_N = base.mean(np.stack(said)[:, :, None])[:, 0]
    return np.where(np.isnan(found_N), np.nan if stand_in is None else stand_in, found_N)

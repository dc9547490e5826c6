"""What a selection strategy is: the learners' votes in, the clips to adopt out.

Shapes: K learners, N clips of the pool, C classes. A learner that has none of a clip's features abstains: its row of
probabilities is all NaN.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every strategy's ``Config``."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Selection:
    """The clips adopted: four aligned arrays of length n.

    Attributes:
        clip: int64, index into the pool, ascending.
        label: int64, the class adopted.
        agreement: int64, how many learners predict that class.
        confidence: float64, mean probability of that class over the learners.
    """

    clip: NDArray[np.int64]
    label: NDArray[np.int64]
    agreement: NDArray[np.int64]
    confidence: NDArray[np.float64]


class Strategy(ABC):
    """Chooses which clips of the pool are pseudo-labelled this round. Pure: same votes, same selection."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def select(self, votes_KNC: NDArray[np.floating]) -> Selection:
        """Select from the clips still unlabelled.

        Args:
            votes_KNC: probabilities (K, N, C), each row summing to 1, or all NaN where a learner abstains;
                ``predicted``, ``count`` and ``mean`` read them so.

        Returns:
            The selection; empty when nothing qualifies.
        """


def predicted(votes_KNC: NDArray[np.floating]) -> NDArray[np.int64]:
    """Each learner's class per clip, int64 (K, N); the lowest class of equal ones, -1 where it abstains."""
    abstains = np.isnan(votes_KNC).any(axis=2)
    return np.where(abstains, -1, np.nan_to_num(votes_KNC).argmax(axis=2)).astype(np.int64)


def count(predicted_KN: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """How many learners predict each class of each clip, int64 (N, C)."""
    counts_NC: NDArray[np.int64] = (predicted_KN[:, :, None] == np.arange(num_classes)).sum(axis=0, dtype=np.int64)
    return counts_NC


def mean(votes_KNC: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean probabilities over the learners that do not abstain, float64 (N, C); NaN where all of them do."""
    votes = votes_KNC.astype(np.float64)
    voters_N1 = (~np.isnan(votes).any(axis=2)).sum(axis=0)[:, None]
    total_NC = np.nansum(votes, axis=0)
    mean_NC: NDArray[np.float64] = np.full_like(total_NC, np.nan)
    np.divide(total_NC, voters_N1, out=mean_NC, where=voters_N1 > 0)
    return mean_NC


def selection(
    clip: NDArray[np.int64],
    label: NDArray[np.int64],
    counts_NC: NDArray[np.int64],
    mean_NC: NDArray[np.float64],
) -> Selection:
    """The ``Selection`` of the given clips and labels, in order of the clips, with what the votes say of them."""
    order = np.argsort(clip, kind="stable")
    clip, label = clip[order].astype(np.int64), label[order].astype(np.int64)
    return Selection(clip, label, counts_NC[clip, label], mean_NC[clip, label])

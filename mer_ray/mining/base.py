"""What a selection strategy is: the learners' votes in, the clips to adopt out.

Shapes: K learners, N clips of the pool, C classes, n adopted clips. A learner that has none of a clip's features
abstains: its row of probabilities is all NaN.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

_PRIOR_CLIPS = 10

How = Literal["even", "stratified", "bootstrap", "all"]


class Config(BaseModel):
    """Base of every strategy's ``Config``: what becomes of the clips that it selects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: How = Field(
        "even", description="what a learner trains on: its share (P1) | of each class | a draw with replacement | all"
    )
    relabel: Literal["keep", "revisit"] = Field(
        "keep", description="earlier pseudo-labels: kept for good (P1, P3) | chosen anew each round"
    )


@dataclass(frozen=True)
class Context:
    """What a strategy may know beside the votes.

    Attributes:
        round_number: the round of these votes; 0 is the labelled data alone.
        prior_C: float64, the class shares expected, summing to 1.
    """

    round_number: int
    prior_C: NDArray[np.float64]

    @classmethod
    def even(cls, num_classes: int, round_number: int = 0) -> Context:
        """Classes equally common.

        >>> Context.even(2).prior_C.tolist()
        [0.5, 0.5]
        """
        return cls(round_number, np.full(num_classes, 1 / num_classes))


@dataclass(frozen=True)
class Selection:
    """The clips adopted: aligned arrays of length n.

    Attributes:
        clip: int64, index into the pool, ascending.
        label: int64, the class adopted.
        agreement: int64, how many learners predict that class.
        confidence: float64, mean probability of that class over the learners.
        target: float32 (n, C), what to train towards, rows summing to 1.
        weight: float32, how much the clip counts in training; a labelled one counts 1.
    """

    clip: NDArray[np.int64]
    label: NDArray[np.int64]
    agreement: NDArray[np.int64]
    confidence: NDArray[np.float64]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]


class Strategy(ABC):
    """Chooses which clips of the pool are pseudo-labelled this round. Pure: same votes and context, same selection."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def select(self, votes_KNC: NDArray[np.floating], context: Context) -> Selection:
        """Select from the clips still unlabelled.

        Args:
            votes_KNC: probabilities (K, N, C), each row summing to 1, or all NaN where a learner abstains;
                ``predicted``, ``count`` and ``mean`` read them so.
            context: the round, and what is known of the classes.

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
    voting_N1 = (~np.isnan(votes).any(axis=2)).sum(axis=0)[:, None]
    total_NC = np.nansum(votes, axis=0)
    mean_NC: NDArray[np.float64] = np.full_like(total_NC, np.nan)
    np.divide(total_NC, voting_N1, out=mean_NC, where=voting_N1 > 0)
    return mean_NC


def align(probabilities_NC: NDArray[np.floating], prior_C: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities whose mean moves to the class shares expected (distribution alignment, ReMixMatch, section 3.1).

    Each class is scaled by expected over mean share, and rows are normalised. The mean is taken with ten clips per
    class of the expected shares added, so that a handful of clips is hardly moved. NaN rows stay.
    """
    probabilities: NDArray[np.float64] = probabilities_NC.astype(np.float64)
    voted_NC = probabilities[~np.isnan(probabilities).any(axis=1)]
    added = _PRIOR_CLIPS * len(prior_C)
    shares_C = (voted_NC.sum(axis=0) + added * prior_C) / (len(voted_NC) + added)
    scaled_NC = probabilities * np.divide(prior_C, shares_C, out=np.zeros_like(shares_C), where=shares_C > 0)
    total_N1 = scaled_NC.sum(axis=1, keepdims=True)
    np.divide(scaled_NC, total_N1, out=probabilities, where=~(total_N1 <= 0))
    return probabilities


def selection(
    clip: NDArray[np.int64],
    label: NDArray[np.int64],
    counts_NC: NDArray[np.int64],
    mean_NC: NDArray[np.float64],
) -> Selection:
    """The ``Selection`` of the given clips and labels, in order of the clips, with what the votes say of them.

    Each is trained towards its label alone, and counts 1.

    Args:
        clip: the clips adopted, in any order.
        label: the class of each.
        counts_NC: of all clips of the pool, from ``count``.
        mean_NC: of all clips of the pool, from ``mean``.
    """
    order = np.argsort(clip, kind="stable")
    clip, label = clip[order].astype(np.int64), label[order].astype(np.int64)
    return Selection(
        clip,
        label,
        counts_NC[clip, label],
        mean_NC[clip, label],
        np.eye(mean_NC.shape[1], dtype=np.float32)[label],
        np.ones(len(clip), dtype=np.float32),
    )

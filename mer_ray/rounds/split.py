"""Select clips fold by fold and give each learner its own share of them (P1 section 2.5).

Shapes: K learners, F folds, N clips, C classes, n adoptions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from mer_ray.mining.base import Strategy


@dataclass(frozen=True)
class Adoptions:
    """Clips adopted as pseudo-labelled, one row per fold and clip: aligned arrays of length n.

    Attributes:
        fold: int64, the fold whose models agreed and whose models alone are trained on it.
        clip: int64, row of the clip.
        label: int64, the class adopted.
        agreement: int64, learners that predicted it.
        confidence: float64, mean probability.
        learner: int64, the learner whose subset it joined.
        round: int64, the round whose votes adopted it; it is trained on from the next round.
    """

    fold: NDArray[np.int64]
    clip: NDArray[np.int64]
    label: NDArray[np.int64]
    agreement: NDArray[np.int64]
    confidence: NDArray[np.float64]
    learner: NDArray[np.int64]
    round: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.clip)

    def where(self, mask: NDArray[np.bool_]) -> Adoptions:
        """The rows where ``mask`` is True."""
        return Adoptions(*(getattr(self, field.name)[mask] for field in fields(self)))

    def of(self, fold: int, learner: int) -> Adoptions:
        """What the model of this fold and learner is trained on."""
        return self.where((self.fold == fold) & (self.learner == learner))

    def join(self, other: Adoptions) -> Adoptions:
        """These rows, then the other's."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return Adoptions(*(np.concatenate(pair) for pair in pairs))

    def shuffled(self, seed: int) -> Adoptions:
        """The same clips with their labels permuted within each fold: the control that says whether labels matter."""
        label = self.label.copy()
        for fold in np.unique(self.fold):
            rows = np.flatnonzero(self.fold == fold)
            label[rows] = np.random.default_rng([seed, int(fold)]).permutation(label[rows])
        return replace(self, label=label)

    def with_learners(self, places: NDArray[np.int64]) -> Adoptions:
        """The same rows with ``learner`` looked up in ``places``: for a round in which only some learners voted."""
        return replace(self, learner=places[self.learner])

    @classmethod
    def none(cls) -> Adoptions:
        """No rows."""
        empty = np.empty(0, dtype=np.int64)
        return cls(empty, empty, empty, empty, np.empty(0, dtype=np.float64), empty, empty)


def adopt(
    strategy: Strategy,
    votes_KFNC: NDArray[np.floating],
    pool: NDArray[np.bool_],
    earlier: Adoptions,
    *,
    round_number: int,
    seed: int,
) -> Adoptions:
    """Let the learners of each fold choose from that fold's pool, and split the choice evenly among the learners.

    Args:
        strategy: what qualifies.
        votes_KFNC: probabilities by the model of each learner and fold, for all clips.
        pool: bool (N,), clips that may be adopted at all.
        earlier: adoptions of earlier rounds; a clip adopted in a fold has left the pool of that fold only.
        round_number: the round of these votes.
        seed: of the split.

    Returns:
        This round's adoptions, by fold and clip.
    """
    num_learners, num_folds = votes_KFNC.shape[:2]
    adoptions = Adoptions.none()
    for fold in range(num_folds):
        free = pool.copy()
        free[earlier.clip[earlier.fold == fold]] = False
        rows = np.flatnonzero(free)
        if not len(rows):
            continue
        chosen = strategy.select(votes_KFNC[:, fold, rows])
        adoptions = adoptions.join(
            Adoptions(
                fold=np.full(len(chosen.clip), fold, dtype=np.int64),
                clip=rows[chosen.clip],
                label=chosen.label,
                agreement=chosen.agreement,
                confidence=chosen.confidence,
                learner=split(len(chosen.clip), num_learners, [seed, round_number, fold]),
                round=np.full(len(chosen.clip), round_number, dtype=np.int64),
            )
        )
    return adoptions


def split(num_clips: int, num_learners: int, seed: int | list[int]) -> NDArray[np.int64]:
    """The learner of each clip, int64 (num_clips,): at random, subsets of sizes that differ by at most one (P1).

    >>> np.bincount(split(10, 4, seed=0)).tolist()
    [3, 3, 2, 2]
    """
    return np.random.default_rng(seed).permutation(np.arange(num_clips) % num_learners).astype(np.int64)

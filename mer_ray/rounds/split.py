"""Select clips fold by fold and divide them among the learners (P1 section 2.5).

Shapes: K learners, F folds, N clips, C classes, n adoptions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from mer_ray.mining.base import Context, How, Selection, Strategy

Seed = int | Sequence[int]


@dataclass(frozen=True)
class Adoptions:
    """Clips adopted as pseudo-labelled, one row per fold, clip and learner: aligned arrays of length n.

    Attributes:
        fold: int64, the fold whose models agreed and whose models alone are trained on it.
        clip: int64, row of the clip.
        label: int64, the class adopted.
        agreement: int64, learners that predicted it.
        confidence: float64, mean probability.
        target: float32 (n, C), what is trained towards, rows summing to 1.
        weight: float32, how much it counts in training; a labelled clip counts 1.
        learner: int64, the learner whose subset it joined.
        round: int64, the round whose votes adopted it; it is trained on from the next round.
    """

    fold: NDArray[np.int64]
    clip: NDArray[np.int64]
    label: NDArray[np.int64]
    agreement: NDArray[np.int64]
    confidence: NDArray[np.float64]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]
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
        """The same clips with their labels permuted within each fold: the control that says whether labels matter.

        A clip that several learners train on has one label in all of them here too.
        """
        label, target = self.label.copy(), self.target.copy()
        for fold in np.unique(self.fold):
            rows = np.flatnonzero(self.fold == fold)
            clips, first, place = np.unique(self.clip[rows], return_index=True, return_inverse=True)
            source = rows[first][np.random.default_rng([seed, int(fold)]).permutation(len(clips))][place]
            label[rows], target[rows] = self.label[source], self.target[source]
        return replace(self, label=label, target=target)

    def with_learners(self, places: NDArray[np.int64]) -> Adoptions:
        """The same rows with ``learner`` looked up in ``places``: for a round in which only some learners voted."""
        return replace(self, learner=places[self.learner])

    def num_clips_by_fold(self, num_folds: int) -> list[int]:
        """How many different clips each fold adopted."""
        return [len(np.unique(self.clip[self.fold == fold])) for fold in range(num_folds)]

    @classmethod
    def soft(
        cls, fold: int, clip: NDArray[np.int64], said_nC: NDArray[np.floating], weight: float, learner: int
    ) -> Adoptions:
        """Clips that a learner is taught in a fold by what another says of them, by the votes of round 0.

        Args:
            fold: whose models.
            clip: int64 (n,).
            said_nC: probabilities; clips of NaN rows are left out.
            weight: what each counts.
            learner: who learns.
        """
        known = ~np.isnan(said_nC).any(axis=1)
        clip, target = clip[known], said_nC[known].astype(np.float32)
        label, ones = target.argmax(axis=1).astype(np.int64), np.ones(len(clip), dtype=np.int64)
        sure = target.max(axis=1, initial=0.0).astype(np.float64)
        return cls(
            fold * ones, clip, label, ones, sure, target, weight * ones.astype(np.float32), learner * ones, 0 * ones
        )

    @classmethod
    def none(cls, num_classes: int) -> Adoptions:
        """No rows."""
        empty, real = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
        target = np.empty((0, num_classes), dtype=np.float32)
        return cls(empty, empty, empty, empty, real, target, real.astype(np.float32), empty, empty)


def adopt(
    strategy: Strategy,
    votes_KFNC: NDArray[np.floating],
    pool_FN: NDArray[np.bool_],
    earlier: Adoptions,
    contexts: Sequence[Context],
    *,
    seed: int,
) -> Adoptions:
    """Let the learners of each fold choose from that fold's pool, and divide the choice among the learners.

    Args:
        strategy: what qualifies, and by its ``split`` how that is divided, see ``divide``.
        votes_KFNC: probabilities by the model of each learner and fold, for all clips.
        pool_FN: bool, clips that each fold may adopt.
        earlier: adoptions that stand; a clip adopted in a fold has left the pool of that fold only.
        contexts: what the strategy is told, one per fold.
        seed: of the division.

    Returns:
        This round's adoptions, by fold, clip and learner.
    """
    num_learners, num_folds, _, num_classes = votes_KFNC.shape
    adoptions = Adoptions.none(num_classes)
    for fold, context in zip(range(num_folds), contexts, strict=True):
        free = pool_FN[fold].copy()
        free[earlier.clip[earlier.fold == fold]] = False
        rows = np.flatnonzero(free)
        if not len(rows):
            continue
        chosen = strategy.select(votes_KFNC[:, fold, rows], context)
        place, learner, times = divide(
            strategy.config.split, chosen.label, num_learners, [seed, context.round_number, fold]
        )
        taken = _take(chosen, place)
        adoptions = adoptions.join(
            Adoptions(
                fold=np.full(len(place), fold, dtype=np.int64),
                clip=rows[taken.clip],
                label=taken.label,
                agreement=taken.agreement,
                confidence=taken.confidence,
                target=taken.target,
                weight=taken.weight * times.astype(np.float32),
                learner=learner,
                round=np.full(len(place), context.round_number, dtype=np.int64),
            )
        )
    return adoptions


def divide(
    how: How, labels: NDArray[np.int64], num_learners: int, seed: Seed
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Who trains on which of n clips, and how often: place of the clip, learner, times drawn; by place, then learner.

    - ``even``: at random, subsets of sizes that differ by at most one (P1).
    - ``stratified``: so too, and of each class.
    - ``bootstrap``: each learner draws n clips with replacement; a clip drawn twice counts twice.
    - ``all``: every learner trains on every clip.

    >>> _, learner, _ = divide("even", np.zeros(10, dtype=np.int64), 4, seed=0)
    >>> np.bincount(learner).tolist()
    [3, 3, 2, 2]
    """
    rng, num_clips = np.random.default_rng(seed), len(labels)
    if how in {"even", "stratified"}:
        turn = np.arange(num_clips) % num_learners
        learner = np.empty(num_clips, dtype=np.int64)
        if how == "even":
            learner = rng.permutation(turn)
        else:
            learner[np.lexsort((rng.random(num_clips), labels))] = rng.permutation(num_learners)[turn]
        return np.arange(num_clips), learner, np.ones(num_clips, dtype=np.int64)
    times_nK = np.ones((num_clips, num_learners), dtype=np.int64)
    if how == "bootstrap":
        draws = rng.integers(max(num_clips, 1), size=(num_learners, num_clips))
        times_nK = np.stack([np.bincount(draw, minlength=num_clips) for draw in draws], axis=1)
    place, learner = np.nonzero(times_nK)
    return place, learner, times_nK[place, learner]


def first_adopted(trained_on: Iterable[Adoptions], num_clips: int) -> NDArray[np.int64]:
    """The round whose votes first adopted each clip, in whatever fold, int64 (N,); -1 where none did.

    Args:
        trained_on: what each round was trained on; of rounds that choose anew, a clip may come in several.
        num_clips: N.
    """
    never = np.iinfo(np.int64).max
    first = np.full(num_clips, never, dtype=np.int64)
    for adoptions in trained_on:
        np.minimum.at(first, adoptions.clip, adoptions.round)
    return np.where(first == never, -1, first)


def _take(chosen: Selection, place: NDArray[np.int64]) -> Selection:
    return Selection(*(getattr(chosen, field.name)[place] for field in fields(chosen)))

"""Fit the folds of one learner, in memory.

The held-out fold is not looked at, not even to stop early: out-of-fold scores stay honest, and a held-out label cannot
come back through the clips that a fold's models adopt. Early stopping watches an inner split of the fold's own training
part, and only where that split is large enough to rank epochs: of 15 clips one is 7 points of WAF, and choosing by
them cost about 7 points against running the whole schedule.

Shapes: n training clips, N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mer_ray.config import FitConfig
from mer_ray.data.features import FeatureSet
from mer_ray.errors import LearnerError
from mer_ray.fusion import base
from mer_ray.learners import training
from mer_ray.learners.batches import Part
from mer_ray.learners.model import FoldModel


@dataclass(frozen=True)
class TrainingRows:
    """What one fold trains on: rows of the clips with true labels, and of the pseudo-labelled ones.

    Attributes:
        clip, label: int64 (n,), row in the ``FeatureSet`` and class.
        pseudo_clip: int64 (p,), the same of the adopted clips; empty in round 0.
        pseudo_target: float32 (p, C), what they are taken for: rows sum to 1, one-hot of a hard pseudo-label.
        pseudo_weight: float32 (p,), what they count beside a true label's 1.
        pool: int64, rows of clips that teach by their features alone; empty for a learner that reads no such.
    """

    clip: NDArray[np.int64]
    label: NDArray[np.int64]
    pseudo_clip: NDArray[np.int64]
    pseudo_target: NDArray[np.float32]
    pseudo_weight: NDArray[np.float32]
    pool: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def taught(self, clip: NDArray[np.int64], said: NDArray[np.float32], weight: float) -> TrainingRows:
        """With more clips, taken for what another learner says of them.

        Args:
            clip: int64 (p,), none of those that are there.
            said: float32 (p, C), its probabilities, NaN where it abstains: such clips are left out.
            weight: what each counts.
        """
        known = ~np.isnan(said).any(axis=1)
        return replace(
            self,
            pseudo_clip=np.concatenate([self.pseudo_clip, clip[known]]),
            pseudo_target=np.concatenate([self.pseudo_target, said[known]]),
            pseudo_weight=np.concatenate([self.pseudo_weight, np.full(known.sum(), weight, np.float32)]),
        )


def fit_fold(
    features: FeatureSet, rows: TrainingRows, fusion: str, model_config: base.Config, fit: FitConfig, seed: int
) -> FoldModel:
    """Fit one fold alone; see ``fit_folds``."""
    return fit_folds(features, [rows], fusion, model_config, fit, [seed])[0]


def fit_folds(
    features: FeatureSet,
    folds: Sequence[TrainingRows],
    fusion: str,
    model_config: base.Config,
    fit: FitConfig,
    seeds: Sequence[int],
    valence: NDArray[np.float32] | None = None,
    num_steps: int | None = None,
) -> list[FoldModel]:
    """Fit the models of several folds together. Same input and seeds: same bits, whatever else the process did before.

    Args:
        features: the learner's features of all clips.
        folds: what each is to train on; clips that have none of the learner's features are left out.
        fusion: name of the fusion model.
        model_config: its config.
        fit: epochs, patience, batch size, learning rate, weight decay.
        seeds: of each fold's initialisation and batches; dropout is drawn by the first.
        valence: float32 (N,) of each clip, NaN where unknown; read where ``fit.valence`` is above 0.
        num_steps: that many of each instead of ``fit.epochs``.

    Returns:
        One model per fold, in evaluation mode, on the CPU.

    Raises:
        LearnerError: no training clip of a fold has any of the learner's features, or the loss is not finite.
    """
    seen = np.asarray(features.present.any(axis=1))
    known = np.full(len(seen), np.nan, np.float32) if valence is None or not fit.valence else valence
    models, parts, inners = [], [], []
    for rows, seed in zip(folds, seeds, strict=True):
        if not seen[rows.clip].any():
            names = ", ".join(feature.name for feature in features.features)
            raise LearnerError(f"no labelled clip of a fold has any of the features {names}; give the learner others")
        part, num_true = _part(rows, seen, known, model_config.num_classes)
        with reproducible(seed):
            model = FoldModel(fusion, model_config, valence=fit.valence > 0)
        model.learn_scales(features, part.clip)
        part = part.with_valence(model.learn_valence(part.valence))
        inner = inner_split(part.target[:num_true].argmax(axis=1), fit.inner_share, fit.inner_least, seed)
        models.append(model)
        parts.append(part.take(np.setdiff1d(np.arange(len(part)), inner)))
        inners.append(part.take(inner))
    with reproducible(seeds[0]):
        training.train(models, parts, inners, features, fit, seeds, num_steps)
    return [model.eval() for model in models]


def inner_split(labels: NDArray[np.int64], share: float, least: int, seed: int) -> NDArray[np.int64]:
    """Rows, ascending, set aside of a fold's own training part for early stopping: ``share`` of each class, rounded.

    A class keeps at least one clip to train on. Empty when they would be fewer than ``least``.

    >>> inner_split(np.array([0] * 10 + [1] * 5), 0.2, least=3, seed=0).size
    3
    """
    rng = np.random.default_rng(seed)
    parts = []
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        parts.append(members[: min(round(share * len(members)), len(members) - 1)])
    inner = np.sort(np.concatenate(parts))
    return inner if len(inner) >= least else inner[:0]


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """One thread and a fresh random state inside; the process's own afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _part(
    rows: TrainingRows, seen: NDArray[np.bool_], valence: NDArray[np.float32], num_classes: int
) -> tuple[Part, int]:
    """The clips of a fold that have a feature, those of true labels first, and how many these are."""
    true, pseudo = seen[rows.clip], seen[rows.pseudo_clip]
    clip, label = rows.clip[true], rows.label[true]
    target = np.concatenate([np.eye(num_classes, dtype=np.float32)[label], rows.pseudo_target[pseudo]])
    weight = np.concatenate([np.ones(len(clip), np.float32), rows.pseudo_weight[pseudo]])
    clips = np.concatenate([clip, rows.pseudo_clip[pseudo]])
    return Part(clips, target, weight, valence[clips]), len(clip)

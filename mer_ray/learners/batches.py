"""What the folds of a learner train on, and the batches drawn from it.

Features are read where they lie, in their own type: a batch gathers its rows, and each fold's standardisation is
applied to them. So the folds share one copy, whatever they adopted, and it may be memory-mapped.

Shapes: N clips, G folds, M features, D width, C classes, T steps of an epoch, B clips of a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mer_ray.config import FitConfig
from mer_ray.data.features import FeatureSet
from mer_ray.learners.loss import Batch
from mer_ray.learners.model import CLIP, FoldModel


@dataclass(frozen=True)
class Part:
    """Some clips of one fold with what they are to be taken for.

    Attributes:
        clip: int64 (n,), row in the ``FeatureSet``.
        target: float32 (n, C), rows sum to 1.
        weight: float32 (n,).
        valence: float32 (n,), standardised; NaN where unknown.
    """

    clip: NDArray[np.int64]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]
    valence: NDArray[np.float32]

    def take(self, places: NDArray[np.int64]) -> Part:
        """The clips at ``places``."""
        return Part(self.clip[places], self.target[places], self.weight[places], self.valence[places])

    def with_valence(self, valence: NDArray[np.float32]) -> Part:
        """The same with other valences."""
        return replace(self, valence=valence)

    def __len__(self) -> int:
        return len(self.clip)


class Table:
    """Features of all clips, shared with the ``FeatureSet`` on a CPU and copied once to a GPU.

    Args:
        features: the learner's own.
        models: one per fold, whose standardisation is applied.
        device: where the batches are made.
    """

    def __init__(self, features: FeatureSet, models: Sequence[FoldModel], device: torch.device) -> None:
        self.device = device
        self.values = [shared(feature.values).to(device) for feature in features.features]
        self.present = torch.from_numpy(features.present).to(device)
        scales = [[model.scale_of(m) for model in models] for m in range(len(self.values))]
        self.mean = [torch.stack([s.mean for s in folds]).unsqueeze(1).to(device) for folds in scales]
        self.scale = [torch.stack([s.scale for s in folds]).unsqueeze(1).to(device) for folds in scales]

    def take(self, clip_GB: Tensor, folds: Tensor) -> tuple[list[Tensor], Tensor]:
        """Standardised features, M tensors float32 (G, B, D), and presence, bool (G, B, M).

        Args:
            clip_GB: int64, rows.
            folds: int64 (G,), whose standardisation each row of ``clip_GB`` takes.
        """
        flat = clip_GB.flatten()
        features = []
        for x, mean, scale in zip(self.values, self.mean, self.scale, strict=True):
            taken = x.index_select(0, flat).float().view(*clip_GB.shape, -1)
            features.append(taken.sub_(mean[folds]).mul_(scale[folds]).clamp_(-CLIP, CLIP))
        return features, self.present[clip_GB]


class Batches:
    """Random batches of every fold, all folds in step.

    An epoch has as many steps as the largest fold needs, so long as all epochs together keep to ``fit.most_steps``:
    else it takes of each fold what those steps hold, drawn anew. Smaller folds take smaller batches, padded with clips
    that count nothing.

    Args:
        parts: what each fold trains on, at least one clip each.
        table: the features.
        fit: batch size, epochs and their most steps.
        seeds: of each fold.
    """

    def __init__(self, parts: Sequence[Part], table: Table, fit: FitConfig, seeds: Sequence[int]) -> None:
        self.parts = parts
        self.table = table
        needed = max(-(-len(part) // fit.batch_size) for part in parts)
        self.steps = min(needed, max(1, fit.most_steps // fit.epochs))
        self.most_clips = self.steps * fit.batch_size
        self.rngs = [np.random.default_rng([seed, 1]) for seed in seeds]
        self.clip_Gn = padded([part.clip for part in parts], table.device)
        self.target_GnC = padded([part.target for part in parts], table.device)
        self.weight_Gn = padded([part.weight for part in parts], table.device)
        self.valence_Gn = padded([part.valence for part in parts], table.device)

    def epoch(self, folds: Tensor) -> Iterator[Batch]:
        """Each clip of the given folds once, or as many as an epoch takes, in random order.

        Args:
            folds: int64 (G,), ascending.
        """
        drawn = [self._order(int(fold)) for fold in folds]
        width = max(place.shape[1] for place, _ in drawn)
        device = self.table.device
        place_TGB = torch.from_numpy(np.stack([_wide(place, width) for place, _ in drawn], axis=1)).to(device)
        real_TGB = torch.from_numpy(np.stack([_wide(real, width, 0) for _, real in drawn], axis=1)).to(device)
        rows = folds.to(device)
        for place_GB, real_GB in zip(place_TGB, real_TGB, strict=True):
            at = (rows.unsqueeze(1), place_GB)
            features, present = self.table.take(self.clip_Gn[at], rows)
            yield Batch(features, present, self.target_GnC[at], self.weight_Gn[at], self.valence_Gn[at], real_GB)

    def _order(self, fold: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Places, and whether they are real: two (T, B) of one fold's epoch."""
        rng, count = self.rngs[fold], min(len(self.parts[fold]), self.most_clips)
        order, (least, more) = rng.permutation(len(self.parts[fold]))[:count], divmod(count, self.steps)
        width = least + bool(more)
        sizes = np.where(np.arange(self.steps) < more, least + 1, least)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        column = np.arange(width)
        place = order[(starts[:, None] + np.minimum(column, sizes[:, None] - 1)) % count]
        return place, column < sizes[:, None]


def shared(values: NDArray[np.floating]) -> Tensor:
    """A tensor over the same memory, only ever read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)


def padded(arrays: Sequence[NDArray[np.generic]], device: torch.device) -> Tensor:
    """Arrays (n, ...) of any length n > 0, repeated to the longest and stacked, (G, n, ...)."""
    most = max(len(array) for array in arrays)
    return torch.from_numpy(np.stack([array[np.arange(most) % len(array)] for array in arrays])).to(device)


def _wide(array: NDArray[np.generic], width: int, fill: int | None = None) -> NDArray[np.generic]:
    """(T, B) to (T, width): with the last column repeated, so that it stays the first one's neighbour, or filled."""
    if fill is None:
        return array[:, np.minimum(np.arange(width), array.shape[1] - 1)]
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)

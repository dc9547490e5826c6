"""What a classifier is: a class's score is a sum of parts, one per feature that a clip has, and a constant.

For each pattern of presence there is a linear map of its own, so that an absent feature is left out exactly: no value
of it is read, and nothing stands in for it.

Shapes: F folds, N clips, B clips of a block, M features, P features of a pattern, D width of them, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from sklearn.random_projection import GaussianRandomProjection
from torch import Tensor

from mer_ray.data.features import Feature, FeatureSet
from mer_ray.data.moments import Moments

CLIP = 10.0
"""Standardised values are held to this many standard deviations: one wild clip must not steer a small fit."""

_BLOCK = 1024
"""Clips at a time: of 7,000 columns a block takes a seventh of the memory of a square matrix."""

Pattern = tuple[int, ...]
"""The places of the features that a clip has, ascending."""
Map = tuple[Tensor, Tensor]
"""Scores of one pattern, of each fold: weights float32 (F, D, C) and constants (F, C), -inf of a class never seen."""


class Config(BaseModel):
    """Base of every classifier's ``Config``; the learner fills the first three from the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dims: tuple[int, ...]
    num_classes: int
    num_folds: int
    max_width: int = Field(8192, ge=1, description="wider features are projected at random to this width together")


@dataclass(frozen=True)
class Rows:
    """What one fold learns from.

    Attributes:
        clip: int64 (n,), rows in the ``FeatureSet``, each once; one or more, and each has a feature.
        target: float32 (n, C), rows sum to 1.
        weight: float32 (n,), what each counts, above 0.
        pool: int64 (p,), clips without a label that may teach by their features; none of ``clip``.
    """

    clip: NDArray[np.int64]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]
    pool: NDArray[np.int64]

    def among(self, seen_N: NDArray[np.bool_]) -> Rows:
        """Those of the clips that are marked."""
        kept = seen_N[self.clip]
        return Rows(self.clip[kept], self.target[kept], self.weight[kept], self.pool[seen_N[self.pool]])


@dataclass(frozen=True)
class Inputs:
    """How one feature enters, alike in all folds: standardised, and projected where it is too wide.

    Attributes:
        shift, scale: float32 (d,), of the training clips of all folds; a constant column is silenced.
        projection: float32 (d, D); None where the feature goes in as it is.
    """

    shift: Tensor
    scale: Tensor
    projection: Tensor | None

    @property
    def width(self) -> int:
        """D, what comes out."""
        return len(self.shift) if self.projection is None else self.projection.shape[1]

    @classmethod
    def learn(cls, feature: Feature, rows: NDArray[np.int64], width: int, seed: int) -> Inputs:
        """Measure the clips among ``rows`` that have the feature; a wider one than ``width`` is projected to it.

        The projection is Gaussian (``sklearn.random_projection``), which keeps distances nearly.
        """
        own, dim = rows[feature.present[rows]], feature.values.shape[1]
        learnt = Moments.of(feature.values, own)
        projection = None
        if dim > width:
            found = GaussianRandomProjection(width, random_state=seed).fit(np.zeros((1, dim))).components_.T
            projection = torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32)).to(device())
        return cls(_float32(learnt.mean), _float32(learnt.scale), projection)

    def take(self, feature: Feature, rows: NDArray[np.int64]) -> Tensor:
        """The feature of clips that all have it, float32 (B, D)."""
        x_Bd = torch.from_numpy(feature.values[rows]).to(self.shift.device).float()
        x_Bd = x_Bd.sub_(self.shift).mul_(self.scale).clamp_(-CLIP, CLIP)
        return x_Bd if self.projection is None else x_Bd @ self.projection


class Classifier(ABC):
    """Base of every classifier: the models of all folds of one learner, fitted together.

    The class that a file of the kind defines is built from its ``Config``, then fitted or restored.

    Attributes:
        reads_pool: whether clips without a label teach it.
        inputs: by feature; empty before it is fitted or restored.
    """

    reads_pool: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        self.config = config
        self.inputs: list[Inputs] = []

    @abstractmethod
    def fit(self, features: FeatureSet, folds: Sequence[Rows], seed: int) -> None:
        """Fit all folds. Same input and seed: same bits.

        Args:
            features: as wide as ``config.dims``; values of an absent one are never read and may be NaN.
            folds: what each learns from.
            seed: of what is drawn at random.
        """

    @classmethod
    def fit_together(
        cls,
        models: Sequence[Classifier],
        places: Sequence[Pattern],
        features: FeatureSet,
        folds: Sequence[Rows],
        seeds: Sequence[int],
    ) -> None:
        """Fit several that learn from the same clips, each by some of the features.

        Here one after the other; a kind that can share the work between them does.

        Args:
            models: of one config but for the features.
            places: of the features that each reads.
            features: all that are read.
            folds: as in ``fit``, clips without any feature among them.
            seeds: of each.
        """
        for model, own, seed in zip(models, places, seeds, strict=True):
            read = FeatureSet(features.clip_ids, tuple(features.features[m] for m in own))
            seen_N = np.asarray(read.present.any(axis=1))
            model.fit(read, [fold.among(seen_N) for fold in folds], seed)

    @abstractmethod
    def scores(self, pattern: Pattern) -> Map:
        """The map of the clips that have just the features of a pattern, of which there is one or more."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What it has learnt beside ``inputs``, by name."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take what ``state`` gave.

        Raises:
            KeyError, ValueError: it is not whole.
        """

    def predict(self, features: FeatureSet) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probabilities float32 (F, N, C) and weights (F, N, M); NaN rows of clips that have no feature.

        The weight of a feature is its share of what moves the classes apart: the spread over the classes of its part of
        the scores, measured from the training clips' mean. 0 where it is absent; rows sum to 1.
        """
        shape = (self.config.num_folds, len(features.clip_ids))
        probabilities_FNC = np.full((*shape, self.config.num_classes), np.nan, dtype=np.float32)
        weights_FNM = np.full((*shape, len(features.features)), np.nan, dtype=np.float32)
        for block, pattern, parts_PFBC, constant_FC in self._parts(features, np.arange(shape[1])):
            logits_FBC = parts_PFBC.sum(dim=0) + constant_FC.unsqueeze(1)
            probabilities_FNC[:, block] = logits_FBC.softmax(dim=2).cpu().numpy()
            amounts_FBP = _centred(parts_PFBC, constant_FC).square().sum(dim=3).sqrt().permute(1, 2, 0) + 1e-6
            shares_FBM = np.zeros((shape[0], len(block), weights_FNM.shape[2]), dtype=np.float32)
            shares_FBM[:, :, list(pattern)] = (amounts_FBP / amounts_FBP.sum(dim=2, keepdim=True)).cpu().numpy()
            weights_FNM[:, block] = shares_FBM
        return probabilities_FNC, weights_FNM

    def embed(self, features: FeatureSet, rows: NDArray[np.int64]) -> Tensor:
        """Clips in the space in which they are told apart, float32 (B, M x C + 1), by the first fold.

        Its coordinates are each feature's part of the scores, less the mean over the classes, and a 1: of two classes
        there is but one direction, and without it all clips of a side would lie alike by the cosine.
        """
        num_features, num_classes = len(features.features), self.config.num_classes
        found = torch.zeros(len(features.clip_ids), num_features, num_classes)
        for block, pattern, parts_PFBC, constant_FC in self._parts(features, rows):
            parts_PBC = _centred(parts_PFBC, constant_FC)[:, 0].cpu()
            found[torch.from_numpy(block).unsqueeze(1), torch.tensor(pattern)] = parts_PBC.transpose(0, 1)
        flat = found[torch.from_numpy(rows)].flatten(1)
        return torch.cat([flat, torch.ones(len(flat), 1)], dim=1)

    def to_tensors(self) -> dict[str, Tensor]:
        """All that it has learnt, on the CPU."""
        tensors = {f"state.{name}": tensor for name, tensor in self.state().items()}
        for m, one in enumerate(self.inputs):
            tensors |= {f"inputs.{m}.shift": one.shift, f"inputs.{m}.scale": one.scale}
            tensors |= {} if one.projection is None else {f"inputs.{m}.projection": one.projection}
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    def from_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what ``to_tensors`` gave; predicts the same.

        Raises:
            KeyError, ValueError: it is not whole, or of another config.
        """
        tensors = {name: tensor.to(device()) for name, tensor in tensors.items()}
        places = [f"inputs.{m}." for m in range(len(self.config.dims))]
        self.inputs = [
            Inputs(tensors[f"{at}shift"], tensors[f"{at}scale"], tensors.get(f"{at}projection")) for at in places
        ]
        if tuple(len(one.shift) for one in self.inputs) != self.config.dims:
            raise ValueError("the widths are not those of its tensors")
        prefix = "state."
        self.restore({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})

    def _parts(
        self, features: FeatureSet, rows: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Pattern, Tensor, Tensor]]:
        """By block of one pattern: rows (B,), the pattern, parts of the scores (P, F, B, C), constants (F, C)."""
        for pattern, own in by_pattern(features.present, rows):
            weight_FDC, constant_FC = self.scores(pattern)
            widths = [self.inputs[m].width for m in pattern]
            for block in blocks(own):
                pairs = zip(pattern, torch.split(weight_FDC, widths, dim=1), strict=True)
                parts = [self.inputs[m].take(features.features[m], block) @ weight for m, weight in pairs]
                yield block, pattern, torch.stack(parts), constant_FC


def device() -> torch.device:
    """Where classifiers work: a GPU where this process sees one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learn_inputs(features: FeatureSet, rows: NDArray[np.int64], max_width: int, seed: int) -> list[Inputs]:
    """How each feature enters; where all are wider than ``max_width`` together, each gives up the same share."""
    dims = [feature.values.shape[1] for feature in features.features]
    share = min(1.0, max_width / sum(dims))
    pairs = zip(features.features, dims, strict=True)
    return [Inputs.learn(one, rows, max(1, int(dim * share)), seed) for one, dim in pairs]


def by_pattern(present_NM: NDArray[np.bool_], rows: NDArray[np.int64]) -> Iterator[tuple[Pattern, NDArray[np.int64]]]:
    """The rows of each pattern of presence, ascending; rows without any feature are left out."""
    patterns, place = np.unique(present_NM[rows], axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if pattern.any():
            yield tuple(np.flatnonzero(pattern).tolist()), rows[place.ravel() == number]


def blocks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows in pieces of a size that fits the memory."""
    return [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]


def counts(folds: Sequence[Rows], num_classes: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The training clips of all folds (N,), and what each counts for each class in each fold, (F, N, C)."""
    rows = union(fold.clip for fold in folds)
    counts_FNC = np.zeros((len(folds), len(rows), num_classes), dtype=np.float32)
    for count_NC, fold in zip(counts_FNC, folds, strict=True):
        count_NC[np.searchsorted(rows, fold.clip)] = fold.target * fold.weight[:, None]
    return rows, counts_FNC


def union(rows: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Each row of any of the arrays once, ascending."""
    return np.unique(np.concatenate(list(rows)))


def _centred(parts_PFBC: Tensor, constant_FC: Tensor) -> Tensor:
    """Parts less their mean over the classes that a fold has seen; 0 of a class that it has not."""
    seen_FC = torch.isfinite(constant_FC).float().unsqueeze(1)
    mean_PFB1 = (parts_PFBC * seen_FC).sum(dim=3, keepdim=True) / seen_FC.sum(dim=2, keepdim=True)
    return (parts_PFBC - mean_PFB1) * seen_FC


def _float32(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device())

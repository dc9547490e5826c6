"""The model of one fold: standardisation learnt from its training clips, then a fusion model.

Shapes: B clips, M features, D width, C classes.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mer_ray import registry
from mer_ray.data.features import FeatureSet
from mer_ray.data.moments import Moments
from mer_ray.fusion import base

CLIP = 10.0
"""Standardised values are held to this many standard deviations: one wild clip must not steer a small fit."""


class Standardise(nn.Module):
    """Shift and scale one feature by the mean and standard deviation of the training clips that have it.

    A column that is constant in training is silenced: nothing was learnt from it.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def learn(self, values: NDArray[np.floating], rows: NDArray[np.int64] | None = None) -> None:
        """Learn from (n, D) values of any float type, or from some of their rows; of none nothing changes."""
        rows = np.arange(len(values)) if rows is None else rows
        if len(rows):
            learnt = Moments.of(values, rows)
            self.mean.copy_(torch.from_numpy(learnt.mean))
            self.scale.copy_(torch.from_numpy(learnt.scale))

    def forward(self, values: Tensor) -> Tensor:
        """Float32 (B, D) to float32 (B, D) within ``±CLIP``."""
        return ((values - self.mean) * self.scale).clamp(-CLIP, CLIP)


class FoldModel(nn.Module):
    """Raw features in, class probabilities and weights out.

    With a valence head the fusion model has one more output behind the classes, whichever fusion it is.

    Shapes of ``forward``: as ``fusion.base.Model``, with raw features; returns logits (B, C) and weights (B, M).

    Attributes:
        valence: float32 (2,), mean and deviation of the training clips' valence; None without such a head.
    """

    valence: Tensor | None

    def __init__(self, fusion: str, config: base.Config, *, valence: bool = False) -> None:
        super().__init__()
        self.num_classes = config.num_classes
        self.standardise = nn.ModuleList(Standardise(dim) for dim in config.dims)
        outputs = config.model_copy(update={"num_classes": config.num_classes + valence})
        self.fusion: base.Model = registry.build("fusion", fusion, outputs)
        self.register_buffer("valence", torch.tensor([0.0, 1.0]) if valence else None)

    def learn_scales(self, features: FeatureSet, clip: NDArray[np.int64] | None = None) -> None:
        """Set the standardisation from the training clips of a fold: the rows ``clip``, or all."""
        for m, feature in enumerate(features.features):
            rows = np.arange(len(feature.present)) if clip is None else clip
            self.scale_of(m).learn(feature.values, rows[feature.present[rows]])

    def learn_valence(self, valence: NDArray[np.float32]) -> NDArray[np.float32]:
        """Learn the unit of valence from (n,) values, NaN where unknown; the values in that unit."""
        known = valence[~np.isnan(valence)].astype(np.float64)
        if self.valence is not None and len(known):
            spread = float(known.std())
            self.valence.copy_(torch.tensor([known.mean(), spread if spread > 0 else 1.0]))
            scaled: NDArray[np.float32] = ((valence - known.mean()) / float(self.valence[1])).astype(np.float32)
            return scaled
        return valence

    def scale_of(self, feature: int) -> Standardise:
        """The standardisation of one feature."""
        return cast(Standardise, self.standardise[feature])

    def prepare(self, features: list[Tensor]) -> list[Tensor]:
        """Standardised features."""
        return [standardise(x) for standardise, x in zip(self.standardise, features, strict=True)]

    def forward(self, features: list[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """See the class for shapes."""
        outputs, weights = self.fusion(self.prepare(features), present)
        return self.classes(outputs), weights

    def classes(self, outputs: Tensor) -> Tensor:
        """The logits (B, C) among the fusion model's outputs."""
        return outputs[..., : self.num_classes]

    def valences(self, outputs: Tensor) -> Tensor | None:
        """Valence (B,) in the unit it was given in, from the fusion model's outputs; None without such a head."""
        if self.valence is None:
            return None
        return outputs[..., -1] * self.valence[1] + self.valence[0]


def tensors(features: FeatureSet) -> tuple[list[Tensor], Tensor]:
    """Features as float32 tensors (B, D) of their own memory, and presence as bool (B, M)."""
    values = [torch.tensor(feature.values, dtype=torch.float32) for feature in features.features]
    return values, torch.from_numpy(features.present)

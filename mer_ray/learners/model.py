"""The model of one fold: standardisation learnt from its training clips, then a fusion model.

Shapes: B clips, M features, D width, C classes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mer_ray import registry
from mer_ray.data.features import FeatureSet
from mer_ray.fusion import base

_CLIP = 10.0
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

    def learn(self, values: NDArray[np.floating]) -> None:
        """Learn from (n, D) values of any float type; with n = 0 nothing changes."""
        if not len(values):
            return
        mean = values.mean(axis=0, dtype=np.float64)
        spread = np.sqrt(np.mean((values.astype(np.float64) - mean) ** 2, axis=0))
        steady = spread <= 1e-6 * np.abs(mean) + 1e-12
        scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=~steady)
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(scale))

    def forward(self, values: Tensor) -> Tensor:
        """Float32 (B, D) to float32 (B, D) within ``±_CLIP``."""
        return ((values - self.mean) * self.scale).clamp(-_CLIP, _CLIP)


class FoldModel(nn.Module):
    """Raw features in, class probabilities and weights out.

    Shapes of ``forward``: as ``fusion.base.Model``, with raw features; returns logits (B, C) and weights (B, M).
    """

    def __init__(self, fusion: str, config: base.Config) -> None:
        super().__init__()
        self.standardise = nn.ModuleList(Standardise(dim) for dim in config.dims)
        self.fusion: base.Model = registry.build("fusion", fusion, config)

    def learn_scales(self, features: FeatureSet) -> None:
        """Set the standardisation from the training clips of a fold."""
        for standardise, feature in zip(self.standardise, features.features, strict=True):
            assert isinstance(standardise, Standardise)
            standardise.learn(feature.values[feature.present])

    def prepare(self, features: list[Tensor]) -> list[Tensor]:
        """Standardised features."""
        return [standardise(x) for standardise, x in zip(self.standardise, features, strict=True)]

    def forward(self, features: list[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """See the class for shapes."""
        logits, weights = self.fusion(self.prepare(features), present)
        return logits, weights


def tensors(features: FeatureSet) -> tuple[list[Tensor], Tensor]:
    """Features as float32 tensors (B, D) of their own memory, and presence as bool (B, M)."""
    values = [torch.tensor(feature.values, dtype=torch.float32) for feature in features.features]
    return values, torch.from_numpy(features.present)

"""Gated multimodal unit (Arevalo et al. 2017): attention that weighs every number of a feature by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mer_ray.fusion import base


class Config(base.Config):
    """See ``base.Config``."""


class Model(base.Model):
    """Mix the features, number by number, by gates that see all of them, then classify (section 3.1).

    The gates of a number are a softmax over the features present; of two features that is the paper's sigmoid z and
    1 - z. A feature's weight is the mean of its gates.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        num_features, width = len(config.dims), config.hidden
        self.embed = base.Embedding(config)
        self.value = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in config.dims)
        self.gate = nn.Linear(num_features * width, num_features * width)
        self.classify = nn.Linear(width, config.num_classes)

    def forward(self, features: list[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """See ``base.Model`` for shapes."""
        self.check(features, present)
        present = self.drop(present)
        h_BMD = self.embed(features, present)
        values_BMD = torch.stack([value(h) for value, h in zip(self.value, h_BMD.unbind(dim=1), strict=True)], dim=1)
        scores_BMD = self.gate(h_BMD.flatten(start_dim=1)).reshape(h_BMD.shape)
        gates_BMD = scores_BMD.masked_fill(~present.unsqueeze(-1), -float("inf")).softmax(dim=1)
        return self.classify((gates_BMD * values_BMD).sum(dim=1)), gates_BMD.mean(dim=2)

"""Softmax attention over the modalities of a clip (P2 section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mer_ray.fusion import base


class Config(base.Config):
    """See ``base.Config``; P2 takes ``hidden`` 256."""


class Model(base.Model):
    """Score each feature by one vector that all share, then classify their weighted sum (P2 equations 8 and 9).

    Unlike ``attention``, a feature's score is read from that feature alone; the others decide only through the softmax.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.embed = base.Projection(config)
        self.score = nn.Linear(config.hidden, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(len(config.dims)))  # one for all would cancel in the softmax
        self.classify = nn.Linear(config.hidden, config.num_classes)

    def forward(self, features: list[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """See ``base.Model`` for shapes."""
        self.check(features, present)
        present = self.drop(present)
        h_BMD = self.embed(features, present)
        scores_BM = (self.score(h_BMD).squeeze(-1) + self.bias).masked_fill(~present, -float("inf"))
        weights_BM = scores_BM.softmax(dim=1)
        return self.classify((weights_BM.unsqueeze(-1) * h_BMD).sum(dim=1)), weights_BM

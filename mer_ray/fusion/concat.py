"""Concatenation of the features of a clip (P3 section 3.4, P4's simple fusion)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mer_ray.fusion import base


class Config(base.Config):
    """See ``base.Config``."""


class Model(base.Model):
    """Concatenate the features at a common width, then classify by a perceptron.

    A feature's weight is the norm of what it adds to the perceptron's first layer, as a share of all features present.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.embed = base.Embedding(config)
        self.mix = nn.Linear(len(config.dims) * config.hidden, config.hidden)
        self.classify = nn.Sequential(
            nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.hidden, config.num_classes)
        )

    def forward(self, features: list[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """See ``base.Model`` for shapes."""
        self.check(features, present)
        present = self.drop(present)
        h_BMD = self.embed(features, present)
        logits = self.classify(self.mix(h_BMD.flatten(start_dim=1)))
        return logits, self._shares(h_BMD.detach(), present)

    @torch.no_grad()
    def _shares(self, h_BMD: Tensor, present: Tensor) -> Tensor:
        weight_OMD = self.mix.weight.reshape(-1, *h_BMD.shape[1:])
        return base.shares(torch.einsum("bmd,omd->bmo", h_BMD, weight_OMD).norm(dim=-1), present)

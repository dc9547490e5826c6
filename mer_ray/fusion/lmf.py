"""Low-rank fusion (Liu et al. 2018): what ``tfn`` computes, of any number of features, its product never made.

Shapes: B clips, M features, R rank, D width.
"""

from __future__ import annotations

from functools import reduce

import torch
from pydantic import Field
from torch import Tensor, nn

from mer_ray.fusion import base


class Config(base.Config):
    """How much of the product's weight is kept."""

    rank: int = Field(4, ge=1, description="terms that the weight of the outer product is made of")


class Model(base.Model):
    """Sum, over the terms, the products of one map of [1; h] per feature; then classify by a perceptron (section 3.2).

    An absent feature is [1; 0], so that its factor is what was learnt for the 1. A feature's weight is the norm of what
    the products with its h add to the perceptron's first layer, as a share of all features present.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.embed = base.Projection(config)
        width = config.rank * config.hidden
        self.factors = nn.ModuleList(nn.Linear(config.hidden, width, bias=False) for _ in config.dims)
        # Factors begin near 1, and their products with the bias near the sum of the maps: many small ones would vanish.
        self.ones = nn.Parameter(torch.ones(len(config.dims), config.rank, config.hidden))
        self.bias = nn.Parameter(torch.full((config.hidden,), -float(config.rank)))
        self.classify = nn.Sequential(
            nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.hidden, config.num_classes)
        )

    def forward(self, features: list[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """See ``base.Model`` for shapes."""
        self.check(features, present)
        present = self.drop(present)
        h_BMD = self.embed(features, present)
        mapped = torch.stack([factor(h) for factor, h in zip(self.factors, h_BMD.unbind(dim=1), strict=True)], dim=1)
        mapped_BMRD = mapped.reshape(-1, *self.ones.shape).masked_fill(~present[:, :, None, None], 0.0)
        factors_BMRD = self.ones + mapped_BMRD
        mixed_BD = reduce(torch.mul, factors_BMRD.unbind(dim=1)).sum(dim=1) + self.bias
        return self.classify(mixed_BD), _shares(mapped_BMRD.detach(), factors_BMRD.detach(), present)


def _shares(mapped_BMRD: Tensor, factors_BMRD: Tensor, present: Tensor) -> Tensor:
    ones = torch.ones_like(factors_BMRD[:, :1])
    before = torch.cat([ones, factors_BMRD[:, :-1]], dim=1).cumprod(dim=1)
    after = torch.cat([ones, factors_BMRD[:, 1:].flip(1)], dim=1).cumprod(dim=1).flip(1)
    return base.shares((mapped_BMRD * before * after).sum(dim=2).norm(dim=-1), present)

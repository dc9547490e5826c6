"""Tensor fusion (Zadeh et al. 2017 section 4.2, P4 section 3.3): the products of what the features of a clip say."""

from __future__ import annotations

from functools import reduce

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from mer_ray.fusion import base

_MOST_FEATURES = 4


class Config(base.Config):
    """How large the outer product may be. Of more than four features each could say next to nothing: refused."""

    most_products: int = Field(4096, ge=2**_MOST_FEATURES, description="largest size of the outer product")

    @field_validator("dims")
    @classmethod
    def _few(cls, dims: tuple[int, ...]) -> tuple[int, ...]:
        if len(dims) > _MOST_FEATURES:
            raise ValueError(
                f"the outer product takes at most {_MOST_FEATURES} features, {len(dims)} are given; give the learner "
                "fewer, or take the fusion lmf"
            )
        return dims

    @property
    def width(self) -> int:
        """Of each feature in the product: the largest with (1 + width) ** M <= ``most_products``, at most ``hidden``.

        >>> Config(dims=(768, 1024, 768), num_classes=6).width
        15
        """
        return min(self.hidden, int(self.most_products ** (1 / len(self.dims)) + 1e-9) - 1)


class Model(base.Model):
    """Classify, by a perceptron, the outer product of [1; z] of all features, z of a common small width.

    It holds every product of the features' numbers, each taken or left out. An absent feature is [1; 0]: what is left
    are the products of the others. A feature's weight is the norm of what the products that it is part of add to the
    perceptron's first layer, as a share of all features present.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.embed = base.Projection(config)
        self.compress = nn.ModuleList(
            nn.Sequential(nn.Linear(config.hidden, config.width), nn.ReLU()) for _ in config.dims
        )
        self.mix = nn.Linear((1 + config.width) ** len(config.dims), config.hidden)
        self.classify = nn.Sequential(
            nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.hidden, config.num_classes)
        )

    def forward(self, features: list[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """See ``base.Model`` for shapes."""
        self.check(features, present)
        present = self.drop(present)
        h_BMD = self.embed(features, present)
        factors = [
            functional.pad(compress(h).masked_fill(~here.unsqueeze(-1), 0.0), (1, 0), value=1.0)
            for compress, h, here in zip(self.compress, h_BMD.unbind(dim=1), present.unbind(dim=1), strict=True)
        ]
        products = reduce(_outer, factors)
        mixed_BD = self.mix(products.flatten(start_dim=1))
        return self.classify(mixed_BD), self._shares(products.detach(), mixed_BD.detach(), present)

    @torch.no_grad()
    def _shares(self, products: Tensor, mixed_BD: Tensor, present: Tensor) -> Tensor:
        """From the products, (B, 1 + width, 1 + width, ...): those at 0 of a feature's axis are without it."""
        weight = self.mix.weight.reshape(-1, *products.shape[1:])
        added = []
        for axis in range(1, products.ndim):
            rest = products.narrow(axis, 0, 1).flatten(start_dim=1)
            without_BD = functional.linear(rest, weight.narrow(axis, 0, 1).flatten(start_dim=1), self.mix.bias)
            added.append((mixed_BD - without_BD).norm(dim=-1))
        return base.shares(torch.stack(added, dim=1), present)


def _outer(products: Tensor, factor: Tensor) -> Tensor:
    """(B, ...) and (B, W) to (B, ..., W)."""
    ones = (1,) * (products.ndim - 1)
    return products.unsqueeze(-1) * factor.reshape(len(factor), *ones, -1)

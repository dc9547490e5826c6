"""What a fusion model is: features of several encoders in, class logits out, absent ones masked.

Shapes: B clips, M features (one per encoder), D width, C classes.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mer_ray.errors import ShapeError


class Config(BaseModel):
    """Base of every fusion model's ``Config``; the learner fills ``dims`` and ``num_classes`` from the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dims: tuple[int, ...]
    num_classes: int
    hidden: int = 128
    dropout: float = 0.3
    modality_dropout: float = 0.3


class Model(nn.Module):
    """Base of every fusion model.

    In training mode each feature is marked absent with probability ``config.modality_dropout`` (P3 section 3.3),
    never the last one present of a clip.

    Shapes of ``forward``:
        features: M tensors, float32 (B, dims[m]); values of an absent one are never read and may be NaN.
        present: bool (B, M), at least one True per row.
        returns: logits float32 (B, C) and weights float32 (B, M), how much each feature counted: non-negative, zero
            where absent, rows sum to 1.

    What ``forward`` does depends on no value: ``torch.func.vmap`` fits models of one shape together.

    Raises:
        ShapeError: the number of tensors differs from ``len(config.dims)``, or a width differs.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, features: list[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """See the class for shapes."""

    def check(self, features: list[Tensor], present: Tensor) -> None:
        """Hold the inputs to the shapes that the class states.

        Raises:
            ShapeError: see the class.
        """
        widths = [feature.shape[-1] for feature in features]
        if widths != list(self.config.dims):
            raise ShapeError(f"fusion: features of widths {widths} given to a model made for {list(self.config.dims)}")
        if present.shape != (len(features[0]), len(features)):
            raise ShapeError(
                f"fusion: present {tuple(present.shape)} must be {(len(features[0]), len(features))}: clips x features"
            )

    def drop(self, present: Tensor) -> Tensor:
        """``present`` with modality dropout in training mode, and as it is otherwise."""
        if not self.training or self.config.modality_dropout == 0:
            return present
        return drop_modalities(present, self.config.modality_dropout)


class Projection(nn.Module):
    """A two-layer perceptron per feature to one common width.

    Shapes of ``forward``: as ``Model``'s inputs; returns float32 (B, M, hidden). What it gives for an absent feature is
    finite and means nothing.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.project = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(config.dropout),
                nn.Linear(dim, config.hidden),
                nn.ReLU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, config.hidden),
                nn.ReLU(),
            )
            for dim in config.dims
        )

    def forward(self, features: list[Tensor], present: Tensor) -> Tensor:
        """See the class for shapes."""
        projected = [
            project(x.masked_fill(~here.unsqueeze(-1), 0.0))  # not a product: 0 * nan is nan
            for project, x, here in zip(self.project, features, present.unbind(dim=1), strict=True)
        ]
        return torch.stack(projected, dim=1)


class Embedding(Projection):
    """A ``Projection`` in which a learned vector stands for an absent feature."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.absent = nn.Parameter(0.02 * torch.randn(len(config.dims), config.hidden))

    def forward(self, features: list[Tensor], present: Tensor) -> Tensor:
        """See ``Projection`` for shapes."""
        return torch.where(present.unsqueeze(-1), super().forward(features, present), self.absent)


def shares(amounts_BM: Tensor, present: Tensor) -> Tensor:
    """Weights of the features from how much each of them added, whatever the unit.

    Shapes:
        amounts_BM: float32 (B, M), not negative; those of absent features are not read.
        present: bool (B, M), at least one True per row.
        returns: float32 (B, M), as ``Model`` says of weights.
    """
    amounts_BM = (amounts_BM + 1e-6).masked_fill(~present, 0.0)
    return amounts_BM / amounts_BM.sum(dim=1, keepdim=True)


def drop_modalities(present: Tensor, probability: float) -> Tensor:
    """Mark present features absent at random, each with ``probability``, but leave every clip at least one of its own.

    Where all of a clip's features would go, one of them, chosen evenly, stays (P3 section 3.3 writes zeros instead).

    Shapes:
        present: bool (B, M).
        returns: bool (B, M), True only where ``present`` is.
    """
    kept = present & (torch.rand(present.shape, device=present.device) >= probability)
    lottery = torch.rand(present.shape, device=present.device).masked_fill(~present, -1.0)
    places = torch.arange(present.shape[1], device=present.device)
    survivor = (places == lottery.argmax(dim=1, keepdim=True)) & present
    return torch.where(kept.any(dim=1, keepdim=True), kept, survivor)

"""Predict many clips with the models of all folds, near the speed of the matrix products in it.

Nearly all work is each fold's first layer over wide features. Clips go through in small blocks; a block is read, turned
to float32 and centred once for all folds. Each fold's standardisation is folded into the weights of its first layer, so
that the first layers of all folds are one product. A block with a value that a fold would hold to ``±CLIP`` is held so,
fold by fold, before the products.

Shapes: F folds, B clips of a block, M features, D width, H width behind the first layer, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mer_ray.errors import ShapeError
from mer_ray.fusion import base
from mer_ray.learners.model import CLIP, FoldModel

_TOLERANCE = 1e-3


class Outputs(NamedTuple):
    """What the models of all folds say of a block: logits (F, B, C), weights (F, B, M), valence (F, B) or None."""

    logits: Tensor
    weights: Tensor
    valence: Tensor | None


class Predictor:
    """The models of all folds of one learner, made ready.

    First layers can be shared where a fusion model reads its features through a ``Projection`` called ``embed`` alone.
    That is tried on a few clips; any other model is run as it is.

    Args:
        models: one per fold, in evaluation mode.
        values: of a few clips, M tensors (B, D) of any float type.
        present: bool (B, M).
    """

    def __init__(self, models: Sequence[FoldModel], values: list[Tensor], present: Tensor) -> None:
        self.models = models
        self.first: list[_FirstLayers] = []
        if not all(isinstance(getattr(model.fusion, "embed", None), base.Projection) for model in models):
            return
        self.first = [_FirstLayers(models, m) for m in range(len(values))]
        self.rest = [_rest(model) for model in models]
        if not self._holds(values, present):
            self.first = []

    @torch.inference_mode()
    def __call__(self, values: list[Tensor], present: Tensor) -> Outputs:
        """Predict a block; see the class for shapes. Float32 values may be changed in place."""
        if not self.first:
            raw = [model.fusion(model.prepare([x.float() for x in values]), present) for model in self.models]
        else:
            raw = self._shared(values, present)
        valences = [model.valences(outputs) for model, (outputs, _) in zip(self.models, raw, strict=True)]
        return Outputs(
            torch.stack([model.classes(outputs) for model, (outputs, _) in zip(self.models, raw, strict=True)]),
            torch.stack([weights for _, weights in raw]),
            None if valences[0] is None else torch.stack([v for v in valences if v is not None]),
        )

    def _shared(self, values: list[Tensor], present: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Outputs and weights of each fold."""
        h_MFBH = [first(x, here) for first, x, here in zip(self.first, values, present.unbind(dim=1), strict=True)]
        return [rest([h_FBH[fold] for h_FBH in h_MFBH], present) for fold, rest in enumerate(self.rest)]

    @torch.inference_mode()
    def _holds(self, values: list[Tensor], present: Tensor) -> bool:
        """Whether sharing the first layers predicts what the models do."""
        plain = [model([x.float() for x in values], present)[0] for model in self.models]
        try:
            found = self._shared([x.clone() for x in values], present)
        except (RuntimeError, ShapeError):  # the model reads its features elsewhere too, at their own widths
            return False
        pairs = zip(self.models, found, plain, strict=True)
        return all(
            torch.allclose(model.classes(outputs), logits, rtol=_TOLERANCE, atol=_TOLERANCE)
            for model, (outputs, _), logits in pairs
        )


class _FirstLayers:
    """Standardisation and first layer of one feature, of all folds."""

    def __init__(self, models: Sequence[FoldModel], feature: int) -> None:
        scales = [model.scale_of(feature) for model in models]
        layers = [_layer(model.fusion, feature) for model in models]
        mean_FD = torch.stack([scale.mean for scale in scales]).double()
        scale_FD = torch.stack([scale.scale for scale in scales]).double()
        centre_D = mean_FD.mean(dim=0)
        weight_FHD = torch.stack([layer.weight.detach() for layer in layers]).double() * scale_FD.unsqueeze(1)
        gap_FD = mean_FD - centre_D
        bias_FH = torch.stack([layer.bias.detach() for layer in layers]).double()
        bias_FH = bias_FH - torch.einsum("fhd,fd->fh", weight_FHD, gap_FD)
        self.centre_D = centre_D.float()
        self.weight_FHD, self.bias_FH = weight_FHD.float(), bias_FH.float()
        self.least_FD = (gap_FD - CLIP / scale_FD).float()
        self.most_FD = (gap_FD + CLIP / scale_FD).float()
        self.bounds = self.least_FD.amax(dim=0), self.most_FD.amin(dim=0)

    def __call__(self, x_BD: Tensor, here_B: Tensor) -> Tensor:
        """What comes out of each fold's first layer, float32 (F, B, H)."""
        x_BD = x_BD.float().sub_(self.centre_D)
        if not here_B.all():
            x_BD.masked_fill_(~here_B.unsqueeze(1), 0.0)
        if self._within(x_BD):
            h_BX = functional.linear(x_BD, self.weight_FHD.flatten(0, 1), self.bias_FH.flatten())
            return h_BX.view(-1, *self.bias_FH.shape).transpose(0, 1)
        held = (x_BD.clamp(least, most) for least, most in zip(self.least_FD, self.most_FD, strict=True))
        return torch.stack(
            [functional.linear(x, w, b) for x, w, b in zip(held, self.weight_FHD, self.bias_FH, strict=True)]
        )

    def _within(self, x_BD: Tensor) -> bool:
        """Whether no fold would hold any value of the block to its limits."""
        least, most = x_BD.amin(dim=0), x_BD.amax(dim=0)  # aminmax is ten times slower than both
        return bool((least >= self.bounds[0]).all() and (most <= self.bounds[1]).all())


def _layer(fusion: base.Model, feature: int) -> nn.Linear:
    """The first layer over a feature."""
    layers = _embed(fusion).project[feature]
    return next(layer for layer in cast(nn.Sequential, layers) if isinstance(layer, nn.Linear))


def _embed(fusion: base.Model) -> base.Projection:
    return cast(base.Projection, fusion.embed)


def _rest(model: FoldModel) -> base.Model:
    """The fusion model without its first layers: it takes what comes out of them."""
    fusion = copy.deepcopy(model.fusion)
    widths = []
    for layers in cast(list[nn.Sequential], _embed(fusion).project):
        place = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear))
        widths.append(layers[place].out_features)
        layers[place] = nn.Identity()
    fusion.config = fusion.config.model_copy(update={"dims": tuple(widths)})
    return fusion.eval()

"""What a fit minimises: cross-entropy against soft, weighted targets, with rare classes counted as configured.

Shapes: G folds trained side by side, B clips of a batch, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mer_ray.config import FitConfig


@dataclass(frozen=True)
class Balance:
    """How classes of unequal size are evened out in each fold.

    Attributes:
        weight_GC: float32, what a clip of the class counts.
        shift_GC: float32, added to the logits in training only (logit adjustment, Menon et al. 2021, section 4.2).
    """

    weight_GC: Tensor
    shift_GC: Tensor

    @classmethod
    def of(cls, how: str, counts_GC: Tensor) -> Balance:
        """From ``fit.balance`` and the weighted number of training clips of each class."""
        ones, zeros = torch.ones_like(counts_GC), torch.zeros_like(counts_GC)
        if how == "weights":
            return cls(class_weights(counts_GC), zeros)
        if how == "logits":
            shares = (counts_GC + 1) / (counts_GC + 1).sum(dim=1, keepdim=True)  # one more: a class may not occur
            return cls(ones, shares.log())
        return cls(ones, zeros)

    def keep(self, places: Tensor) -> Balance:
        """The folds at ``places``."""
        return Balance(self.weight_GC[places], self.shift_GC[places])


def class_weights(counts_GC: Tensor) -> Tensor:
    """Inverse square root of each class's count, of mean 1 over the clips; 0 for a class that does not occur."""
    weights = torch.where(counts_GC > 0, counts_GC.clamp(min=1e-12).rsqrt(), 0.0)
    return weights * counts_GC.sum(dim=1, keepdim=True) / (weights * counts_GC).sum(dim=1, keepdim=True)


def classes_loss(
    logits_GBC: Tensor, target_GBC: Tensor, weight_GB: Tensor, balance: Balance, label_smoothing: float
) -> Tensor:
    """Mean cross-entropy of each fold's clips, float32 (G,).

    A clip counts by its weight times the class weights of its target; of clips that all weigh nothing the loss is 0.

    Shapes:
        logits_GBC: float32.
        target_GBC: float32, rows sum to 1.
        weight_GB: float32, not negative; 0 for padding.
    """
    log_p_GBC = (logits_GBC + balance.shift_GC.unsqueeze(1)).log_softmax(dim=2)
    smooth_GBC = (1 - label_smoothing) * target_GBC + label_smoothing / target_GBC.shape[2]
    counts_GB = weight_GB * torch.einsum("gbc,gc->gb", target_GBC, balance.weight_GC)
    return _mean(-(smooth_GBC * log_p_GBC).sum(dim=2), counts_GB)


def valence_loss(predicted_GB: Tensor, valence_GB: Tensor, weight_GB: Tensor) -> Tensor:
    """Mean squared error of each fold's clips whose valence is known (not NaN), float32 (G,); 0 where none is."""
    known_GB = ~valence_GB.isnan()
    error_GB = (predicted_GB - valence_GB.nan_to_num()).square()
    return _mean(error_GB, weight_GB * known_GB)


@dataclass(frozen=True)
class Batch:
    """One step's clips of every fold.

    Attributes:
        features: M tensors, float32 (G, B, D), standardised.
        present_GBM: bool.
        target_GBC: float32, rows sum to 1.
        weight_GB: float32.
        valence_GB: float32, standardised, NaN where unknown.
        real_GB: bool, False for padding, which repeats clips of the batch.
    """

    features: list[Tensor]
    present_GBM: Tensor
    target_GBC: Tensor
    weight_GB: Tensor
    valence_GB: Tensor
    real_GB: Tensor

    def loss(self, outputs_GBX: Tensor, balance: Balance, fit: FitConfig) -> Tensor:
        """The loss of each fold, float32 (G,), from C logits and, where it is learnt, the valence behind them."""
        weight_GB = self.weight_GB * self.real_GB
        num_classes = self.target_GBC.shape[2]
        loss_G = classes_loss(outputs_GBX[..., :num_classes], self.target_GBC, weight_GB, balance, fit.label_smoothing)
        if outputs_GBX.shape[2] > num_classes:
            loss_G = loss_G + fit.valence * valence_loss(outputs_GBX[..., -1], self.valence_GB, weight_GB)
        return loss_G


def _mean(values_GB: Tensor, weight_GB: Tensor) -> Tensor:
    return (values_GB * weight_GB).sum(dim=1) / weight_GB.sum(dim=1).clamp(min=1e-12)

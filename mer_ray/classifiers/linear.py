"""Multinomial logistic regression on standardised features, all folds in one fit.

Each fold's standardisation stands in its weights, so that the folds share one copy of the clips. An absent feature adds
nothing to the scores, in training as in use.

Shapes: F folds, n training clips of any fold, M features, D width of all of them, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mer_ray.classifiers import base
from mer_ray.data.features import FeatureSet

_MOST_STEPS = 1000
_LEAST_GRADIENT = 1e-6
_FLOAT64_VALUES = 2**27
"""More values than these are multiplied in float32."""


class Config(base.Config):
    """See ``base.Config``."""

    penalty: float = Field(10.0, gt=0, description="of the squared weights; 1 / C in scikit-learn's words")


class Solution(NamedTuple):
    """Scores are ``x @ weight + constant`` less the ``offset`` of each feature that a clip has.

    Shapes: weight (F, D, C), constant (F, C), -inf of a class that the fold lacks; offset (F, M, C).
    """

    weight: Tensor
    constant: Tensor
    offset: Tensor


class Classifier(base.Classifier):
    """Logistic regression with an L2 penalty."""

    config: Config

    def fit(self, features: FeatureSet, folds: Sequence[base.Rows], seed: int) -> None:
        """See ``base.Classifier``."""
        rows, counts_FnC = base.counts(folds, self.config.num_classes)
        self.inputs = base.learn_inputs(features, rows, self.config.max_width, seed)
        widths = [one.width for one in self.inputs]
        dtype = torch.float64 if len(rows) * sum(widths) <= _FLOAT64_VALUES else torch.float32
        x_nD = torch.zeros(len(rows), sum(widths), dtype=dtype, device=base.device())
        for column, one, feature in zip(torch.split(x_nD, widths, dim=1), self.inputs, features.features, strict=True):
            for place in base.blocks(np.flatnonzero(feature.present[rows])):
                column[torch.from_numpy(place)] = one.take(feature, rows[place]).to(dtype)
        present_nM, penalty = torch.from_numpy(features.present[rows]), self.config.penalty
        self.solution = solve(x_nD, present_nM, widths, torch.from_numpy(counts_FnC), penalty)

    def scores(self, pattern: base.Pattern) -> base.Map:
        """See ``base.Classifier``."""
        weights = torch.split(self.solution.weight, [one.width for one in self.inputs], dim=1)
        constant_FC = self.solution.constant - self.solution.offset[:, list(pattern)].sum(dim=1)
        return torch.cat([weights[m] for m in pattern], dim=1), constant_FC

    def state(self) -> dict[str, Tensor]:
        """See ``base.Classifier``."""
        return self.solution._asdict()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See ``base.Classifier``."""
        self.solution = Solution(*(state[name] for name in Solution._fields))


def solve(x_nD: Tensor, present_nM: Tensor, widths: Sequence[int], counts_FnC: Tensor, penalty: float) -> Solution:
    """Fit all folds by L-BFGS (Liu and Nocedal 1989): what ``sklearn.linear_model.LogisticRegression`` comes to.

    Each fold's features are standardised by the clips that count in it. As there, a fold of two classes has one vector
    of weights, which is to say twice the penalty for the two that point apart here.

    Args:
        x_nD: 0 where absent; float32 or 64.
        present_nM: bool, which features a clip has.
        widths: of the features, D together.
        counts_FnC: what each clip counts for each class; 0 where it does not belong to the fold.
        penalty: of the squared weights.

    Returns:
        The scores, float32.
    """
    counts_FnC, present_nM = counts_FnC.to(x_nD), present_nM.to(x_nD)
    weight_Fn = counts_FnC.sum(dim=2)
    width_M = torch.tensor(widths, device=x_nD.device)
    have_FD = (weight_Fn @ present_nM).repeat_interleave(width_M, dim=1).clamp(min=1e-12)
    mean_FD = weight_Fn @ x_nD / have_FD
    spread_FD = (weight_Fn @ x_nD.square() / have_FD - mean_FD.square()).clamp(min=0).sqrt()
    scale_FD = torch.where(spread_FD > 1e-5, 1 / spread_FD, 0.0)
    lacks_FC = counts_FnC.sum(dim=1) == 0
    penalty_F = penalty * torch.where((~lacks_FC).sum(dim=1) == 2, 2.0, 1.0)
    total = weight_Fn.sum() / len(weight_Fn)
    free_FDC = torch.zeros(len(counts_FnC), sum(widths), counts_FnC.shape[2], dtype=x_nD.dtype, device=x_nD.device)
    constant_FC = torch.zeros_like(lacks_FC, dtype=x_nD.dtype)

    def solution() -> Solution:
        weight_FDC = scale_FD.unsqueeze(2) * free_FDC
        parts = torch.split(mean_FD.unsqueeze(2) * weight_FDC, list(widths), dim=1)
        return Solution(weight_FDC, constant_FC, torch.stack([part.sum(dim=1) for part in parts], dim=1))

    def loss() -> Tensor:
        optimizer.zero_grad()
        weight_FDC, _, offset_FMC = solution()
        logits_FnC = x_nD @ weight_FDC + constant_FC.unsqueeze(1) - present_nM @ offset_FMC
        logits_FnC = logits_FnC.masked_fill(lacks_FC.unsqueeze(1), -1e9)
        surprise = -(counts_FnC * logits_FnC.log_softmax(dim=2)).sum()
        value = (surprise + 0.5 * (penalty_F * free_FDC.square().sum(dim=(1, 2))).sum()) / total
        value.backward()  # type: ignore[no-untyped-call]
        return value

    parameters = [free_FDC.requires_grad_(), constant_FC.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=_MOST_STEPS,
        tolerance_grad=_LEAST_GRADIENT,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        weight, constant, offset = (part.detach().float() for part in solution())
        return Solution(weight, constant.masked_fill(lacks_FC, -torch.inf), offset)

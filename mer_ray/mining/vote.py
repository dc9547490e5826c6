"""Adopt what k of n learners agree on (P1 section 2.5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.mining import base


class Config(base.Config):
    """How many learners must agree: ``min_agree`` of them, or all when they are fewer, and at least ``min_share``."""

    min_agree: int = Field(3, ge=1, description="learners that must predict the same class (P1: 3 of 4)")
    min_share: float = Field(0.75, ge=0, le=1, description="share of the learners that must agree")
    min_probability: float = Field(0.0, ge=0, le=1, description="least mean probability of the class adopted")


class Strategy(base.Strategy):
    """A clip is adopted when at least 3 of the 4 learners predict the same class (P1 section 2.5).

    Of two classes of equal votes, which only lax settings admit, the one of higher mean probability is taken, then the
    lower class.
    """

    config: Config

    def select(self, votes_KNC: NDArray[np.floating], context: base.Context) -> base.Selection:
        """See ``base.Strategy``."""
        num_learners, num_clips, num_classes = votes_KNC.shape
        predicted_KN = base.predicted(votes_KNC)
        counts_NC = base.count(predicted_KN, num_classes)
        mean_NC = base.mean(votes_KNC)
        likely_NC = np.nan_to_num(mean_NC)
        label = np.where(counts_NC == counts_NC.max(axis=1, keepdims=True), likely_NC, -1.0).argmax(axis=1)
        rows = np.arange(num_clips)
        least = max(min(self.config.min_agree, num_learners), self.config.min_share * num_learners - 1e-9)
        enough = counts_NC[rows, label] >= least
        agreed = np.flatnonzero(enough & (likely_NC[rows, label] >= self.config.min_probability))
        return base.selection(agreed, label[agreed], counts_NC, mean_NC)

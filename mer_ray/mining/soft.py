"""Adopt with soft labels: what the learners' mean says, counting as much as they agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.mining import base


class Config(base.Config):
    """Which clips, and how soft."""

    min_share: float = Field(0.5, ge=0, le=1, description="least share of the learners' weight that agrees")
    temperature: float = Field(0.5, gt=0, description="of the labels; below 1 they are sharper (MixMatch: 0.5)")
    power: float = Field(1.0, ge=0, description="a clip counts as the share that agrees to this power")


class Strategy(base.Strategy):
    """Clips whose label is a distribution: the learners' mean, sharpened (MixMatch, section 3.2).

    A clip counts in training by the share of the learners' weight that predicts the class of most votes; of classes of
    equal votes that of higher mean probability is taken, then the lower.
    """

    config: Config

    def select(self, votes_KNC: NDArray[np.floating], context: base.Context) -> base.Selection:
        """See ``base.Strategy``."""
        num_classes = votes_KNC.shape[2]
        predicted_KN = base.predicted(votes_KNC)
        mean_NC = base.mean(votes_KNC, context.learner_weights_K)
        shares_NC = base.share(predicted_KN, num_classes, context.learner_weights_K)
        most_N = shares_NC.max(axis=1)
        label = np.where(shares_NC == most_N[:, None], np.nan_to_num(mean_NC), -1.0).argmax(axis=1)
        adopted = np.flatnonzero((most_N > 0) & (most_N >= self.config.min_share - 1e-9))
        sharp_nC = mean_NC[adopted] ** (1 / self.config.temperature)
        return base.selection(
            adopted,
            label[adopted],
            base.count(predicted_KN, num_classes),
            mean_NC,
            sharp_nC / sharp_nC.sum(axis=1, keepdims=True),
            most_N[adopted] ** self.config.power,
        )

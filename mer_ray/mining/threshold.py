"""Adopt what the learners are sure of (pseudo-labels of a fixed threshold: FixMatch, section 2.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.mining import base


class Config(base.Config):
    """How sure the learners must be."""

    min_probability: float = Field(0.8, ge=0, le=1, description="least mean probability of the likeliest class")


class Strategy(base.Strategy):
    """Clips whose likeliest class by the learners' mean probability reaches one fixed threshold."""

    config: Config

    def select(self, votes_KNC: NDArray[np.floating], context: base.Context) -> base.Selection:
        """See ``base.Strategy``."""
        mean_NC = base.mean(votes_KNC, context.learner_weights_K)
        label = np.nan_to_num(mean_NC).argmax(axis=1)
        # a clip on which all abstain has no probability, which is no less than 0 either
        adopted = np.flatnonzero(mean_NC[np.arange(len(label)), label] >= self.config.min_probability)
        counts_NC = base.count(base.predicted(votes_KNC), votes_KNC.shape[2])
        return base.selection(adopted, label[adopted], counts_NC, mean_NC)

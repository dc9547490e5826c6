"""Adopt the most confident clips of each class among those that k of n learners agree on (P1 and P3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mer_ray.mining import base, topk, vote


class Config(vote.Config, topk.Config):
    """The options of ``vote`` and of ``topk``."""


class Strategy(base.Strategy):
    """The surest clips of each class, as many as ``topk`` gives places, of those that ``vote`` admits.

    A clip's class is that of most votes, its confidence the mean probability of that class.
    """

    config: Config

    def select(self, votes_KNC: NDArray[np.floating], context: base.Context) -> base.Selection:
        """See ``base.Strategy``."""
        agreed, label = vote.agree(self.config, votes_KNC, context)
        mean_NC = base.mean(votes_KNC, context.learner_weights_K)
        chosen = topk.surest(agreed, label, mean_NC, topk.places(self.config, votes_KNC.shape[1], context))
        counts_NC = base.count(base.predicted(votes_KNC), votes_KNC.shape[2])
        return base.selection(chosen, label[chosen], counts_NC, mean_NC)

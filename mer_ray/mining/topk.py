"""Adopt the most confident clips of each class (P3 sections 3.5 and 4.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.mining import base


class Config(base.Config):
    """How many clips join in a round."""

    k: int = Field(10, ge=1, description="clips adopted of each predicted class every round (P3: 10)")


class Strategy(base.Strategy):
    """The ``k`` most confident clips of each predicted class, by the learners' mean probability (P3 section 3.5).

    Of equally confident clips the earlier one is taken.
    """

    config: Config

    def select(self, votes_KNC: NDArray[np.floating], context: base.Context) -> base.Selection:
        """See ``base.Strategy``."""
        mean_NC = base.mean(votes_KNC)
        voted = np.flatnonzero(~np.isnan(mean_NC).any(axis=1))
        label = np.nan_to_num(mean_NC).argmax(axis=1)
        surest = voted[np.argsort(-mean_NC[voted, label[voted]], kind="stable")]
        num_classes = votes_KNC.shape[2]
        chosen = np.concatenate([surest[label[surest] == c][: self.config.k] for c in range(num_classes)])
        counts_NC = base.count(base.predicted(votes_KNC), num_classes)
        return base.selection(chosen, label[chosen], counts_NC, mean_NC)

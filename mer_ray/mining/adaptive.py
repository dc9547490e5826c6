"""Adopt by a threshold of each class that follows how sure the learners are of it (FlexMatch, FreeMatch)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.mining import base


class Config(base.Config):
    """Whose thresholds, and between which bounds."""

    rule: Literal["freematch", "flexmatch"] = Field(
        "freematch", description="highest threshold: the mean confidence of the pool | max_probability"
    )
    min_probability: float = Field(0.0, ge=0, le=1, description="no class has a lower threshold")
    max_probability: float = Field(0.95, ge=0, le=1, description="no class has a higher threshold")
    align: bool = Field(True, description="first align the pool's mean probabilities to the class shares expected")


class Strategy(base.Strategy):
    """Clips whose likeliest class reaches that class's own threshold; a class that is learnt less has a lower one.

    By ``freematch`` (section 4) the highest threshold is the mean confidence over the pool, and a class's is that
    times its mean probability over the greatest class's. By ``flexmatch`` (section 3.2) it is ``max_probability``, and
    a class's is that times b / (2 - b), b being its share of the clips which reach the highest one, over the greatest
    class's. Both are computed from this round's votes alone, where the papers keep moving averages over steps.
    """

    config: Config

    def select(self, votes_KNC: NDArray[np.floating], context: base.Context) -> base.Selection:
        """See ``base.Strategy``."""
        mean_NC = base.mean(votes_KNC, context.learner_weights_K)
        judged_NC = base.align(mean_NC, context.prior_C) if self.config.align else mean_NC
        label = np.nan_to_num(judged_NC).argmax(axis=1)
        # clips alike are all at their threshold: rounding must not tell them apart
        least_N = self._thresholds(judged_NC)[label] - 1e-9
        adopted = np.flatnonzero(judged_NC[np.arange(len(label)), label] >= least_N)
        counts_NC = base.count(base.predicted(votes_KNC), votes_KNC.shape[2])
        return base.selection(adopted, label[adopted], counts_NC, mean_NC)

    def _thresholds(self, mean_NC: NDArray[np.float64]) -> NDArray[np.float64]:
        """The least probability of each class, float64 (C,)."""
        voted_NC = mean_NC[~np.isnan(mean_NC).any(axis=1)]
        least, most = self.config.min_probability, self.config.max_probability
        if not len(voted_NC):
            return np.full(mean_NC.shape[1], most)
        if self.config.rule == "freematch":
            highest = voted_NC.max(axis=1).mean()
            learnt_C = voted_NC.mean(axis=0)
            thresholds_C = highest * learnt_C / learnt_C.max()
        else:
            sure_NC = voted_NC[voted_NC.max(axis=1) >= most]
            learnt_C = np.bincount(sure_NC.argmax(axis=1), minlength=mean_NC.shape[1]).astype(np.float64)
            # the clips of no class yet count as one more class, so that thresholds rise with the first sure ones
            relative_C = learnt_C / max(learnt_C.max(), len(voted_NC) - len(sure_NC), 1)
            thresholds_C = most * relative_C / (2 - relative_C)
        clipped_C: NDArray[np.float64] = np.clip(thresholds_C, least, most)
        return clipped_C

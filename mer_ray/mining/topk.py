"""Adopt the most confident clips of each class (P3 sections 3.5 and 4.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.mining import base


class Config(base.Config):
    """How many clips join: such that the rounds come to ``share`` of the pool step by step, or ``k`` of each class."""

    share: float = Field(1.0, gt=0, le=1, description="share of the pool that the rounds come to")
    share_rounds: int = Field(3, ge=1, description="rounds in which the share is reached, in equal steps")
    k: int | None = Field(
        None, ge=1, description="instead of a share, clips adopted of each predicted class every round (P3: 10)"
    )
    growth: float = Field(0.0, ge=0, description="k grows by this part of itself each round")


class Strategy(base.Strategy):
    """The most confident clips of each predicted class, by the learners' mean probability (P3 section 3.5).

    The classes get places in the shares expected of them, or ``k`` each, as in P3. Of equally confident clips the
    earlier one is taken.
    """

    config: Config

    def select(self, votes_KNC: NDArray[np.floating], context: base.Context) -> base.Selection:
        """See ``base.Strategy``."""
        mean_NC = base.mean(votes_KNC, context.learner_weights_K)
        voted = np.flatnonzero(~np.isnan(mean_NC).any(axis=1))
        label = np.nan_to_num(mean_NC).argmax(axis=1)
        chosen = surest(voted, label, mean_NC, places(self.config, votes_KNC.shape[1], context))
        counts_NC = base.count(base.predicted(votes_KNC), votes_KNC.shape[2])
        return base.selection(chosen, label[chosen], counts_NC, mean_NC)


def places(config: Config, num_free: int, context: base.Context) -> NDArray[np.int64]:
    """How many clips of each class may join this round, int64 (C,).

    Args:
        config: k, or the share.
        num_free: clips of the pool that are still free.
        context: the round, the shares expected, and how many clips have left the pool.

    >>> places(Config(share=0.5, share_rounds=5), 1000, base.Context.even(4, 2, round_number=2)).tolist()
    [150, 150]
    """
    num_classes = len(context.prior_C)
    if config.k is not None:
        k = round(config.k * (1 + config.growth * context.round_number))
        return np.full(num_classes, k, dtype=np.int64)
    reached = config.share * min(1.0, (context.round_number + 1) / config.share_rounds)
    wanted = max(0.0, reached * (num_free + context.num_adopted) - context.num_adopted)
    exact_C = wanted * context.prior_C
    places_C = np.floor(exact_C + 1e-9).astype(np.int64)
    left = max(0, round(wanted) - int(places_C.sum()))
    places_C[np.argsort(places_C - exact_C, kind="stable")[:left]] += 1  # largest remainders first
    return places_C


def surest(
    clips: NDArray[np.int64],
    label: NDArray[np.int64],
    mean_NC: NDArray[np.float64],
    places_C: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Of ``clips`` the most confident of each class, as many as it has places; the earlier of equals."""
    order = clips[np.argsort(-mean_NC[clips, label[clips]], kind="stable")]
    return np.concatenate([order[label[order] == c][:most] for c, most in enumerate(places_C)])

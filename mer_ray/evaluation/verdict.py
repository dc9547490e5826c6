"""Whether labels are better than what one could answer without a look at any clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mer_ray.evaluation import explain
from mer_ray.evaluation.metrics import Scores
from mer_ray.evaluation.page import percent


@dataclass(frozen=True)
class Verdict:
    """A weighted F1 beside that of chance.

    Attributes:
        waf: of the labels given, in [0, 1].
        interval: where it would fall, 19 times out of 20, for other clips drawn like these.
        num_clips: how many were scored.
        chance: see ``chance``.
    """

    waf: float
    interval: tuple[float, float]
    num_clips: int
    chance: float

    @property
    def above_chance(self) -> bool:
        """Whether the lower end of the interval is above chance."""
        return self.interval[0] > self.chance

    @property
    def told(self) -> str:
        """What to say first where it is not above chance, else nothing."""
        if self.above_chance:
            return ""
        low, high = map(percent, self.interval)
        return (
            f"No better than chance: on {self.num_clips:,} clips the weighted F1 is {percent(self.waf)} (95 % interval "
            f"{low} to {high}), and answering without a look at them gives {percent(self.chance)}."
        )


def judge(scores: Scores | None) -> Verdict | None:
    """Of the clips that were scored; None when none was."""
    if scores is None:
        return None
    interval = explain.waf_interval(np.array(scores.confusion))
    support = [one.support for one in scores.classes]
    return None if interval is None else Verdict(scores.waf, interval, sum(support), chance(support))


def chance(support: Sequence[int]) -> float:
    """The higher weighted F1 of two answers that look at no clip: always the commonest class, and a guess by shares.

    Of classes with the shares p, the first gets 2p²/(1 + p) of the largest p; the second is right as often as a class
    is common, of what it says and of what there is, so that each class has the F1 p, and the weighted mean is the sum
    of the p².

    Args:
        support: clips of each class, at least one in all.

    >>> [round(chance(clips), 4) for clips in ([10, 10, 10, 10, 10, 10], [80, 20])]
    [0.1667, 0.7111]
    """
    shares = np.array(support) / sum(support)
    always = 2 * shares.max() ** 2 / (1 + shares.max())
    return float(max(always, np.square(shares).sum()))

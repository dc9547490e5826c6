"""Whether a round may stand: out of fold it may fall below another by what is noise, no more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mer_ray.evaluation.metrics import paired_noise, waf


@dataclass(frozen=True)
class Comparison:
    """Two predictions of the same labelled clips, both out of fold.

    Attributes:
        waf: of the one that is judged.
        baseline: WAF of the other.
        noise: standard error of the difference, see ``compare``.
    """

    waf: float
    baseline: float
    noise: float

    @property
    def gain(self) -> float:
        """By how much the one is better, in WAF; negative where it is worse."""
        return self.waf - self.baseline


def compare(
    truth: NDArray[np.int64],
    one: NDArray[np.int64],
    other: NDArray[np.int64],
    held_out: NDArray[np.int64],
    seed: int,
    speakers: NDArray[np.int64] | None = None,
) -> Comparison:
    """Compare two predictions, paired over folds.

    The noise is the standard error of the difference in WAF by a jackknife that leaves out one fold at a time: a fold
    holds whole speakers, whose clips rise and fall together. Of few folds it comes out near 0 by chance, so it counts
    as no less than the standard error of a paired bootstrap, over speakers where they are known, else over clips.

    Args:
        truth: int64 (n,), of the labelled clips.
        one: what is judged.
        other: what it is compared with.
        held_out: int64 (n,), the fold of each clip.
        seed: of the bootstrap.
        speakers: int64 (n,), who speaks in each clip; None where that is not known of all.
    """
    kept = [held_out != fold for fold in np.unique(held_out)]
    without_F = np.array([waf(truth[rows], one[rows]) - waf(truth[rows], other[rows]) for rows in kept])
    num_folds = len(without_F)
    jackknife = float(np.sqrt((num_folds - 1) * np.var(without_F)))
    noise = max(jackknife, paired_noise(truth, one, other, seed, speakers))
    return Comparison(waf(truth, one), waf(truth, other), noise)

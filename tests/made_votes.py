"""Votes whose sums are exact in floating point, so that brute force and array code agree on every tie."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mer_ray import registry
from mer_ray.mining.base import Context


def exact(cuts_KNX, abstains_KN):
    """Probabilities (K, N, C) in eighths from C - 1 cuts of 0..8 each; NaN where a learner abstains."""
    edges = [np.zeros_like(cuts_KNX[..., :1]), np.sort(cuts_KNX, axis=2), np.full_like(cuts_KNX[..., :1], 8)]
    votes_KNC = np.diff(np.concatenate(edges, axis=2), axis=2) / 8
    votes_KNC[abstains_KN] = np.nan
    return votes_KNC


def random(num_learners, num_clips, num_classes, seed=0, abstain=0.2):
    rng = np.random.default_rng(seed)
    cuts = rng.integers(0, 9, (num_learners, num_clips, num_classes - 1))
    return exact(cuts, rng.random((num_learners, num_clips)) < abstain)


@st.composite
def votes(draw):
    """Of 1..5 learners, 0..6 clips, 2..4 classes."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(0, 6)), draw(st.integers(2, 4)) - 1)
    cuts = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 8)))
    return exact(cuts, draw(hnp.arrays(np.bool_, shape[:2])))


def mean_of(votes_KNC, clip):
    """Mean probabilities of one clip over the learners that vote, or None."""
    voting = [votes[clip].tolist() for votes in votes_KNC if not np.isnan(votes[clip]).any()]
    return [sum(column) / len(voting) for column in zip(*voting, strict=True)] if voting else None


def classes_of(votes_KNC, clip):
    """The class that each voting learner predicts for one clip, the lowest of equal ones."""
    voting = [votes[clip].tolist() for votes in votes_KNC if not np.isnan(votes[clip]).any()]
    return [row.index(max(row)) for row in voting]


def select(strategy, votes_KNC, options=None, **told):
    """What a strategy adopts, as pairs of clip and class; classes are equally common unless said otherwise."""
    votes_KNC = np.asarray(votes_KNC, dtype=float)
    chosen = registry.build("mining", strategy, options or {}).select(votes_KNC, context(votes_KNC, **told))
    return list(zip(chosen.clip.tolist(), chosen.label.tolist(), strict=True))


def context(votes_KNC, prior=None, round_number=0):
    """What a strategy is told beside the votes."""
    num_classes = np.shape(votes_KNC)[2]
    prior = np.full(num_classes, 1 / num_classes) if prior is None else np.array(prior, dtype=float)
    return Context(round_number, prior)


def leading(votes_KNC, clip):
    """The class of most votes of one clip, the likelier and then the lower of equals, and its votes; or None."""
    said, mean = classes_of(votes_KNC, clip), mean_of(votes_KNC, clip)
    if not said:
        return None
    label = max(range(len(mean)), key=lambda c: (said.count(c), mean[c], -c))
    return label, said.count(label)

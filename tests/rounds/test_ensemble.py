from collections import Counter

import made_votes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_ray.rounds.ensemble import combine, mode

PRIOR = np.array([0.2, 0.5, 0.2, 0.1])


def drop_last(said, ranking):
    """P1, figure 4, in words: ``said`` is the class of each learner that votes."""
    left = list(ranking)
    while left:
        top = Counter(said[learner] for learner in left if learner in said).most_common(2)
        if top and (len(top) == 1 or top[0][1] > top[1][1]):
            return top[0][0]
        left.pop()
    return None


def voting(votes_KNC, clip):
    return [k for k in range(len(votes_KNC)) if not np.isnan(votes_KNC[k, clip]).any()]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(made_votes.votes(), st.sampled_from(["mode", "mean"]), st.randoms(use_true_random=False))
def test_it_is_what_brute_force_says(votes_KNC, how, shuffler):
    num_learners, num_clips, num_classes = votes_KNC.shape
    ranking = list(range(num_learners))
    shuffler.shuffle(ranking)
    prior = PRIOR[:num_classes]
    got = combine(how, votes_KNC, ranking, prior)
    assert got.label.shape == got.confidence.shape == (num_clips,)
    for clip in range(num_clips):
        mean = made_votes.mean_of(votes_KNC, clip) or prior.tolist()
        said = dict(zip(voting(votes_KNC, clip), made_votes.classes_of(votes_KNC, clip), strict=True))
        label = drop_last(said, ranking) if how == "mode" and said else mean.index(max(mean))
        assert got.label[clip] == label
        assert got.confidence[clip] == mean[label]
        assert got.probabilities[clip].tolist() == mean


@settings(max_examples=60, deadline=None, derandomize=True)
@given(made_votes.votes(), st.randoms(use_true_random=False))
def test_only_the_rank_of_a_learner_matters_not_its_place(votes_KNC, shuffler):
    order = list(range(len(votes_KNC)))
    shuffler.shuffle(order)
    prior = PRIOR[: votes_KNC.shape[2]]
    here = combine("mode", votes_KNC, range(len(order)), prior)
    moved = combine("mode", votes_KNC[np.argsort(order)], order, prior)
    np.testing.assert_array_equal(here.label, moved.label)


@pytest.mark.parametrize(
    ("said", "ranking", "label"),
    [
        ([0, 1, 1, 1], [0, 1, 2, 3], 1),
        ([0, 0, 1, 1], [0, 1, 2, 3], 0),
        ([0, 0, 1, 1], [3, 2, 0, 1], 1),
        ([0, 1, 2, 3], [2, 0, 1, 3], 2),
        ([0, 1, 1, 2], [0, 3, 1, 2], 1),
        ([-1, 1, 2, -1], [0, 3, 2, 1], 2),
        ([-1, -1, -1, 3], [0, 1, 2, 3], 3),
        ([-1, -1, -1, -1], [0, 1, 2, 3], 9),
    ],
)
def test_the_mode_drops_the_lowest_ranked_until_it_is_unique(said, ranking, label):
    got = mode(np.array(said)[:, None], ranking, np.array([9]))
    assert got.tolist() == [label]


def test_a_clip_on_which_all_abstain_gets_the_prior():
    votes_KNC = np.full((3, 2, 4), np.nan)
    votes_KNC[:, 1] = [0.0, 0.0, 0.25, 0.75]
    for how in ("mode", "mean"):
        got = combine(how, votes_KNC, [0, 1, 2], PRIOR)
        assert got.label.tolist() == [1, 3]
        assert got.confidence.tolist() == [0.5, 0.75]
        assert got.probabilities[0].tolist() == PRIOR.tolist()


def test_mode_and_mean_differ_where_one_learner_is_very_sure():
    votes_KNC = np.array([[[1.0, 0.0]], [[0.375, 0.625]], [[0.375, 0.625]]])
    by_mode = combine("mode", votes_KNC, [0, 1, 2], np.array([0.5, 0.5]))
    by_mean = combine("mean", votes_KNC, [0, 1, 2], np.array([0.5, 0.5]))
    assert (by_mode.label[0], by_mean.label[0]) == (1, 0)
    assert by_mode.confidence[0] == by_mode.probabilities[0, 1] < 0.5


def test_no_clips_give_no_labels():
    got = combine("mode", np.empty((4, 0, 3)), [0, 1, 2, 3], np.full(3, 1 / 3))
    assert got.label.shape == got.confidence.shape == (0,)
    assert got.probabilities.shape == (0, 3)

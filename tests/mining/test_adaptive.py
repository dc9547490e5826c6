from fractions import Fraction

import made_votes
import numpy as np
import pytest
from hypothesis import given, settings


def exactly(votes_KNC):
    """The mean probabilities of the clips that are voted on, by clip."""
    found = {}
    for clip in range(votes_KNC.shape[1]):
        voting = [[Fraction(p) for p in votes[clip]] for votes in votes_KNC if not np.isnan(votes[clip]).any()]
        if voting:
            found[clip] = [sum(column) / len(voting) for column in zip(*voting, strict=True)]
    return found


def freematch(means):
    highest = sum(max(mean) for mean in means.values()) / len(means)
    learnt = [sum(column) / len(means) for column in zip(*means.values(), strict=True)]
    return [highest * share / max(learnt) for share in learnt]


def flexmatch(means, most):
    sure = [mean.index(max(mean)) for mean in means.values() if max(mean) >= most]
    counts = [sure.count(c) for c in range(len(next(iter(means.values()))))]
    greatest = max(*counts, len(means) - len(sure), 1)
    return [most * Fraction(n, greatest) / (2 - Fraction(n, greatest)) for n in counts]


@pytest.mark.parametrize("rule", ["freematch", "flexmatch"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(votes_KNC=made_votes.votes())
def test_it_adopts_what_brute_force_does(votes_KNC, rule):
    means = exactly(votes_KNC)
    most = Fraction(5, 8)
    thresholds = means and (freematch(means) if rule == "freematch" else flexmatch(means, most))
    expected, close = [], []
    for clip, mean in means.items():
        label = mean.index(max(mean))
        bound = min(thresholds[label], most)
        (close if abs(max(mean) - bound) < Fraction(1, 10**9) else expected if max(mean) > bound else []).append(
            (clip, label)
        )
    found = made_votes.select("adaptive", votes_KNC, {"rule": rule, "max_probability": 0.625, "align": False})
    assert set(expected) <= set(found) <= set(expected) | set(close), "what lies on the bound may round either way"


def test_a_class_that_is_learnt_less_is_asked_less():
    often, seldom = [0.9, 0.1], [0.3, 0.7]
    votes_KNC = [[often] * 40 + [seldom] * 8]
    adopted = made_votes.select("adaptive", votes_KNC, {"align": False})
    assert {label for _, label in adopted} == {0, 1}
    assert made_votes.select("threshold", votes_KNC, {"min_probability": 0.85}) == [(clip, 0) for clip in range(40)]


def test_alignment_moves_doubtful_clips_to_the_class_that_is_expected_more():
    votes_KNC = [[[0.9, 0.1]] * 500 + [[0.55, 0.45]] * 500]
    plain = made_votes.select("adaptive", votes_KNC, {"align": False})
    aligned = made_votes.select("adaptive", votes_KNC, prior=[0.5, 0.5])
    assert {label for _, label in plain} == {0}
    assert [label for clip, label in aligned if clip >= 500] == [1] * 500


@pytest.mark.parametrize("rule", ["freematch", "flexmatch"])
def test_the_bounds_hold_for_every_class(rule):
    votes_KNC = [[[0.9, 0.1]] * 5 + [[0.4, 0.6]] * 5]
    assert made_votes.select("adaptive", votes_KNC, {"rule": rule, "min_probability": 0.7, "align": False}) == [
        (clip, 0) for clip in range(5)
    ]

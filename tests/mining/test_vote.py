from fractions import Fraction

import made_votes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_ray.errors import ConfigError


def brute_force(votes_KNC, min_agree, min_share, min_probability):
    num_learners, num_clips = votes_KNC.shape[:2]
    adopted = []
    for clip in range(num_clips):
        said = made_votes.classes_of(votes_KNC, clip)
        if not said:
            continue
        mean = made_votes.mean_of(votes_KNC, clip)
        label, most = made_votes.leading(votes_KNC, clip)
        enough = most >= min(min_agree, num_learners) and Fraction(most, num_learners) >= Fraction(min_share)
        if enough and mean[label] >= min_probability:
            adopted.append((clip, label))
    return adopted


def select(votes_KNC, **options):
    return made_votes.select("vote", votes_KNC, options)


def one_clip(*classes, num_classes=3):
    """One clip; a learner that says None abstains."""
    return [[[np.nan] * num_classes if c is None else np.eye(num_classes)[c].tolist()] for c in classes]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    made_votes.votes(),
    st.integers(1, 5),
    st.sampled_from(["0", "0.2", "0.25", "0.5", "0.6", "0.75", "0.8", "1"]),
    st.integers(0, 8),
)
def test_it_adopts_what_brute_force_does(votes_KNC, min_agree, min_share, eighths):
    options = {"min_agree": min_agree, "min_probability": eighths / 8}
    expected = brute_force(votes_KNC, min_share=min_share, **options)
    assert select(votes_KNC, min_share=float(min_share), **options) == expected


@pytest.mark.parametrize(
    ("said", "adopted"),
    [
        ((1, 1, 1, 1), [(0, 1)]),
        ((1, 1, 2, 1), [(0, 1)]),
        ((1, 1, 2, 0), []),
        ((1, 1, 2, 2), []),
        ((1, None, 1, 1), [(0, 1)]),
        ((1, None, None, 1), []),
        ((1, 1), [(0, 1)]),
        ((1, 2), []),
        ((1,), [(0, 1)]),
        ((1, 1, 2), []),
        ((1, 1, 1, 2, 0), []),
        ((1, 1, 1, 1, 0), [(0, 1)]),
    ],
)
def test_three_of_four_must_agree_and_fewer_learners_all(said, adopted):
    assert select(one_clip(*said)) == adopted


def test_of_equally_many_votes_the_likelier_class_is_taken_then_the_lower():
    lax = {"min_agree": 1, "min_share": 0.0}
    assert select([[[0.75, 0.25, 0.0]], [[0.0, 0.0, 1.0]]], **lax) == [(0, 2)]
    assert select(one_clip(2, 1), **lax) == [(0, 1)]


def test_the_least_probability_is_of_the_class_adopted():
    votes = [[[0.5, 0.25, 0.25]]] * 4
    assert select(votes, min_probability=0.5) == [(0, 0)]
    assert select(votes, min_probability=0.51) == []


@pytest.mark.parametrize("options", [{"min_agree": 0}, {"min_share": 1.5}, {"min_probability": -0.1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        select(one_clip(1), **options)

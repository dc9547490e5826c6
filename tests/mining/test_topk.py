import made_votes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_ray.errors import ConfigError


def brute_force(votes_KNC, k):
    num_clips, num_classes = votes_KNC.shape[1:]
    means = [made_votes.mean_of(votes_KNC, clip) for clip in range(num_clips)]
    labels = [None if mean is None else mean.index(max(mean)) for mean in means]
    adopted = []
    for c in range(num_classes):
        of_class = [clip for clip in range(num_clips) if labels[clip] == c]
        adopted += [(clip, c) for clip in sorted(of_class, key=lambda clip: (-means[clip][labels[clip]], clip))[:k]]
    return sorted(adopted)


def select(votes_KNC, **options):
    return made_votes.select("topk", votes_KNC, options)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(made_votes.votes(), st.integers(1, 4))
def test_it_adopts_what_brute_force_does(votes_KNC, k):
    assert select(votes_KNC, k=k) == brute_force(votes_KNC, k)


def test_a_larger_pool_with_many_ties():
    votes_KNC = made_votes.random(4, 500, 4, seed=5)
    chosen = select(votes_KNC, k=7)
    assert chosen == brute_force(votes_KNC, 7)
    assert np.bincount([label for _, label in chosen]).tolist() == [7] * 4


def test_the_papers_ten_of_each_class_and_the_earlier_of_equals_comes_first():
    votes_KNC = np.eye(2)[np.arange(30) % 2][None].repeat(4, axis=0)
    assert select(votes_KNC) == [(clip, clip % 2) for clip in range(20)]


def test_a_class_with_few_clips_gives_what_it_has():
    assert select([[[1.0, 0.0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]], k=2) == [(0, 0), (1, 0), (3, 1)]


def test_none_of_a_class_is_refused():
    with pytest.raises(ConfigError, match="k"):
        select([[[1.0, 0.0]]], k=0)

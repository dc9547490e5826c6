import made_votes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_ray import registry


def select(votes_KNC, weights=None, **options):
    votes_KNC = np.asarray(votes_KNC, dtype=float)
    return registry.build("mining", "soft", options).select(votes_KNC, made_votes.context(votes_KNC, weights))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(made_votes.votes(), st.sampled_from([0.0, 0.5, 0.75]), st.sampled_from([0.5, 1.0]), st.sampled_from([0, 1, 2]))
def test_it_adopts_what_brute_force_does(votes_KNC, min_share, temperature, power):
    expected = []
    for clip in range(votes_KNC.shape[1]):
        label, votes = made_votes.leading(votes_KNC, clip) or (None, 0)
        share = votes / len(votes_KNC)
        if label is not None and share >= min_share:
            powers = [p ** (1 / temperature) for p in made_votes.mean_of(votes_KNC, clip)]
            expected.append((clip, label, [p / sum(powers) for p in powers], share**power))
    chosen = select(votes_KNC, min_share=min_share, temperature=temperature, power=power)
    assert chosen.clip.tolist() == [clip for clip, *_ in expected]
    assert chosen.label.tolist() == [label for _, label, *_ in expected]
    for place, (_, _, target, weight) in enumerate(expected):
        assert chosen.target[place].tolist() == pytest.approx(target, rel=1e-6)
        assert chosen.weight[place] == pytest.approx(weight, rel=1e-6)


def test_what_fewer_agree_on_counts_less_and_low_temperatures_sharpen():
    votes_KNC = [[[0.8, 0.2], [0.8, 0.2]], [[0.8, 0.2], [0.4, 0.6]]]
    chosen = select(votes_KNC, temperature=1.0)
    assert chosen.weight.tolist() == [1.0, 0.5]
    assert select(votes_KNC, temperature=0.1).target.max() > 0.99 > chosen.target.max()
    assert select(votes_KNC, weights=[0.9, 0.1]).weight[1] == pytest.approx(0.9)

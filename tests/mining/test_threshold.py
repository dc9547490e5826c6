import made_votes
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=200, deadline=None, derandomize=True)
@given(made_votes.votes(), st.integers(0, 8))
def test_it_adopts_what_brute_force_does(votes_KNC, eighths):
    means = [made_votes.mean_of(votes_KNC, clip) for clip in range(votes_KNC.shape[1])]
    expected = [(clip, m.index(max(m))) for clip, m in enumerate(means) if m is not None and max(m) >= eighths / 8]
    assert made_votes.select("threshold", votes_KNC, {"min_probability": eighths / 8}) == expected


def test_the_bound_itself_is_enough_and_learners_count_by_their_weight():
    votes_KNC = [[[1.0, 0.0]], [[0.5, 0.5]]]
    assert made_votes.select("threshold", votes_KNC, {"min_probability": 0.75}) == [(0, 0)]
    assert made_votes.select("threshold", votes_KNC, {"min_probability": 0.76}) == []
    assert made_votes.select("threshold", votes_KNC, {"min_probability": 0.76}, weights=[0.6, 0.4]) == [(0, 0)]

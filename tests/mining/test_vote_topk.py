import made_votes
from hypothesis import given, settings
from hypothesis import strategies as st


def brute_force(votes_KNC, min_agree, k):
    num_learners, num_clips, num_classes = votes_KNC.shape
    agreed = []
    for clip in range(num_clips):
        label, votes = made_votes.leading(votes_KNC, clip) or (None, 0)
        if label is not None and votes >= min(min_agree, num_learners):
            agreed.append((-made_votes.mean_of(votes_KNC, clip)[label], clip, label))
    return sorted((clip, c) for c in range(num_classes) for _, clip, _ in sorted(a for a in agreed if a[2] == c)[:k])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(made_votes.votes(), st.integers(1, 5), st.integers(1, 3))
def test_it_adopts_what_brute_force_does(votes_KNC, min_agree, k):
    options = {"min_agree": min_agree, "min_share": 0.0, "k": k}
    assert made_votes.select("vote_topk", votes_KNC, options) == brute_force(votes_KNC, min_agree, k)


def test_neither_agreement_nor_confidence_alone_is_enough():
    votes_KNC = made_votes.random(4, 400, 3, seed=4)
    both = made_votes.select("vote_topk", votes_KNC, {"k": 5})
    assert both == brute_force(votes_KNC, 3, 5)
    assert len(both) == 15
    assert set(both) < set(made_votes.select("vote", votes_KNC))
    assert both != made_votes.select("topk", votes_KNC, {"k": 5})

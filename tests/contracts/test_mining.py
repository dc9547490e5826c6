"""What every selection strategy must hold (mining/base.py), over every file of the kind."""

import pickle

import made_votes
import numpy as np
import pytest

from mer_ray import registry
from mer_ray.errors import ConfigError

TYPES = [np.int64, np.int64, np.int64, np.float64, np.float32, np.float32]
SHAPES = [(4, 60, 6), (1, 12, 2), (3, 40, 3), (5, 1, 4)]


@pytest.fixture(params=registry.names("mining"))
def strategy(request):
    return registry.build("mining", request.param, {})


@pytest.fixture(params=SHAPES, ids=str)
def votes_KNC(request):
    return made_votes.random(*request.param, seed=1)


def columns(selection):
    return [selection.clip, selection.label, selection.agreement, selection.confidence]


def all_columns(selection):
    return [*columns(selection), selection.target, selection.weight]


def select(strategy, votes_KNC, **told):
    return strategy.select(votes_KNC, made_votes.context(votes_KNC, **told))


def same(one, other):
    return all(a.tobytes() == b.tobytes() for a, b in zip(all_columns(one), all_columns(other), strict=True))


def agreed(num_clips, num_learners=4, num_classes=3):
    """Everybody is sure of everything."""
    return np.eye(num_classes)[np.arange(num_clips) % num_classes][None].repeat(num_learners, axis=0)


def test_it_adopts_what_all_are_sure_of(strategy):
    chosen = select(strategy, agreed(9), round_number=9)
    assert chosen.clip.tolist() == list(range(9))
    assert chosen.label.tolist() == [0, 1, 2] * 3
    assert chosen.agreement.tolist() == [4] * 9
    assert chosen.confidence.tolist() == [1.0] * 9


def test_aligned_arrays_of_the_promised_types(strategy, votes_KNC):
    chosen = select(strategy, votes_KNC)
    assert [column.dtype for column in all_columns(chosen)] == TYPES
    assert len({len(column) for column in all_columns(chosen)}) == 1
    assert chosen.target.shape == (len(chosen.clip), votes_KNC.shape[2])
    np.testing.assert_allclose(chosen.target.sum(axis=1), 1, rtol=1e-6)
    assert (chosen.target >= 0).all()
    assert (chosen.weight > 0).all()
    assert (np.diff(chosen.clip) > 0).all()
    assert np.isin(chosen.clip, np.arange(votes_KNC.shape[1])).all()
    assert np.isin(chosen.label, np.arange(votes_KNC.shape[2])).all()


def test_agreement_and_confidence_are_what_the_votes_say(strategy):
    votes_KNC = made_votes.random(4, 200, 3, seed=2)
    votes_KNC[:, ::9] = agreed(len(votes_KNC[0, ::9]))
    chosen = select(strategy, votes_KNC)
    assert len(chosen.clip) > 5
    for clip, label, agreement, confidence in zip(*columns(chosen), strict=True):
        assert agreement == made_votes.classes_of(votes_KNC, clip).count(label)
        assert confidence == made_votes.mean_of(votes_KNC, clip)[label]


def test_it_is_pure(strategy, votes_KNC):
    before = votes_KNC.copy()
    votes_KNC.setflags(write=False)
    first = select(strategy, votes_KNC)
    select(strategy, agreed(5))
    assert same(select(strategy, votes_KNC), first)
    assert same(select(type(strategy)(strategy.config), votes_KNC), first)
    assert same(select(pickle.loads(pickle.dumps(strategy)), votes_KNC), first)
    assert votes_KNC.tobytes() == before.tobytes()


def test_the_order_of_the_learners_does_not_matter(strategy, votes_KNC):
    chosen = select(strategy, votes_KNC)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(votes_KNC))
        assert same(select(strategy, votes_KNC[order]), chosen)


def test_float32_votes_are_taken(strategy):
    votes_KNC = made_votes.random(4, 60, 6, seed=3)
    assert same(select(strategy, votes_KNC.astype(np.float32)), select(strategy, votes_KNC))


def test_an_empty_pool_gives_nothing(strategy):
    chosen = select(strategy, np.empty((4, 0, 6)))
    assert [len(column) for column in all_columns(chosen)] == [0] * 6
    assert [column.dtype for column in all_columns(chosen)] == TYPES
    assert chosen.target.shape == (0, 6)


def test_a_clip_on_which_all_abstain_is_not_adopted(strategy):
    assert len(select(strategy, np.full((4, 5, 3), np.nan)).clip) == 0
    votes_KNC = agreed(6)
    votes_KNC[:, [1, 4]] = np.nan
    assert select(strategy, votes_KNC, round_number=9).clip.tolist() == [0, 2, 3, 5]


def test_who_abstains_is_left_out_of_agreement_and_confidence(strategy):
    votes_KNC = np.full((4, 3, 3), [0.875, 0.125, 0.0])
    votes_KNC[2] = np.nan
    chosen = select(strategy, votes_KNC, round_number=9, prior=[0.98, 0.01, 0.01])
    assert chosen.clip.tolist() == [0, 1, 2]
    assert chosen.agreement.tolist() == [3] * 3
    assert chosen.confidence.tolist() == [0.875] * 3


def test_an_unknown_option_is_refused_by_name(strategy):
    name = type(strategy).__module__.rpartition(".")[2]
    with pytest.raises(ConfigError, match="no_such_option"):
        registry.build("mining", name, {"no_such_option": 1})

import numpy as np
import pytest

from mer_ray.errors import ConfigError
from mer_ray.mining import base
from mer_ray.rounds import votes

NAMES = ("anger", "joy", "worry")
HELD_OUT = np.arange(600) % 3


def said(num_clips=600, strength=1.5, seed=0, temperature=1.0):
    """Labels, and votes on them that are true probabilities but for the temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_clips, 3)) * strength
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (chances.cumsum(axis=1) > rng.random((num_clips, 1))).argmax(axis=1)
    return labels, votes.temper(chances, temperature)


@pytest.mark.parametrize("wrong", [0.4, 1.0, 2.5])
def test_calibration_finds_the_temperature_that_undoes_what_was_done(wrong):
    labels, oof = said(temperature=wrong)
    temperatures = votes.temperatures(oof, labels, HELD_OUT, 4)
    np.testing.assert_allclose(temperatures, 1 / wrong, rtol=0.25)
    tempered = votes.temper(np.stack([oof] * 4), temperatures[:, None, None])
    np.testing.assert_allclose(tempered[1], votes.temper(oof, temperatures[1]), rtol=1e-6)


def test_what_a_fold_holds_out_does_not_reach_its_own_temperature_or_prior():
    labels, oof = said()
    other = np.where(HELD_OUT == 1, (labels + 1) % 3, labels)
    for before, after in (
        (votes.temperatures(oof, y, HELD_OUT, 4) for y in (labels, other)),
        (votes.priors("labelled", y, HELD_OUT, NAMES, 4) for y in (labels, other)),
    ):
        np.testing.assert_array_equal(before[1], after[1])
        for model in (0, 2, 3):
            assert (before[model] != after[model]).any()


def test_few_clips_and_abstentions_leave_votes_as_they_are():
    labels, oof = said(40, temperature=3.0)
    oof[:15] = np.nan
    temperatures = votes.temperatures(oof[:30], labels[:30], np.arange(30) % 2, 3)
    assert temperatures.tolist() == [1.0, 1.0, 1.0]
    tempered = votes.temper(oof, 3.0)
    assert np.isnan(tempered[:15]).all()
    assert not np.isnan(tempered[15:]).any()


def test_aligned_votes_have_the_shares_expected_over_the_pool_and_others_stay():
    _, oof = said(4000)
    skewed = oof ** np.array([1.0, 0.5, 2.0])
    skewed /= skewed.sum(axis=1, keepdims=True)
    pool = np.arange(4000) >= 50
    pools = np.stack([pool, pool])
    given = np.stack([np.stack([skewed, oof])])
    given[0, 0, 100] = np.nan
    priors = np.array([[0.2, 0.3, 0.5], [1 / 3] * 3])
    aligned = votes.align_pool(given, pools, priors)
    shares = np.nanmean(aligned[0, :, pool], axis=0)
    before = np.nanmean(given[0, :, pool], axis=0)
    assert (np.abs(shares - priors).sum(axis=1) < 0.6 * np.abs(before - priors).sum(axis=1)).all()
    np.testing.assert_array_equal(aligned[..., ~pool, :], given[..., ~pool, :])
    assert np.isnan(aligned[0, 0, 100]).all()
    np.testing.assert_allclose(np.nansum(aligned[0, 0, pool], axis=1)[:50], 1)
    pools[1] &= np.arange(4000) < 2000
    apart = votes.align_pool(given, pools, priors)
    np.testing.assert_array_equal(apart[0, 0], aligned[0, 0])
    np.testing.assert_array_equal(apart[0, 1, 2000:], given[0, 1, 2000:])


def test_a_handful_of_clips_is_hardly_moved():
    few = np.array([[0.9, 0.1]] * 3)
    assert base.align(few, np.array([0.5, 0.5]))[0, 0] > 0.85
    assert base.align(np.repeat(few, 1000, axis=0), np.array([0.5, 0.5]))[0, 0] < 0.52


def test_priors_are_counted_given_or_even():
    labels, held_out = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 0, 1])
    counted = [[2 / 3, 0, 1 / 3], [1 / 3] * 3, [1 / 2, 1 / 6, 1 / 3]]
    assert votes.priors("labelled", labels, held_out, NAMES, 3).tolist() == counted
    assert votes.priors("uniform", labels, held_out, NAMES, 2).tolist() == [[1 / 3] * 3] * 2
    given = votes.priors({"joy": 2.0, "worry": 1.0, "anger": 1.0}, labels, held_out, NAMES, 2)
    assert given.tolist() == [[0.25, 0.5, 0.25]] * 2


@pytest.mark.parametrize(
    "shares", [{"joy": 1.0}, {"joy": 1, "anger": 1, "wory": 1}, dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, -1.0)]
)
def test_shares_that_are_not_of_the_classes_are_refused(shares):
    with pytest.raises(ConfigError, match=r"mining\.prior.*anger, joy, worry"):
        votes.priors(shares, np.array([0, 1]), np.array([0, 1]), NAMES, 2)

import numpy as np
import pytest

from mer_ray.evaluation.metrics import paired_noise, waf
from mer_ray.rounds.guard import compare


def answers(seed, right, num_clips=200, num_classes=4):
    """A truth, and predictions of which about the given shares are right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(num_classes, size=num_clips)
    wrong = (truth + rng.integers(1, num_classes, size=num_clips)) % num_classes
    return truth, [np.where(rng.random(num_clips) < share, truth, wrong) for share in right]


def test_the_same_predictions_differ_by_nothing_and_without_noise():
    truth, (one,) = answers(0, [0.6])
    compared = compare(truth, one, one, np.arange(200) % 5, seed=0)
    assert (compared.gain, compared.noise) == (0.0, 0.0)
    assert compared.waf == waf(truth, one)


def test_the_noise_is_the_jackknife_over_folds_where_clips_of_a_fold_fall_together():
    truth, (one,) = answers(1, [0.7])
    held_out = np.arange(200) % 5
    other = np.where(held_out == 3, (truth + 1) % 4, one)
    without = [waf(truth[held_out != f], one[held_out != f]) - waf(truth[held_out != f], other[held_out != f])
               for f in range(5)]  # fmt: skip
    expected = np.sqrt(4 / 5 * sum((w - np.mean(without)) ** 2 for w in without))
    compared = compare(truth, one, other, held_out, seed=0)
    assert compared.noise == pytest.approx(expected)
    assert compared.noise > 2 * paired_noise(truth, one, other, 0)
    assert compared.gain == pytest.approx(waf(truth, one) - waf(truth, other))


def test_folds_that_agree_by_chance_leave_the_noise_of_the_clips():
    truth, (one, other) = np.tile([0, 1], 40), np.tile([[0, 1, 1, 0], [0, 0, 1, 1]], 20)
    compared = compare(truth, one, other, np.arange(80) // 4 % 2, seed=3)
    assert compared.noise == paired_noise(truth, one, other, 3) > 0


def test_the_noise_is_about_the_spread_of_the_difference_over_data_sets():
    found = [compare(truth, one, other, np.arange(200) % 5, seed) for seed in range(60)
             for truth, (one, other) in [answers(seed, [0.6, 0.6])]]  # fmt: skip
    spread = np.std([compared.gain for compared in found])
    assert np.median([compared.noise for compared in found]) == pytest.approx(spread, rel=0.4)

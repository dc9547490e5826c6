"""Which trial is taken, of trials whose out-of-fold predictions are made up."""

from dataclasses import replace

import made_experiment as made
import numpy as np
import pytest

from mer_ray.learners import folds as folding
from mer_ray.rounds import guard
from mer_ray.tune import choice
from mer_ray.tune.record import Step, Tried

EXPERIMENT, _ = made.make(num_labelled=120, num_pool=10, num_test=10)
TRUTH = EXPERIMENT.labels[EXPERIMENT.labelled]
RNG = np.random.default_rng(0)
ORDER = RNG.permutation(len(TRUTH))


def predicted(num_wrong, shift=0):
    """The truth, but for so many clips."""
    found = TRUTH.copy()
    wrong = np.roll(ORDER, shift)[:num_wrong]
    found[wrong] = (found[wrong] + 1) % len(made.CLASSES)
    return found


def trial(number, oof, state="done"):
    score = guard.waf(TRUTH, oof)
    told = tuple(oof.tolist()) if state == "done" else ()
    return Tried(number, {}, (Step(0, score, score, 0, True),), state, oof=told)


def chosen(*trials):
    compared = choice.compare(EXPERIMENT, 3, trials)
    return choice.best(trials, compared).number, compared


def test_a_gain_within_its_noise_leaves_the_config_as_given():
    best, compared = chosen(trial(0, predicted(40)), trial(1, predicted(38, shift=60)), trial(2, predicted(60)))
    assert 0 < compared[1].gain < compared[1].noise
    assert compared[2].gain < 0
    assert best == 0


def test_of_those_that_gain_beyond_their_noise_the_highest_is_taken_the_first_of_equals():
    given = trial(0, predicted(60))
    best, compared = chosen(given, trial(1, predicted(30)), trial(2, predicted(10)), trial(3, predicted(10)))
    assert all(one.gain > one.noise for one in compared.values())
    assert best == 2


def test_a_higher_trial_of_too_much_noise_is_passed_over_for_one_that_surely_gains():
    sure = predicted(60)
    sure[ORDER[:12]] = TRUTH[ORDER[:12]]
    unsure = predicted(46, shift=60)
    best, compared = chosen(trial(0, predicted(60)), trial(1, sure), trial(2, unsure))
    assert compared[2].gain > compared[1].gain
    assert compared[2].gain < compared[2].noise
    assert best == 1


def test_the_noise_is_that_of_the_paired_difference_over_the_folds_of_the_trials():
    one, other = predicted(30), predicted(45)
    _, compared = chosen(trial(0, other), trial(1, one))
    folds = folding.make(TRUTH, [None] * len(TRUTH), 3, EXPERIMENT.seed)
    assert compared[1] == guard.compare(TRUTH, one, other, folds.held_out, EXPERIMENT.seed)


def test_the_noise_is_over_speakers_where_they_are_known():
    one, other = predicted(30), predicted(45)
    wrong = np.flatnonzero(one != other)
    speakers = np.full(len(EXPERIMENT.labels), "ann")
    speakers[wrong] = "bo"
    known = replace(EXPERIMENT, speakers=tuple(speakers.tolist()))
    told = [choice.compare(experiment, 3, [trial(0, other), trial(1, one)])[1] for experiment in (known, EXPERIMENT)]
    assert told[0].gain == told[1].gain
    assert told[0].noise > told[1].noise


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_trial_that_was_not_mined_to_its_end_is_no_candidate(state):
    best, compared = chosen(trial(0, predicted(60)), trial(1, predicted(5), state), trial(2, predicted(20)))
    assert (best, list(compared)) == (2, [2])


def test_where_the_config_itself_fails_the_highest_is_taken():
    best, compared = chosen(trial(0, predicted(60), "failed"), trial(1, predicted(40)), trial(2, predicted(39)))
    assert (best, compared) == (2, {})

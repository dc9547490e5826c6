"""The study of a search, its trials told by a formula in place of mining."""

import os
import shutil

import made_experiment as made
import pytest

from mer_ray.data.storage import Store
from mer_ray.tune import space
from mer_ray.tune.record import Step
from mer_ray.tune.study import JOURNAL, Suggestions

SETTINGS = made.settings(strategy="vote", options={"min_agree": 2})
SPACE = space.make(SETTINGS, {"mining": {"strategy": ["vote", "topk"]}})
NUM_TRIALS = 12


def search(folder, seed=3, num_trials=NUM_TRIALS):
    """Go on with a search up to so many trials."""
    study = Suggestions(Store(str(folder)), seed, SPACE, SPACE.given(SETTINGS))
    cut = [trial.number for trial in study.tried if trial.state == "running"]
    while cut or len(study.tried) < num_trials:
        trial = study.again(cut.pop()) if cut else study.ask()
        tried = study.tried[trial.number]
        if tried.number % 5 == 3:
            study.failed(trial, "it broke")
            continue
        for number in range(2):
            value = round(tried.values["fit.dropout"] + 0.1 * number, 6)
            step = Step(number, value, value, 12, True)
            if step not in tried.steps:
                study.note(trial, step, seconds=1.5 + number)
        if tried.number % 4 == 2:
            study.stopped(trial)
        else:
            study.done(trial, "0 2 1")
    return study.tried


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, search(folder)


def test_a_study_killed_after_any_entry_ends_as_an_undisturbed_one(done, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    folder, trials = done
    names = sorted(path.name for path in (folder / JOURNAL).glob("*.json"))
    assert len(names) > 5 * NUM_TRIALS
    for kept in range(len(names)):
        cut = tmp_path / str(kept)
        shutil.copytree(folder, cut)
        for name in names[kept:]:
            (cut / JOURNAL / name).unlink()
        assert search(cut) == trials, f"killed after entry {kept}"
        shutil.rmtree(cut)


def test_what_came_of_trials_is_read_as_it_was_told(done):
    _, trials = done
    assert [trial.number for trial in trials] == list(range(NUM_TRIALS))
    first, stopped, failed = trials[0], trials[2], trials[3]
    assert (first.state, first.oof, first.seconds) == ("done", (0, 2, 1), 2.5)
    assert [step.round for step in first.steps] == [0, 1]
    assert first.objective == first.steps[1].objective
    assert (stopped.state, stopped.oof) == ("stopped", ())
    assert (failed.state, failed.reason, failed.objective) == ("failed", "it broke", None)


def test_trial_0_is_the_config_and_the_others_are_drawn(done):
    _, trials = done
    assert trials[0].values == SPACE.given(SETTINGS)
    assert space.apply(SETTINGS, trials[0].values) == SETTINGS
    assert len({tuple(trial.values.items()) for trial in trials}) == NUM_TRIALS
    for trial in trials[1:]:
        assert ("mining.options.k" in trial.values) == (trial.values[space.STRATEGY] == "topk")
        assert all(one.holds(trial.values[one.key]) for one in SPACE.dimensions if one.key in trial.values)


def test_later_suggestions_learn_from_what_trials_came_to(done):
    """The objective is the dropout and a bit: after the first ten, which are drawn blindly, it is drawn higher."""
    more = search(done[0], num_trials=40)
    assert more[:NUM_TRIALS] == done[1]
    drawn = [trial.values["fit.dropout"] for trial in more]
    assert sum(drawn[25:]) / len(drawn[25:]) > sum(drawn[1:10]) / 9 + 0.05


def test_another_seed_draws_others(done, tmp_path):
    assert [trial.values for trial in search(tmp_path, seed=4)][1] != done[1][1].values

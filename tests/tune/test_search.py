"""Searches on real Ray Tune, Optuna and ASHA, of learners small enough for seconds."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import made_experiment as made
import numpy as np
import pytest

from mer_ray.config import MineConfig, TuneConfig
from mer_ray.data.storage import Store
from mer_ray.errors import LearnerError, StorageError
from mer_ray.tune import candidates, search, space
from mer_ray.tune.controller import Controller
from mer_ray.tune.record import Step, Tried

SPACE = {
    "fit": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "hidden": {"choices": [4, 16]}},
    "mining": {
        "strategy": ["vote", "topk"],
        "options": {"k": {"low": 5, "high": 200, "log": True}},
    },
}
EXPERIMENT, _ = made.make(num_labelled=45, num_pool=60, num_test=0, distance=3.0)


def settings(num_trials=5, given=SPACE, **more):
    base = made.settings(rounds=1).model_dump()
    base["fit"] |= {"epochs": 6, "folds": 2}
    base["learners"] = base["learners"][:2]
    return TuneConfig(
        **base,
        # of this seed some trials are stopped and some are not
        search={"num_trials": num_trials, "space": given, "grace_rounds": 0, "reduction": 2, "seed": 2, **more},
    )


def run(folder, chosen=None, on_change=lambda trial, step: None):
    events = []
    found = search.run(
        EXPERIMENT,
        chosen or settings(),
        Store(str(folder)),
        lambda kind, **fields: events.append((kind, fields)),
        on_change,
    )
    return found, events


def told(trials):
    """Trials without the time that they took."""
    return [replace(trial, seconds=0.0) for trial in trials]


@pytest.fixture(scope="module")
def done(ray_cluster, tmp_path_factory):
    """A search of five trials, one after another."""
    folder = tmp_path_factory.mktemp("search")
    return (folder, *run(folder))


def test_trials_are_mined_to_their_end_or_stopped_at_a_rung(done):
    folder, found, events = done
    assert [trial.number for trial in found.trials] == [0, 1, 2, 3, 4]
    assert {trial.state for trial in found.trials} == {"done", "stopped"}
    assert all(bool(trial.oof) == (trial.state == "done") for trial in found.trials)
    assert [fields["trial"] for kind, fields in events if kind == "trial_done"] == [0, 1, 2, 3, 4]
    assert not list(folder.glob("trials/*/rounds")), "learners of trials that have ended fill the disk"


def test_a_trial_is_what_mining_with_its_config_comes_to(done, tmp_path):
    _, found, _ = done
    chosen = space.apply(settings(), found.best.values)
    mined = Controller(EXPERIMENT, chosen, Store(str(tmp_path)), fit=search.fit_here).mine()
    assert [step.oof_waf for step in found.best.steps] == [one.oof_waf for one in mined.rounds]
    assert found.best.objective == mined.last.oof_waf


@pytest.mark.slow
def test_by_auto_what_reads_the_pool_is_searched_and_every_trial_comes_to_its_end(ray_cluster, tmp_path):
    base = settings(num_trials=2, given={"fit": {"dropout": None, "modality_dropout": None}})
    mining = base.mining.model_copy(update={"strategy": "auto"})
    chosen = base.model_copy(update={"mining": mining, "learners": "auto"})
    found, _ = run(tmp_path, chosen)
    assert [trial.state for trial in found.trials] == ["done", "done"]
    first, second = (trial.values for trial in found.trials)
    assert first == {f"mining.options.{name}": value for name, value in candidates.Options().model_dump().items()}
    assert second.keys() == first.keys()
    assert all(second[key] != first[key] for key in first)
    made_of = space.apply(chosen, second)
    mined = Controller(EXPERIMENT, made_of, Store(str(tmp_path / "again")), fit=search.fit_here).mine()
    assert found.trials[1].objective == mined.last.oof_waf


def kill(number, num_steps):
    """The search ends when trial ``number`` has been written down with ``num_steps`` steps; None: as ended."""

    def on_change(trial, step):
        if trial.number == number and (
            trial.state != "running" if num_steps is None else len(trial.steps) == num_steps
        ):
            raise StorageError("the disk is full")

    return on_change


def test_trial_0_is_the_config_as_given_mined_to_its_end_whatever_the_others_come_to(done, tmp_path):
    _, found, _ = done
    chosen = settings()
    mined = Controller(EXPERIMENT, chosen, Store(str(tmp_path)), fit=search.fit_here).mine()
    first = found.trials[0]
    assert space.apply(chosen, first.values) == MineConfig(**{k: getattr(chosen, k) for k in MineConfig.model_fields})
    assert first.state == "done"
    assert first.objective == mined.last.oof_waf
    assert list(first.oof) == mined.last.mean.label[EXPERIMENT.labelled].tolist()


def test_asha_stops_what_falls_behind_but_never_trial_0():
    def stopped(number):
        behind = [Tried(5 + i, {}, (Step(0, 0.9, 0.9, 1, True),), "done") for i in range(4)]
        scheduler = search._halving(settings(), behind)
        trial = SimpleNamespace(trial_id="this", config={"number": number})
        scheduler.on_trial_add(None, trial)
        told = [scheduler.on_trial_result(None, trial, {"rung": 1, "objective": 0.1})]
        told.append(scheduler.on_trial_result(None, trial, {"rung": 2, "objective": 0.1, "oof": "0"}))
        return told

    assert stopped(7)[0] == "STOP"
    assert stopped(0) == ["CONTINUE", "STOP"]


@pytest.mark.slow
def test_a_search_killed_at_any_state_ends_as_an_undisturbed_one(done, tmp_path):
    for where in ((0, 1), (1, None), (3, 1)):
        with pytest.raises(StorageError, match="the disk is full"):
            run(tmp_path, on_change=kill(*where))
    again, _ = run(tmp_path)
    assert told(again.trials) == told(done[1].trials)


def test_a_finished_search_tries_nothing_and_a_longer_one_goes_on(done, tmp_path):
    folder, found, _ = done
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    again, events = run(tmp_path)
    assert again.trials == found.trials
    assert events == []
    more, events = run(tmp_path, settings(num_trials=6))
    assert more.trials[:5] == found.trials
    assert [fields["trial"] for _, fields in events] == [5]


@pytest.mark.slow
def test_what_is_damaged_is_tried_again_and_comes_to_the_same(done, tmp_path):
    folder, found, _ = done
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    entries = sorted((tmp_path / "trials/journal").glob("*.json"))
    entry = next(path for path in entries if json.loads(path.read_text())["entry"].get("trial_id") == 3)
    entry.write_text("{")
    again, events = run(tmp_path)
    assert told(again.trials) == told(found.trials)
    assert [fields["trial"] for _, fields in events] == [3, 4]


@pytest.mark.slow
def test_several_at_once_try_as_many_and_each_comes_to_what_its_values_do(done, tmp_path):
    _, found, _ = done
    several, _ = run(tmp_path, settings(concurrent=2))
    assert [trial.number for trial in several.trials] == [0, 1, 2, 3, 4]
    alone = {tuple(trial.values.items()): trial.steps for trial in found.trials}
    shared = [trial for trial in several.trials if tuple(trial.values.items()) in alone]
    assert len(shared) >= 2, "the first suggestions are made from nothing"
    for trial in shared:
        steps = alone[tuple(trial.values.items())]
        assert all(one == other for one, other in zip(trial.steps, steps, strict=False))


@pytest.mark.slow
def test_a_trial_that_fails_is_told_and_the_others_go_on(ray_cluster, tmp_path):
    given = {**SPACE, "fit": {"learning_rate": {"choices": [1e-2, 1e38]}, "hidden": 4}}
    found, _ = run(tmp_path, settings(num_trials=3, given=given))
    failed = [trial for trial in found.trials if trial.values["fit.learning_rate"] > 1]
    assert failed
    assert all(trial.state == "failed" and "LearnerError" in trial.reason for trial in failed)
    assert found.best.values["fit.learning_rate"] == 1e-2
    again, events = run(tmp_path, settings(num_trials=3, given=given))
    assert (again.trials, events) == (found.trials, []), "what has failed is not tried again"


@pytest.mark.slow
def test_a_search_none_of_whose_trials_came_to_its_end_says_why(ray_cluster, tmp_path):
    chosen = settings(num_trials=1)
    broken = chosen.model_copy(update={"fit": chosen.fit.model_copy(update={"learning_rate": 1e38})})
    with pytest.raises(LearnerError, match=r"none of 1 trials came to its end \(trial 0: LearnerError"):
        run(tmp_path, broken)


CHANGES = {
    "speakers": lambda e, s: (replace(e, speakers=tuple("ab"[row % 2] for row in range(len(e.labels)))), s),
    "classes": lambda e, s: (replace(e, class_names=("anger", "joy", "fear")), s),
    "valence": lambda e, s: (replace(e, valence=np.where(e.labels == 0, 1.0, e.valence).astype(np.float32)), s),
    "epochs": lambda e, s: (e, s.model_copy(update={"fit": s.fit.model_copy(update={"epochs": 7})})),
}
NO_CHANGES = {
    "memory": lambda e, s: (e, s.model_copy(update={"fit": s.fit.model_copy(update={"memory_bytes": 1})})),
    "cpus": lambda e, s: (e, s.model_copy(update={"search": s.search.model_copy(update={"cpus": 2})})),
}


@pytest.mark.parametrize("change", [*CHANGES, *NO_CHANGES])
def test_what_trials_depend_on_begins_another_search_and_nothing_else_does(tmp_path, monkeypatch, change):
    """No trial is tried here: a search opens its folder first."""
    monkeypatch.setattr(search, "_tune", lambda *given: None)
    valence = np.where(EXPERIMENT.labels >= 0, EXPERIMENT.labels, np.nan).astype(np.float32)
    base = settings()
    before = (
        replace(EXPERIMENT, valence=valence),
        base.model_copy(update={"fit": base.fit.model_copy(update={"valence": 1.0})}),
    )
    events = []
    for experiment, chosen in (before, (CHANGES | NO_CHANGES)[change](*before)):
        with pytest.raises(LearnerError, match="none of 0 trials"):
            search.run(experiment, chosen, Store(str(tmp_path)), lambda kind, **fields: events.append(kind))
    assert events == (["trials_moved_aside"] if change in CHANGES else [])


@pytest.mark.slow
def test_another_space_is_another_search(done, tmp_path):
    folder: Path = done[0]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with pytest.raises(StorageError):
        run(tmp_path, settings(given={**SPACE, "mining": {"strategy": "vote"}}), kill(0, 1))
    assert len(list(tmp_path.glob("trials.*/journal/000000.json"))) == 1

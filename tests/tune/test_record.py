import json

import pytest

from mer_ray.data.storage import Store
from mer_ray.tune import record
from mer_ray.tune.record import Step, Tried

STEPS = (Step(0, 0.5, 0.5, 12, True), Step(1, 0.4, 0.5, 0, False))
TRIALS = [
    Tried(0, {"fit.dropout": 0.1234567890123456, "mining.strategy": "vote"}, (), STEPS, "done", seconds=1.5),
    Tried(1, {"fit.hidden": 64, "mining.calibrate": True}, (0,), STEPS[:1], "stopped"),
    Tried(2, {"fit.hidden": 32}, (0, 1), (), "failed", "LearnerError: it broke"),
]


@pytest.fixture
def store(tmp_path):
    store, _ = record.open_trials(Store(str(tmp_path)), "one")
    for trial in TRIALS:
        record.save(store, trial)
    return store


def test_what_is_saved_is_loaded_to_the_bit(store):
    assert record.load(store) == TRIALS
    assert [trial.objective for trial in TRIALS] == [0.5, 0.5, None]


@pytest.mark.parametrize("damage", ["cut", "altered", "gone"])
def test_the_record_ends_before_a_damaged_trial(store, damage):
    text = store.read("0001/trial.json").decode()
    if damage == "gone":
        store.remove("0001/trial.json")
    else:
        store.write("0001/trial.json", (text[:50] if damage == "cut" else text.replace("0.5", "0.6")).encode())
    assert record.load(store) == TRIALS[:1]


def test_the_trials_of_another_search_are_moved_aside_whole(store, tmp_path):
    run_dir = Store(str(tmp_path))
    assert record.open_trials(run_dir, "one")[1] is None
    _, moved = record.open_trials(run_dir, "two")
    assert moved == "trials.one"
    assert record.load(run_dir / moved) == TRIALS
    assert record.load(run_dir / "trials") == []
    assert json.loads(run_dir.read("trials/search.json")) == {"digest": "two"}

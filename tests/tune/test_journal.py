"""The journal by itself, and as Optuna's storage."""

import json
import pickle
import threading

import optuna
import pytest
from optuna.storages import JournalStorage

from mer_ray.data.storage import Store
from mer_ray.tune import journal
from mer_ray.tune.journal import StoreJournal

ENTRIES = [{"op_code": number, "value": 0.1 + number, "who": "Zoë"} for number in range(5)]


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "journal"))
    StoreJournal(store).append_logs(ENTRIES)
    return store


def test_what_is_appended_is_read_from_any_number_by_any_reader(store):
    log, other = StoreJournal(store), StoreJournal(store)
    assert [list(log.read_logs(number)) for number in (0, 3, 5)] == [ENTRIES, ENTRIES[3:], []]
    other.append_logs([{"more": 1}])
    assert list(log.read_logs(5)) == list(pickle.loads(pickle.dumps(log)).read_logs(5)) == [{"more": 1}]


def test_of_writers_at_once_none_loses_an_entry(store):
    def write(writer):
        log = StoreJournal(store)
        for number in range(10):
            log.append_logs([{"writer": writer, "number": number}])

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = list(StoreJournal(store).read_logs(len(ENTRIES)))
    assert len(found) == 40
    for writer in range(4):
        assert [one["number"] for one in found if one["writer"] == writer] == list(range(10))


@pytest.mark.parametrize("damage", ["cut", "altered", "gone"])
def test_a_journal_ends_before_a_damaged_entry_and_goes_on_from_there(store, damage):
    name = journal.name_of(2)
    text = store.read(name).decode()
    if damage == "gone":
        store.remove(name)
    else:
        store.write(name, (text[:20] if damage == "cut" else text.replace("2.1", "2.2")).encode())
    log = StoreJournal(store)
    assert list(log.read_logs(0)) == ENTRIES[:2]
    assert len(store.files("damaged")) == (2 if damage == "gone" else 3), "what was written is not thrown away"
    log.append_logs([{"more": 1}])
    assert list(StoreJournal(store).read_logs(0)) == [*ENTRIES[:2], {"more": 1}]


def test_an_entry_is_json_that_a_person_can_read(store):
    assert json.loads(store.read("000003.json"))["entry"] == ENTRIES[3]


def test_a_study_in_it_is_the_one_in_memory(tmp_path):
    def objective(trial):
        value = trial.suggest_float("x", -1, 1) + trial.suggest_categorical("y", [None, True, 3])
        trial.report(value, 0)
        return value

    def study(storage):
        sampler = optuna.samplers.RandomSampler(seed=1)
        made = optuna.create_study(storage=storage, sampler=sampler, study_name="one", load_if_exists=True)
        made.optimize(objective, n_trials=4, catch=TypeError)
        return [(trial.state, trial.params, trial.intermediate_values) for trial in made.trials]

    told = study(JournalStorage(StoreJournal(Store(str(tmp_path)))))
    assert told == study(None)
    again = optuna.load_study(storage=JournalStorage(StoreJournal(Store(str(tmp_path)))), study_name="one")
    assert [(trial.state, trial.params, trial.intermediate_values) for trial in again.trials] == told

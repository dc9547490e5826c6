import json

from mer_ray.data.storage import Store
from mer_ray.tune import record


def test_the_trials_of_another_search_are_moved_aside_whole(tmp_path):
    run_dir = Store(str(tmp_path))
    store, moved = record.open_trials(run_dir, "one")
    store.write("journal/000000.json", b"{}")
    assert moved is None
    assert record.open_trials(run_dir, "one")[1] is None
    _, moved = record.open_trials(run_dir, "two")
    assert moved == "trials.one"
    assert (run_dir / moved).read("journal/000000.json") == b"{}"
    assert (run_dir / "trials").files("journal") == []
    assert json.loads(run_dir.read("trials/search.json")) == {"digest": "two"}

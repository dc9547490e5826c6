"""Beside a GPU a task loads and prepares each batch before its actor takes it."""

import pickle

import cloudpickle
import pyarrow as pa
from made_stages import LengthStage

from mer_ray.data.storage import Store
from mer_ray.data.table import Table
from mer_ray.runtime import materialise
from mer_ray.runtime.batches import Batch
from mer_ray.runtime.worker import Worker


def test_what_a_task_prepared_is_what_the_actor_works_on(tmp_path, monkeypatch):
    stage = LengthStage(tmp_path)
    table = Table(Store(str(tmp_path / "tables")), stage.name, stage.schema, stage.spec)
    batch = Batch(("a", "b"), ("1", "2"), {"clip": ({"text": "four"}, {"text": "seven77"})})
    worker = cloudpickle.dumps(Worker(stage, table, {}, "session", 3))
    rows = materialise._prepare(pa.table({"batch": [pickle.dumps(batch)]}), worker)
    prepared = materialise._payload(rows)
    assert prepared is not None
    assert prepared["clip_id"].to_pylist() == ["a", "b"]
    actor = materialise._Actor(worker)
    monkeypatch.setattr(actor.worker, "load", lambda batch: None)  # nothing is left for it to load
    assert actor(rows)["rows"].to_pylist() == [2]
    refs = table.index({"a": "1", "b": "2"})
    assert table.take([refs["a"], refs["b"]], ["letters"])["letters"].to_pylist() == [4, 7]

import pickle
from types import SimpleNamespace

import pyarrow as pa
import pytest

from mer_ray.benchmarks import extract_ray
from mer_ray.benchmarks.extract_ray import TimedStage
from mer_ray.benchmarks.scale import NothingStage

BATCH = pa.table({"clip_id": ["a", "b"]})


class Slow(NothingStage):
    """Takes 100 s to load, 3 to prepare a batch, 20 to process the first and 5 each other one."""

    now = 0

    def setup(self):
        Slow.now += 100 * 10**9
        self.is_cold = True

    def prepare(self, batch):
        Slow.now += 3 * 10**9
        return batch

    def process(self, batch):
        Slow.now += (20 if self.is_cold else 5) * 10**9
        self.is_cold = False
        return super().process(batch)


@pytest.fixture
def made(monkeypatch, tmp_path):
    monkeypatch.setattr(extract_ray, "time", SimpleNamespace(time_ns=lambda: Slow.now))
    Slow.now = 10**18
    return TimedStage(Slow(2), tmp_path, warm=BATCH)


def test_loading_and_warming_up_are_outside_in_an_actor_that_prepares_for_itself(made):
    made.setup()
    for _ in range(3):
        assert made.process(made.prepare(BATCH))["clip_id"].to_pylist() == ["a", "b"]
    assert made.seconds(Slow.now, num_cpus=2) == 3 * (3 + 5)


def test_they_are_outside_where_tasks_prepare_while_the_actor_loads(made):
    task, actor = (pickle.loads(pickle.dumps(made)) for _ in range(2))
    first, second = task.prepare(BATCH), task.prepare(BATCH)
    actor.setup()
    actor.process(first)
    actor.process(second)
    assert actor.seconds(Slow.now, num_cpus=16) == 3 + 5 + 5


def test_preparing_that_took_longer_than_the_model_is_not_hidden_by_loading_it(made):
    prepared = [made.prepare(BATCH) for _ in range(10)]
    made.setup()
    for batch in prepared:
        made.inner.process(batch)
    made.process(BATCH)
    assert made.seconds(Slow.now, num_cpus=2) == 10 * 3 / 2

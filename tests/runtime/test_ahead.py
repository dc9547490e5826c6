"""Beside a GPU a task loads and prepares each batch before its actor takes it."""

import pickle
import subprocess
import sys
from dataclasses import asdict

import cloudpickle
import pyarrow as pa
import pytest
import ray
from made_steps import step_of

from mer_ray.data.rows import Keys, Refs
from mer_ray.runtime import stream
from mer_ray.runtime.batches import Work
from mer_ray.runtime.worker import Worker
from mer_ray.stages.base import Resources


def test_what_a_task_prepared_is_what_the_actor_works_on(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "get", lambda chunk: chunk)  # which is at hand, without a cluster
    step = step_of(tmp_path, {"a": "four", "b": "seven77"})
    worker = cloudpickle.dumps(Worker(step.stage, step.table, {}, "session", 3))
    keys = Keys.of(step.keys)
    work = Work(keys, Refs(keys.ids), 2, ("clip",), step.clips, {})
    chunks = {0: work.chunk(0)}
    rows = stream._prepare(pa.Table.from_pylist([asdict(work.range(0)) | {"faults": 0}]), worker, chunks)
    prepared = stream._payload(stream._told(rows)[0])
    assert prepared is not None
    assert prepared["clip_id"].to_pylist() == ["a", "b"]
    actor = stream._Actor(worker, chunks)
    monkeypatch.setattr(actor.worker, "load", lambda batch: None)  # nothing is left for it to load
    assert [len(pickle.loads(done).refs) for done in actor(rows)["done"].to_pylist()] == [2]
    refs = step.table.index(step.keys)
    assert step.table.take([refs["a"], refs["b"]], ["letters"])["letters"].to_pylist() == [4, 7]


def test_of_batches_handed_over_together_none_is_begun_after_the_first_second(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "get", lambda chunk: chunk)
    step = step_of(tmp_path, {name: "x" for name in "abcd"})
    keys = Keys.of(step.keys)
    work = Work(keys, Refs(keys.ids), 1, ("clip",), step.clips, {})
    actor = stream._Actor(cloudpickle.dumps(Worker(step.stage, step.table, {}, "session", 3)), {0: work.chunk(0)})
    rows = pa.Table.from_pylist([asdict(work.range(number)) | {"faults": 0} for number in range(4)])
    assert [pickle.loads(done).is_begun for done in actor(rows.slice(0, 2))["done"].to_pylist()] == [True, True]
    monkeypatch.setattr(stream, "_TOGETHER_SECONDS", -1.0)
    assert [pickle.loads(done).is_begun for done in actor(rows.slice(2))["done"].to_pylist()] == [True, False]


def test_a_pool_begins_with_all_that_may_come_within_its_bounds(monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4, "memory": 8e9})
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    state = stream.global_state
    monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: {"CPU": 32, "GPU": 8}, raising=False)

    def sizes(**resources):
        pool = stream._pool(Resources(**resources), 99, 0)
        return pool.min_size, pool.initial_size, pool.max_size

    assert sizes() == (1, 32, 99)
    assert sizes(gpus=1.0) == (1, 8, 99)
    assert sizes(min_actors=2, max_actors=5) == (2, 5, 5)
    assert sizes(memory_bytes=3 * 10**9) == (1, 2, 99), "as many as the memory holds"
    monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: None, raising=False)
    assert sizes() == (1, 4, 99), "a cluster that does not grow"


@pytest.mark.parametrize(
    ("cluster", "gpus", "expected"),
    [
        ({"CPU": 16, "GPU": 1}, 0.0, (0, 16)),
        ({"CPU": 16, "GPU": 4}, 0.5, (1, 8)),
        ({"CPU": 3, "GPU": 4}, 0.5, (1, 2)),
        ({"CPU": 2, "GPU": 1}, 1.0, (1, 1)),
        ({"CPU": 1, "GPU": 1}, 1.0, (0, 1)),
        ({"CPU": 1}, 1.0, (1, 1)),
        ({}, 1.0, (1, 1)),
    ],
    ids=["no GPU", "by GPUs", "by CPUs", "side by side", "alone", "GPUs to come", "an empty cluster"],
)
def test_actors_leave_a_cpu_to_what_prepares_for_them_where_both_fit(monkeypatch, cluster, gpus, expected):
    """The CPUs of what works ahead, and how many actors begin."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: cluster)
    resources = Resources(batch_size=1, gpus=gpus)
    ahead = stream._ahead_cpus(resources, cluster)
    assert (ahead, stream._pool(resources, 99, ahead).initial_size) == expected


SCRIPT = """
import sys

import ray
from mer_ray.benchmarks import scale
from mer_ray.data.storage import Store
from mer_ray.stages.base import Resources

ray.init(address="local", num_cpus=int(sys.argv[1]), num_gpus=1, include_dashboard=False, log_to_driver=False)
scale.Resources = lambda batch_size, max_actors: Resources(batch_size=batch_size, gpus=0.5)
print(scale.Steps(1, 100, 16).make(Store(sys.argv[2]))["nothing_0"].rows_made)
"""


@pytest.mark.slow
@pytest.mark.parametrize("num_cpus", ["1", "2"])
def test_a_step_beside_a_gpu_ends_on_few_cpus(num_cpus, tmp_path):
    """Ray takes our word for the GPU; actors leave a CPU to the tasks that prepare for them, or prepare themselves."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, num_cpus, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "100"

"""How busy workers were, from what they tell of their batches."""

from mer_ray.runtime.stream import Done
from mer_ray.runtime.usage import Usage


def usage(*batches, prepared=(0.0, 0)):
    found = Usage()
    for worker, started, ended in batches:
        seconds, num_bytes = prepared
        times = (started, ended)
        found.add(Done(0, worker=worker, times=times, prepared_seconds=seconds, prepared_bytes=num_bytes))
    return found


def test_the_busy_share_is_of_the_time_between_a_worker_s_first_batch_and_its_last():
    found = usage(("a", 100.0, 102.0), ("b", 0.0, 4.0), ("a", 106.0, 108.0))
    assert found.figures(gpus=0) == {"busy_share": round(8 / 12, 3)}
    assert usage().figures(gpus=1) == {}


def test_a_worker_waits_from_its_last_batch_to_the_next():
    found = usage(("a", 100.0, 102.0))
    assert found.add(Done(0, worker="a", times=(105.0, 106.0))) == 3.0
    assert found.add(Done(0, worker="b", times=(7.0, 9.0))) == 0.0, "its first"


def test_cpus_that_keep_a_gpu_busy_are_told_where_tasks_work_ahead():
    found = usage(("a", 0.0, 1.0), ("a", 1.0, 2.0), prepared=(3.0, 10))
    assert found.figures(gpus=0.5) == {"busy_share": 1.0, "cpus_per_gpu": 6.0}
    assert "cpus_per_gpu" not in found.figures(gpus=0)


def test_batches_that_the_store_does_not_hold_are_told_of():
    found = usage(("a", 0.0, 1.0), ("b", 0.0, 1.0), prepared=(1.0, 100 * 2**20))
    assert found.short_of(800 * 2**20) is None
    assert "takes 100 MiB" in found.short_of(799 * 2**20)
    assert "800 of Ray's object store, which has 799" in found.short_of(799 * 2**20)

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from mer_ray.errors import ClipError, NoMemoryFault, Reason, StorageError
from mer_ray.stages.isolate import isolate


def test_a_good_batch_is_one_call():
    calls = []
    assert isolate(lambda xs: calls.append(list(xs)) or [x + 1 for x in xs], [1, 2, 3]) == [2, 3, 4]
    assert calls == [[1, 2, 3]]


def test_only_the_item_at_fault_is_lost_with_type_and_message():
    def invert(xs):
        return [1 / x for x in xs]

    results = isolate(invert, [1, 2, 0, 4, 5])
    assert [results[i] for i in (0, 1, 3, 4)] == [1.0, 0.5, 0.25, 0.2]
    assert results[2].reason is Reason.FAILED
    assert "ZeroDivisionError: division by zero" in results[2].detail


def test_a_clip_error_keeps_its_reason_and_memory_its_own():
    def picky(xs):
        if "bad" in xs:
            raise ClipError(Reason.TOO_SHORT, "told to")
        if "big" in xs and len(xs) > 1:
            raise MemoryError
        return list(xs)

    results = isolate(picky, ["a", "bad", "big", "b"])
    assert results[0::2] == ["a", "big"]
    assert results[1].reason is Reason.TOO_SHORT
    with pytest.raises(NoMemoryFault):
        isolate(lambda xs: (_ for _ in ()).throw(MemoryError()), ["x"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_dead_device_is_found_after_any_exception():
    """In a process of its own, which is lost."""
    script = """
import torch
from mer_ray.errors import MachineFault
from mer_ray.stages.isolate import isolate
def asserts(xs):
    torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")]
    raise ValueError("something else")
torch.zeros(1, device="cuda")
try:
    isolate(asserts, ["x"])
except MachineFault as fault:
    print("fault:", fault)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "fault: " in done.stdout, done.stderr


def test_an_exception_beside_a_device_that_lives_is_the_clip_s(monkeypatch):
    asked = []
    alive = SimpleNamespace(
        zeros=lambda *size, device: SimpleNamespace(add_=asked.append),
        cuda=SimpleNamespace(is_initialized=lambda: True, synchronize=lambda: asked.append("waited")),
    )
    monkeypatch.setitem(sys.modules, "torch", alive)
    (error,) = isolate(lambda xs: [1 / 0], ["x"])
    assert error.reason is Reason.FAILED
    assert asked == [1, "waited"]


def test_a_failing_storage_is_no_clips_fault():
    def read(xs):
        raise StorageError("the bucket is gone")

    with pytest.raises(StorageError):
        isolate(read, [1, 2])


def test_a_function_that_loses_items_is_found_out():
    with pytest.raises(AssertionError, match="1 results for 2 items"):
        isolate(lambda xs: xs[:1], [1, 2])
    assert isolate(lambda xs: 1 / 0, []) == []

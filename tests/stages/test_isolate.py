import pytest

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


def test_a_failing_storage_is_no_clips_fault():
    def read(xs):
        raise StorageError("the bucket is gone")

    with pytest.raises(StorageError):
        isolate(read, [1, 2])


def test_a_function_that_loses_items_is_found_out():
    with pytest.raises(AssertionError, match="1 results for 2 items"):
        isolate(lambda xs: xs[:1], [1, 2])
    assert isolate(lambda xs: 1 / 0, []) == []

"""Run functions over clips so that a bad one costs itself alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mer_ray.errors import ClipError, Reason, StorageError

T = TypeVar("T")
R = TypeVar("R")


def attempt(function: Callable[[T], R], item: T) -> R | ClipError:
    """``function(item)``, or the error it raised; one that is no ``ClipError`` becomes ``Reason.FAILED``.

    Raises:
        StorageError: passed on; no clip is to blame.
    """
    try:
        return function(item)
    except StorageError:
        raise
    except ClipError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything; it is recorded with the clip
        reason = Reason.OUT_OF_MEMORY if isinstance(error, MemoryError) else Reason.FAILED
        return ClipError(reason, f"{type(error).__name__}: {error}"[:500])


def isolate(function: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R | ClipError]:
    """A batched function's result for each item, or the error of the item at fault.

    The whole batch is tried first. When that raises, it is halved until the items at fault stand alone, which is also
    what helps a GPU that is out of memory.

    Raises:
        StorageError: passed on; no item is to blame.

    >>> isolate(lambda xs: [1 / x for x in xs], [2, 0, 4])[::2]
    [0.5, 0.25]
    """
    if not items:
        return []
    results = attempt(function, items)
    if not isinstance(results, ClipError):
        if len(results) != len(items):
            raise AssertionError(f"{len(results)} results for {len(items)} items")
        return [*results]
    if len(items) == 1:
        return [results]
    middle = len(items) // 2
    return isolate(function, items[:middle]) + isolate(function, items[middle:])

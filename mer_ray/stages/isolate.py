"""Run functions over clips so that a bad one costs itself alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from mer_ray.errors import ClipError, MachineFault, NoMemoryFault, Reason, machine_fault

T = TypeVar("T")
R = TypeVar("R")


def attempt(function: Callable[[T], R], item: T) -> R | ClipError:
    """``function(item)``, or the error it raised; one that is no ``ClipError`` becomes ``Reason.FAILED``.

    Raises:
        MachineFault: no clip is to blame, see ``errors.machine_fault``.
    """
    try:
        return function(item)
    except ClipError as error:
        return error
    except Exception as error:
        if fault := machine_fault(error) or dead_device():
            raise fault from error
        return ClipError(Reason.FAILED, f"{type(error).__name__}: {error}"[:500])


def dead_device() -> MachineFault | None:
    """That the GPU of this process answers no more: an exception of its may come late, and look like another."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        torch.zeros(1, device="cuda").add_(1)
        torch.cuda.synchronize()
    except RuntimeError as error:
        return MachineFault(f"the GPU answers no more: {error}")
    return None


def isolate(function: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R | ClipError]:
    """A batched function's result for each item, or the error of the item at fault.

    The whole batch is tried first. When that raises, it is halved until the items at fault stand alone, which is also
    what helps where memory is short, a GPU's or the machine's.

    Raises:
        MachineFault: no item is to blame, see ``errors.machine_fault``.

    >>> isolate(lambda xs: [1 / x for x in xs], [2, 0, 4])[::2]
    [0.5, 0.25]
    """
    if not items:
        return []
    try:
        results = attempt(function, items)
        if not isinstance(results, ClipError):
            if len(results) != len(items):
                raise AssertionError(f"{len(results)} results for {len(items)} items")
            return [*results]
        if len(items) == 1:
            return [results]
    except NoMemoryFault:
        if len(items) == 1:
            raise
    middle = len(items) // 2
    return isolate(function, items[:middle]) + isolate(function, items[middle:])

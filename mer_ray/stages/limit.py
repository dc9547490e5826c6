"""The time limit of a batch, and of the clip that is worked on now: what hangs ends its process."""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_STDERR = 2


@dataclass
class _Limit:
    """What holds in this process now: when the batch must be done, and how long one clip may take."""

    deadline: float
    clip_seconds: float


_active: list[_Limit] = []


@contextmanager
def time_limit(seconds: float, clip_seconds: float) -> Iterator[None]:
    """End this process, with a trace of every thread on standard error, when the body takes longer than ``seconds``.

    The timer is a thread of C, which fires though a library hangs and holds the interpreter's lock.

    Args:
        seconds: that the body may take.
        clip_seconds: that a clip may, where ``one_by_one`` goes through them.
    """
    _active.append(_Limit(time.monotonic() + seconds, clip_seconds))
    _arm(seconds)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        _active.pop()


def one_by_one(clips: Iterable[T]) -> Iterator[T]:
    """The clips of a batch for a body that does each before it asks for the next: each has its own time limit.

    So a clip that hangs costs the time of one, not of the whole batch.
    """
    for clip in clips:
        if _active:
            _arm(min(_active[-1].clip_seconds, _left(_active[-1])))
        yield clip
    if _active:
        _arm(_left(_active[-1]))


def _left(limit: _Limit) -> float:
    """Seconds until the batch must be done; a timer of none would never fire."""
    return max(0.001, limit.deadline - time.monotonic())


def _arm(seconds: float) -> None:
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)

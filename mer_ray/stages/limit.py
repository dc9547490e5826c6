"""The time limit of a batch, and of the clip that is worked on now: what hangs ends its process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from mer_ray.data.alarm import ALARM

T = TypeVar("T")


@dataclass
class _Limit:
    """What holds in this process now: when the batch must be done, and how long one clip may take."""

    deadline: float
    clip_seconds: float


_active: list[_Limit] = []


@contextmanager
def time_limit(seconds: float, clip_seconds: float) -> Iterator[None]:
    """End this process when the body takes longer than ``seconds``; time that it waits for storage does not count.

    Args:
        seconds: that the body may take.
        clip_seconds: that a clip may, where ``one_by_one`` goes through them.
    """
    _active.append(_Limit(ALARM.now() + seconds, clip_seconds))
    ALARM.arm(seconds)
    try:
        yield
    finally:
        ALARM.arm(None)
        _active.pop()


def one_by_one(clips: Iterable[T]) -> Iterator[T]:
    """The clips of a batch for a body that does each before it asks for the next: each has its own time limit.

    So a clip that hangs costs the time of one, not of the whole batch.
    """
    for clip in clips:
        if _active:
            ALARM.arm(min(_active[-1].clip_seconds, _left(_active[-1])))
        yield clip
    if _active:
        ALARM.arm(_left(_active[-1]))


def _left(limit: _Limit) -> float:
    """Seconds until the batch must be done."""
    return limit.deadline - ALARM.now()

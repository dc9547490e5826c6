"""How far the fit is that runs here: told by what fits, heard by whoever asked. Without a listener nothing is done."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listen = Callable[[float, str], object]
"""Takes the share that is done, 0..1, and what is being done, as ``epoch 3 of 40``."""

_LOG = logging.getLogger(__name__)


class _Listener:
    """Hears at most every so often, and no longer once it has failed: a lost message is no reason to lose a fit."""

    def __init__(self, listen: Listen, seconds: float) -> None:
        self.listen: Listen | None = listen
        self.seconds = seconds
        self.next = 0.0

    def hear(self, share: float, what: str) -> None:
        now = time.monotonic()
        if self.listen is None or now < self.next:
            return
        self.next = now + self.seconds
        try:
            self.listen(share, what)
        except Exception as error:  # noqa: BLE001 - whatever a listener dies of
            self.listen = None
            _LOG.warning("progress is no longer told: %s", error)


_LISTENER: ContextVar[_Listener | None] = ContextVar("progress", default=None)


@contextmanager
def heard(listen: Listen, seconds: float = 0.0) -> Iterator[None]:
    """Have ``listen`` told of fits in the block, at most once in so many seconds."""
    token = _LISTENER.set(_Listener(listen, seconds))
    try:
        yield
    finally:
        _LISTENER.reset(token)


def tell(share: float, what: str) -> None:
    """Say how far it is.

    >>> with heard(lambda share, what: print(share, what)):
    ...     tell(0.5, "epoch 21 of 40")
    0.5 epoch 21 of 40
    """
    listener = _LISTENER.get()
    if listener is not None:
        listener.hear(share, what)

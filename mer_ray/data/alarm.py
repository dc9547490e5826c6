"""A timer that ends this process, and stands still while the storage is waited for: that is no clip's time.

Storage that is away for longer than a clip may take would otherwise end each process that asks it, and the clips that
they worked on would look as if they hung.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2
_SOONEST_SECONDS = 0.001  # a timer of none would never fire


class _Alarm:
    """The process has one, since ``faulthandler`` has one timer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due: float | None = None
        self._num_waits = 0
        self._since = 0.0
        self._waited = 0.0

    def now(self) -> float:
        """Seconds of a clock that stands still while the storage is waited for."""
        ticked = time.monotonic() - self._waited
        return ticked - (time.monotonic() - self._since) if self._num_waits else ticked

    def arm(self, seconds: float | None) -> None:
        """End the process so many seconds from now, with a trace of every thread on standard error; None: never.

        The timer is a thread of C, which fires though a library hangs and holds the interpreter's lock.
        """
        with self._lock:
            faulthandler.cancel_dump_traceback_later()
            self._due = None if seconds is None else self.now() + seconds
            self._start()

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """For the block the clock stands; several threads may be in one."""
        with self._lock:
            if not self._num_waits:
                self._since = time.monotonic()
                if self._due is not None:
                    faulthandler.cancel_dump_traceback_later()
            self._num_waits += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_waits -= 1
                if not self._num_waits:
                    self._waited += time.monotonic() - self._since
                    self._start()

    def _start(self) -> None:
        if self._due is not None and not self._num_waits:
            faulthandler.dump_traceback_later(max(_SOONEST_SECONDS, self._due - self.now()), exit=True, file=_STDERR)


ALARM = _Alarm()

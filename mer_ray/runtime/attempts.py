"""Durable records of what is in flight, so that work that kills its worker is found out.

A batch that is begun leaves a record until its part is committed. A batch whose records pile up has killed its
workers: it is halved, and a single clip that goes on killing is quarantined. Records of an earlier session are mostly
batches that were in flight when the driver was killed, through no fault of theirs; the first few are forgiven.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from mer_ray.data.storage import Store

_FOLDER = "_attempts"
_HALVED = "halved"
_FORGIVEN_SESSIONS = 3


@dataclass(frozen=True, slots=True)
class Deaths:
    """How often a batch was begun and not finished, and whether the last time ran into its time limit."""

    count: int
    timed_out: bool


class Attempts:
    """The records of one table, written by one session (one start of a driver).

    Args:
        store: the table's folder.
        session: a name that differs between starts.
    """

    def __init__(self, store: Store, session: str) -> None:
        self.store = store
        self.session = session

    def begin(self, batch: str, limit_seconds: float) -> None:
        """Record that ``batch`` is begun and may take ``limit_seconds``; durable when this returns."""
        record = f"{self.session}.{uuid.uuid4().hex[:8]}"
        deadline = time.time() + limit_seconds
        self.store.write(f"{_FOLDER}/{batch}/{record}", f"{deadline}".encode())

    def end(self, batch: str) -> None:
        """Forget the attempts at ``batch``: it is committed, or failed in a way that needs no record."""
        self.store.remove(f"{_FOLDER}/{batch}")

    def halve(self, batch: str) -> None:
        """Record that ``batch`` is done in halves from here on; this record stays, so that it is never done whole."""
        self.store.write(f"{_FOLDER}/{batch}/{_HALVED}", b"")

    def is_halved(self, batch: str) -> bool:
        """Whether ``batch`` is done in halves."""
        return self.store.exists(f"{_FOLDER}/{batch}/{_HALVED}")

    def deaths(self, batch: str) -> Deaths:
        """The attempts at ``batch`` that were begun and not ended."""
        records = [record for record in self.store.files(f"{_FOLDER}/{batch}") if record != _HALVED]
        own = [record for record in records if record.startswith(f"{self.session}.")]
        earlier_sessions = {record.split(".")[0] for record in records} - {self.session}
        count = len(own) + max(0, len(earlier_sessions) - _FORGIVEN_SESSIONS)
        timed_out = False
        if own:
            timed_out = time.time() >= float(self.store.read(f"{_FOLDER}/{batch}/{own[-1]}"))
        return Deaths(count, timed_out)

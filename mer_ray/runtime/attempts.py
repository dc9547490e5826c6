"""Durable records of what is in flight, so that work that kills its worker is found out.

A batch that is begun leaves a record until its part is committed. A batch whose records pile up has killed its
workers: it is halved, and a single clip that goes on killing is quarantined. Records of an earlier session are mostly
batches that were in flight when the driver was killed, through no fault of theirs; the first few are forgiven. So is a
death on a node that is gone: it took its workers with it. Where a node ran short of memory, of all processes that were
ended for it only the one that had grown is to blame.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from mer_ray.data.storage import Store
from mer_ray.errors import MachineFault, Reason

_FOLDER = "_attempts"
_LOADING = "_loading"
_LONGEST_LOAD_SECONDS = 3600.0
_HALVED = "halved"
_FORGIVEN_SESSIONS = 3
_GROWN = 1.5
"""Of what it had when the batch began, a process that the batch has made grow has so much."""
_MOST_SPARED = 16
"""So often a batch's process is ended for what others take; after that it is no accident."""


@dataclass(frozen=True, slots=True)
class Deaths:
    """How often a batch was begun and not finished, and what the last of these says of a clip alone in it."""

    count: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class MemoryKill:
    """How a process stood when it was ended because its node ran short of memory.

    Attributes:
        used_bytes: what it had to itself.
        is_largest: whether no worker of the node had more.
    """

    used_bytes: float
    is_largest: bool


class Attempts:
    """The records of one table, written by one session (one start of a driver).

    Args:
        store: the table's folder.
        session: a name that differs between starts.

    Attributes:
        process: the name of the process that this is in; empty where nobody asks.
        memory_kill: tells of a process by its name whether it was ended for memory; None where nobody knows.
    """

    process: str = ""
    memory_kill: Callable[[str], MemoryKill | None] | None = None

    def __init__(self, store: Store, session: str) -> None:
        self.store = store
        self.session = session

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Record, for the block, that a worker loads its models."""
        record = f"{_LOADING}/{self.session}.{uuid.uuid4().hex[:8]}"
        self.store.write(record, f"{time.time()}".encode())
        try:
            yield
        finally:
            self.store.remove(record)

    def is_loading(self) -> bool:
        """Whether some worker of this session loads its models, and has not for longer than anything takes to load."""
        since = time.time() - _LONGEST_LOAD_SECONDS
        own = [name for name in self.store.files(_LOADING) if name.startswith(f"{self.session}.")]
        return any(float(self.store.read(f"{_LOADING}/{name}")) > since for name in own)

    def begin(self, batch: str, limit_seconds: float, node: str = "") -> str:
        """Record that ``batch`` is begun and may take ``limit_seconds``; durable when this returns its name."""
        record = f"{self.session}.{uuid.uuid4().hex[:8]}"
        own = {"node": node, "process": self.process, "own_bytes": _own_bytes()}
        self._write(batch, record, {**own, "deadline": time.time() + limit_seconds})
        return record

    def no_memory(self, batch: str, record: str, node: str = "") -> None:
        """Let the record of a batch that is begun tell that it ran out of memory, and stay."""
        self._write(batch, record, {"node": node, "no_memory": True})

    def end(self, batch: str) -> None:
        """Forget the attempts at ``batch``: it is committed, or failed in a way that needs no record."""
        self.store.remove(f"{_FOLDER}/{batch}")

    def forget(self, batch: str, record: str) -> None:
        """Forget one attempt at ``batch``, for which it is not to blame; earlier ones still count."""
        self.store.remove(f"{_FOLDER}/{batch}/{record}")

    def halve(self, batch: str) -> None:
        """Record that ``batch`` is done in halves from here on; this record stays, so that it is never done whole."""
        self.store.write(f"{_FOLDER}/{batch}/{_HALVED}", b"")

    def is_halved(self, batch: str) -> bool:
        """Whether ``batch`` is done in halves."""
        return self.store.exists(f"{_FOLDER}/{batch}/{_HALVED}")

    def deaths(self, batch: str, living: Collection[str] | None = None) -> Deaths:
        """The attempts at ``batch`` that were begun and not ended.

        Args:
            batch: its name.
            living: the nodes that are there; of this session's attempts those on others do not count. None: all count.

        Raises:
            MachineFault: its process was ended again and again for the memory that others took.
        """
        names = [name for name in self.store.files(f"{_FOLDER}/{batch}") if name != _HALVED]
        earlier_sessions = {name.split(".")[0] for name in names} - {self.session}
        told = [self._read(batch, name) for name in names if name.startswith(f"{self.session}.")]
        here = [one for one in told if living is None or one["node"] in living]
        own = [one for one in here if not self._is_spared(one)]
        if len(here) - len(own) > _MOST_SPARED:
            raise MachineFault(
                f"the node ran short of memory and ended the worker of a batch {len(here) - len(own)} times, which had "
                "not grown: too much runs there at once. Give the step memory_bytes or fewer actors, or larger nodes"
            )
        reason = Reason.CRASHED
        if any(one.get("no_memory") or self._memory_kill(one) for one in own):
            reason = Reason.OUT_OF_MEMORY
        elif own and time.time() >= max(one["deadline"] for one in own):
            reason = Reason.TIMEOUT
        return Deaths(len(own) + max(0, len(earlier_sessions) - _FORGIVEN_SESSIONS), reason)

    def _memory_kill(self, attempt: Mapping[str, Any]) -> MemoryKill | None:
        process = attempt.get("process")
        return self.memory_kill(process) if process and self.memory_kill else None

    def _is_spared(self, attempt: Mapping[str, Any]) -> bool:
        """Whether its process was ended for memory that another had taken."""
        kill = self._memory_kill(attempt)
        return kill is not None and not (kill.is_largest and kill.used_bytes > _GROWN * attempt["own_bytes"])

    def _write(self, batch: str, record: str, told: dict[str, Any]) -> None:
        self.store.write(f"{_FOLDER}/{batch}/{record}", json.dumps(told).encode())

    def _read(self, batch: str, record: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.store.read(f"{_FOLDER}/{batch}/{record}"))
        return found


def _own_bytes() -> int:
    """What this process has to itself: not the object store, which it shares."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))

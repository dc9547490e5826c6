"""Records of what is in flight, so that work that kills its worker is found out.

A batch that is begun leaves a record. A batch whose records pile up, and no part comes of them, has killed its workers:
it is halved, and a single clip that goes on killing is quarantined. Records of an earlier session are mostly batches
that were in flight when the driver was killed, through no fault of theirs; the first few are forgiven. So is a death on
a node that is gone: it took its workers with it. Where a node ran short of memory, of all processes that were ended for
it only the one that had grown is to blame.

The first record of a batch has a name that is put if absent, so that whoever begins a batch knows by the same request
whether anybody did before. Records stay until their step is done, and go together.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from mer_ray.data.storage import Store
from mer_ray.errors import MachineFault, Reason, StorageError

_FOLDER = "_attempts"
_LOADING = "_loading"
_LONGEST_LOAD_SECONDS = 3600.0
_HALVED, _FIRST = "halved", "first"
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
            self.store.unlink(record)

    def is_loading(self) -> bool:
        """Whether some worker of this session loads its models, and has not for longer than anything takes to load."""
        since = time.time() - _LONGEST_LOAD_SECONDS
        own = [name for name in self.store.files(_LOADING) if name.startswith(f"{self.session}.")]
        return any(float(self.store.read(f"{_LOADING}/{name}")) > since for name in own)

    def begin_first(self, batch: str, limit_seconds: float, node: str = "") -> str | None:
        """As ``begin``, for a batch that was not begun before; None where it was, which writes nothing."""
        told = self._told(node, limit_seconds)
        return _FIRST if self.store.put_if_absent(f"{_FOLDER}/{batch}/{_FIRST}", told) else None

    def begin(self, batch: str, limit_seconds: float, node: str = "") -> str:
        """Record that ``batch`` is begun and may take ``limit_seconds``; it is written when this returns its name."""
        record = f"{self.session}.{uuid.uuid4().hex[:8]}"
        self.store.write(f"{_FOLDER}/{batch}/{record}", self._told(node, limit_seconds))
        return record

    def no_memory(self, batch: str, record: str, node: str = "") -> None:
        """Let the record of a batch that is begun tell that it ran out of memory."""
        self.store.write(f"{_FOLDER}/{batch}/{record}", self._told(node, no_memory=True))

    def clear(self) -> None:
        """Forget all attempts: the step is done."""
        with suppress(StorageError):  # another driver may write there; what stays blames nobody whose part is there
            self.store.remove(_FOLDER)

    def forget(self, batch: str, record: str) -> None:
        """Forget one attempt at ``batch``, for which it is not to blame; earlier ones still count."""
        self.store.unlink(f"{_FOLDER}/{batch}/{record}")

    def halve(self, batch: str) -> None:
        """Record that ``batch`` is done in halves from here on; this record stays, so that it is never done whole."""
        self.store.write(f"{_FOLDER}/{batch}/{_HALVED}", b"")

    def is_halved(self, batch: str) -> bool:
        """Whether ``batch`` is done in halves."""
        return self.store.exists(f"{_FOLDER}/{batch}/{_HALVED}")

    def deaths(self, batch: str, living: Collection[str] | None = None, forgiven: int = 0) -> Deaths:
        """The attempts at ``batch``, of which no part came.

        Args:
            batch: its name.
            living: the nodes that are there; of this session's attempts those on others do not count. None: all count.
            forgiven: so many of those that do not tell that they ran out of memory do not count either.

        Raises:
            MachineFault: its process was ended again and again for the memory that others took.
        """
        names = [name for name in self.store.files(f"{_FOLDER}/{batch}") if name != _HALVED]
        told = [self._read(batch, name) for name in names]
        earlier_sessions = {one["session"] for one in told} - {self.session}
        here = [one for one in told if one["session"] == self.session and (living is None or one["node"] in living)]
        own = [one for one in here if not self._is_spared(one)]
        if len(here) - len(own) > _MOST_SPARED:
            raise MachineFault(
                f"the node ran short of memory and ended the worker of a batch {len(here) - len(own)} times, which had "
                "not grown: too much runs there at once. Give the step memory_bytes or fewer actors, or larger nodes"
            )
        without_memory = sum(one["no_memory"] or self._memory_kill(one) is not None for one in own)
        reason = Reason.CRASHED
        if without_memory:
            reason = Reason.OUT_OF_MEMORY
        elif own and time.time() >= max(one["deadline"] for one in own):
            reason = Reason.TIMEOUT
        others = max(0, len(own) - without_memory - forgiven)
        return Deaths(without_memory + others + max(0, len(earlier_sessions) - _FORGIVEN_SESSIONS), reason)

    def _told(self, node: str, limit_seconds: float = 0.0, no_memory: bool = False) -> bytes:
        told = {"session": self.session, "node": node, "process": self.process, "own_bytes": _own_bytes()}
        return json.dumps({**told, "deadline": time.time() + limit_seconds, "no_memory": no_memory}).encode()

    def _read(self, batch: str, record: str) -> dict[str, Any]:
        """A record; one that an older version left tells less."""
        less = {"session": record.partition(".")[0], "node": "", "process": "", "own_bytes": 0}
        less |= {"deadline": 0.0, "no_memory": False}
        return {**less, **json.loads(self.store.read(f"{_FOLDER}/{batch}/{record}"))}

    def _memory_kill(self, attempt: Mapping[str, Any]) -> MemoryKill | None:
        process = attempt["process"]
        return self.memory_kill(process) if process and self.memory_kill else None

    def _is_spared(self, attempt: Mapping[str, Any]) -> bool:
        """Whether its process was ended for memory that another had taken."""
        kill = self._memory_kill(attempt)
        return kill is not None and not (kill.is_largest and kill.used_bytes > _GROWN * attempt["own_bytes"])


def _own_bytes() -> int:
    """What this process has to itself: not the object store, which it shares."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))

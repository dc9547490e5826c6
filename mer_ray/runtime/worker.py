"""What an actor does with a batch: load its inputs, run the stage under guard, commit the part. No Ray in here.

Order of events for one batch: a record of the attempt, the work, the part put if absent. Killed anywhere, the batch is
begun again by whoever finds it without a part. A batch that nobody began before costs two requests to the table's
storage, and one for each part that it reads.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from mer_ray.data.alarm import ALARM
from mer_ray.data.rows import RowRef
from mer_ray.data.table import Table
from mer_ray.errors import ClipError, CorruptPartError, MachineFault, MerRayError, NoMemoryFault, Reason, machine_fault
from mer_ray.runtime.attempts import Attempts
from mer_ray.runtime.batches import Batch
from mer_ray.runtime.sight import Sight
from mer_ray.stages.base import Stage, as_struct, failed
from mer_ray.stages.isolate import dead_device
from mer_ray.stages.limit import time_limit

_WHY = {
    Reason.CRASHED: "killed its worker",
    Reason.TIMEOUT: "ran into its time limit",
    Reason.OUT_OF_MEMORY: "had no memory left",
}


@dataclass
class Outcome:
    """What became of a batch.

    Attributes:
        refs: where its rows stand.
        num_bytes: of those made, in memory.
        errors: among them, by reason.
        beside: where rows of other tables stand that were made with them, by table.
    """

    refs: dict[str, RowRef] = field(default_factory=dict)
    num_bytes: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    beside: dict[str, dict[str, RowRef]] = field(default_factory=dict)


class Worker:
    """Runs one stage on batches and commits their rows.

    Args:
        stage: not set up yet.
        table: where the rows go.
        upstream: the tables that the stage reads, by name.
        session: name of the driver's start, see ``Attempts``.
        max_attempts: deaths after which a batch is halved, and a single clip quarantined.

    Attributes:
        node: the node that this is on; empty where nobody asks.
        living: gives the nodes that are there; None where all are.
        sight: what it must see before its first batch.
    """

    node: str = ""
    living: Callable[[], Collection[str]] | None = None
    sight: Sight = Sight()

    def __init__(
        self, stage: Stage, table: Table, upstream: Mapping[str, Table], session: str, max_attempts: int
    ) -> None:
        self.stage = stage
        self.table = table
        self.upstream = upstream
        self.attempts = Attempts(table.store, session)
        self.max_attempts = max_attempts
        self._is_set_up = False
        self._faults = 0

    def setup(self) -> None:
        """Set the stage up, unless that is done.

        Raises:
            MachineFault: this node, which may have come since the others were asked, does not see what it works with.
        """
        if not self._is_set_up:
            self.sight.look(self.stage.name)
            with self.attempts.loading():
                self.stage.setup()
            self._is_set_up = True

    def run(self, batch: Batch, prepared: pa.Table | None = None, faults: int = 0) -> Outcome:
        """Make and commit the rows of ``batch``.

        Args:
            batch: the clips.
            prepared: their inputs after ``Stage.prepare``, when a task has done that already.
            faults: how often the machine failed it before: so many attempts that came to nothing blame no clip.

        Raises:
            MachineFault: the machine failed, or a table cannot be read or written; no clip is blamed, and what is
                committed stays.
        """
        self.setup()
        outcome = Outcome()
        self._faults = faults
        self._run(batch, prepared, outcome, deaths_allowed=self.max_attempts)
        return outcome

    @ALARM.standing_still()
    def load(self, batch: Batch) -> pa.Table:
        """The stage's input for ``batch``: ``clip_id`` and a struct column for each name that the stage reads."""
        columns: dict[str, pa.Array | pa.ChunkedArray] = {"clip_id": pa.array(batch.clip_ids, pa.string())}
        for name, inputs in batch.inputs.items():
            if name in self.upstream:
                columns[name] = as_struct(self.upstream[name].take(inputs))
            else:
                columns[name] = inputs if isinstance(inputs, pa.Array) else pa.array(inputs)
        return pa.table(columns)

    def _run(self, batch: Batch, prepared: pa.Table | None, outcome: Outcome, deaths_allowed: int) -> None:
        name, limit_seconds = batch.name, self.stage.resources.clip_seconds * len(batch)
        record = self.attempts.begin_first(name, limit_seconds, self.node)
        if record is None:
            if (found := self.table.found(batch.clip_ids, batch.keys)) is not None:
                outcome.refs |= found
                return
            if self.attempts.is_halved(name):
                self._run_halves(batch, prepared, outcome)
                return
            deaths = self.attempts.deaths(name, self.living() if self.living else None, self._faults)
            if deaths.count >= deaths_allowed:
                error = ClipError(deaths.reason, f"{_WHY[deaths.reason]} {deaths.count} times")
                self._split(batch, prepared, outcome, error)
                return
            record = self.attempts.begin(name, limit_seconds, self.node)
        try:
            with time_limit(limit_seconds, self.stage.resources.clip_seconds):
                rows = self._process(batch, prepared)
        except Exception as error:
            fault = machine_fault(error) or dead_device()
            if isinstance(fault, NoMemoryFault):
                self._without_memory(batch, prepared, outcome, fault, record)
            elif fault:
                self.forget(name, record)
                raise fault from error
            else:
                self._split(batch, prepared, outcome, _as_clip_error(error))
            return
        try:
            self.commit(batch, rows, outcome)
        except MachineFault:
            self.forget(name, record)
            raise

    def forget(self, name: str, record: str) -> None:
        """Forget an attempt that the machine failed."""
        with contextlib.suppress(MachineFault):  # then the driver, who hears of the fault, forgives one attempt more
            self.attempts.forget(name, record)

    def _process(self, batch: Batch, prepared: pa.Table | None) -> pa.Table:
        rows = self.stage.process(self.stage.prepare(self.load(batch)) if prepared is None else prepared)
        if rows["clip_id"].to_pylist() != list(batch.clip_ids):
            raise AssertionError(f"stage {self.stage.name} did not return the clips it was given, in their order")
        return rows

    def _without_memory(
        self, batch: Batch, prepared: pa.Table | None, outcome: Outcome, fault: NoMemoryFault, record: str
    ) -> None:
        """Halve a batch that may be too large; a clip alone is tried in another process before it is blamed.

        Raises:
            NoMemoryFault: the clip was alone.
        """
        if len(batch) == 1:
            self.attempts.no_memory(batch.name, record, self.node)
            raise fault
        self._split(batch, prepared, outcome, ClipError(Reason.OUT_OF_MEMORY, str(fault)))

    def _split(self, batch: Batch, prepared: pa.Table | None, outcome: Outcome, error: ClipError) -> None:
        """Halve a batch that fails as a whole, down to the clip at fault, which is quarantined with ``error``."""
        if len(batch) == 1:
            self.commit(batch, self.stage.rows_to_table([failed(batch.clip_ids[0], error)]), outcome)
            return
        self.attempts.halve(batch.name)
        self._run_halves(batch, prepared, outcome)

    def _run_halves(self, batch: Batch, prepared: pa.Table | None, outcome: Outcome) -> None:
        start = 0
        for half in batch.halves():
            part = None if prepared is None else prepared.slice(start, len(half))
            self._run(half, part, outcome, deaths_allowed=1 if len(half) > 1 else self.max_attempts)
            start += len(half)

    def commit(self, batch: Batch, rows: pa.Table, outcome: Outcome) -> None:
        """Put the rows of a batch; ``outcome`` tells where they stand, or those that were there before.

        Raises:
            StorageError: they cannot be put.
        """
        refs = self._put(batch, rows) or self._put(batch, rows)  # again where a damaged part was in the way
        if refs is None:
            raise CorruptPartError(f"{self.table.store.path(batch.name)} is damaged, and was moved to _corrupt/")
        outcome.refs |= refs
        outcome.num_bytes += rows.nbytes
        outcome.errors.update(error for error in rows["error"].to_pylist() if error)

    def _put(self, batch: Batch, rows: pa.Table) -> dict[str, RowRef] | None:
        """Where the rows stand, put now or there before; None where those before were damaged, and are set aside."""
        refs = self.table.commit(rows, batch.keys, self.stage.provenance)
        return self.table.found(batch.clip_ids, batch.keys) if refs is None else refs


def _as_clip_error(error: Exception) -> ClipError:
    if isinstance(error, ClipError):
        return error
    if type(error).__name__ == "OutOfMemoryError":
        return ClipError(Reason.OUT_OF_MEMORY, "a batch of this clip alone does not fit in memory")
    message = str(error) if isinstance(error, MerRayError) else f"{type(error).__name__}: {error}"
    return ClipError(Reason.FAILED, message[:500])

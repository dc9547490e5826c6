"""Make the missing rows of a step's table, on Ray Data.

The driver cuts the missing rows into batches; each travels as a few numbers to an actor, which finds its rows in an
object that all share, commits its part by itself and sends back where its rows stand. For a stage on GPUs tasks load
and decode the batches ahead of the actors. What the machine failed is done again, see ``make_batches``; clips are
blamed by ``worker`` alone.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from mer_ray.config import RuntimeConfig
from mer_ray.data.retries import Retries
from mer_ray.data.rows import Keys, Refs
from mer_ray.data.table import Table
from mer_ray.errors import CorruptPartError, MachineFault, MaterialiseError
from mer_ray.runtime import metrics
from mer_ray.runtime.batches import Batch, Work
from mer_ray.runtime.session import least_store_bytes
from mer_ray.runtime.sight import Sight
from mer_ray.runtime.stream import Done, Fault, Stalled, stream
from mer_ray.runtime.usage import Usage
from mer_ray.runtime.worker import Worker
from mer_ray.stages.base import Stage
from mer_ray.types import Clip

_FIRST_WAIT_SECONDS = 2.0
_ALL = -1
"""Stands for a batch's number where a fault ended all batches at once."""
_START_SECONDS = 600.0
"""What a process may take to start on a machine that is busy; loading models counts as progress, see ``attempts``."""
_OUTAGE = 8
"""After so many faults in a row it is not one process or node that is ill."""
_TOGETHER, _FEW = 8, 64
"""Batches that are handed to an actor at once, unless they are few, until one of them is found to take long."""
_REMEMBER_SECONDS = 300.0
"""How often what was made is written to the table's index, for whoever comes after a kill."""


@dataclass(frozen=True)
class Step:
    """A stage, its table, and what it reads.

    Attributes:
        stage: what makes the rows.
        table: where they go.
        keys: the key of each wanted clip, in the order in which clips are to be processed: similar lengths together.
        clips: the manifest's rows by id, for stages that read ``clip``.
        retries: which of the rows are made anew, as ``keys`` have it.
    """

    stage: Stage
    table: Table
    keys: Mapping[str, str]
    clips: Mapping[str, Clip]
    retries: Retries = field(default_factory=Retries)


@dataclass(frozen=True)
class Made:
    """A materialised table: where each clip's row stands, and what making it did.

    Attributes:
        table: the table.
        refs: where the row of each wanted clip stands.
        rows_made: rows made by this run; the others were there.
        errors: errors among the rows made, by reason.
        usage: how busy the workers were, see ``Usage.figures``.
    """

    table: Table
    refs: Refs
    rows_made: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    usage: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Progress:
    """How far a step is; told to the caller after each batch."""

    step: str
    done: int
    total: int
    errors: Counter[str]


def materialise(
    step: Step,
    upstream: Mapping[str, Made],
    runtime: RuntimeConfig,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_corrupt: Callable[[str, str], None] = lambda part, why: None,
    on_fault: Callable[[Fault], None] = lambda fault: None,
    on_note: Callable[[str], None] = lambda note: None,
    sight: Sight | None = None,
) -> Made:
    """Make the rows of ``step.keys`` that its table lacks.

    ``upstream`` holds the tables that the stage reads, by the names in its ``reads``, already materialised.
    ``sight`` is what each worker looks for first.

    A batch that the machine failed is made again in a fresh process, on another node where there is one, after the
    others are done; at most ``runtime.max_machine_faults`` times, with growing waits.

    Raises:
        MaterialiseError: no batch was finished for ``runtime.stall_seconds``, or a worker failed for good.
        MachineFault: a batch met one each time. What is committed stays, and the same call goes on from there.
    """
    step.table.describe()
    step.retries.write(step.table)
    keys = Keys.of(step.keys)
    refs = step.table.index(keys, on_corrupt)
    num_there, work = len(refs), _work(step, keys, refs, upstream)
    progress = Progress(step.stage.name, num_there, len(keys), Counter())
    on_progress(progress)
    if not len(work):
        return Made(step.table, refs)
    tables = {name: made.table for name, made in upstream.items()}
    worker = Worker(step.stage, step.table, tables, uuid.uuid4().hex[:12], runtime.max_attempts)
    worker.sight = sight or worker.sight
    usage, store_bytes, noted = Usage(), least_store_bytes(), False
    remembered = time.monotonic()

    def count(done: Done) -> None:
        nonlocal noted, remembered
        metrics.tell_batch(step.stage.name, done, step.stage.resources.batch_size, usage.add(done))
        if not noted and (note := usage.short_of(store_bytes)):
            noted = True
            on_note(note)
        progress.done += len(done.refs)
        refs.put(done.refs)
        progress.errors.update(done.errors)
        on_progress(progress)
        if time.monotonic() - remembered > _REMEMBER_SECONDS:
            step.table.remember(keys, refs)
            remembered = time.monotonic()

    make_batches(worker, work, runtime, count, on_fault)
    step.table.remember(keys, refs)
    worker.attempts.clear()
    if len(refs) != len(keys):
        missing = [clip_id for clip_id in keys if clip_id not in refs]
        raise MaterialiseError(
            f"step {step.stage.name}: {len(missing)} rows are missing after the run, e.g. {missing[0]}; "
            "give the same command again"
        )
    figures = usage.figures(step.stage.resources.gpus)
    return Made(step.table, refs, len(keys) - num_there, progress.errors, figures)


def make_batches(
    worker: Worker,
    work: Work,
    runtime: RuntimeConfig,
    on_done: Callable[[Done], None],
    on_fault: Callable[[Fault], None],
) -> None:
    """Make all batches; those that the machine failed again, once the others are done.

    Raises:
        CorruptPartError: a part that was read is damaged, and out of sight now.
        MachineFault: one batch met too many.
        MaterialiseError: see ``stream``.
    """
    together = 1 if worker.stage.resources.gpus or len(work) < _FEW else _TOGETHER
    left, stalls = _Left(worker.stage.name, dict.fromkeys(range(len(work)), 0), together), 0
    while left.batches:
        avoided = {fault.node for fault in left.faults.values()}
        if avoided:
            time.sleep(_FIRST_WAIT_SECONDS * 2 ** (max(left.met.values()) - 1))
        left.faults, before = {}, len(left.batches)
        try:
            for done in _pass(worker, work, left, runtime, avoided):
                left.take(done, on_done, on_fault)
        except Stalled:
            stalls += 1
            if stalls > 1:
                raise
        if len(left.batches) < before:
            left.met[_ALL] = 0
        left.count(runtime.max_machine_faults)


@dataclass
class _Left:
    """The batches of a step that are left.

    Attributes:
        step: its name.
        batches: by number, how often the machine failed each.
        together: see ``stream``.
        faults: of the last pass.
        met: how often the machine failed a batch.
    """

    step: str
    batches: dict[int, int]
    together: int
    faults: dict[int, Fault] = field(default_factory=dict)
    met: Counter[int] = field(default_factory=Counter)

    def take(self, done: Done, on_done: Callable[[Done], None], on_fault: Callable[[Fault], None]) -> None:
        """What became of a batch in this pass."""
        if not done.is_begun:
            self.together = 1
            return
        on_done(done)
        if done.fault is None:
            del self.batches[done.batch]
        else:
            self.faults[done.batch] = done.fault
            on_fault(done.fault)

    def count(self, most: int) -> None:
        """See whether any batch met too many faults; see ``make_batches``."""
        self.met.update(self.faults.keys())
        for number, fault in self.faults.items():
            if fault.damaged:
                raise CorruptPartError(fault.what, fault.damaged)
            if self.met[number] > most:
                raise MachineFault(
                    f"step {self.step}: the machine failed {self.met[number]} times, last on node {fault.host}: "
                    f"{fault.what}. No clip is to blame and what is committed stays: mend it, and give the same "
                    "command again"
                )
        self.batches = {number: self.met[number] for number in self.batches}


def _pass(worker: Worker, work: Work, left: _Left, runtime: RuntimeConfig, avoided: Collection[str]) -> Iterator[Done]:
    """The outcomes of batches, each tried once; a fault that ends them all is one of ``_ALL``."""
    patience_seconds = runtime.stall_seconds
    if patience_seconds == "auto":
        patience_seconds = worker.stage.resources.batch_seconds + _START_SECONDS
    outcomes = stream(worker, work, dict(left.batches), patience_seconds, avoided, left.together)
    with closing(outcomes):
        try:
            yield from _until_an_outage(outcomes)
        except MachineFault as fault:
            yield Done(_ALL, fault=Fault.of(fault))


def _until_an_outage(outcomes: Iterable[Done]) -> Iterator[Done]:
    """The outcomes, until so many were faults in a row that no further batch is worth trying for now."""
    in_a_row = 0
    for done in outcomes:
        yield done
        in_a_row = 0 if done.fault is None else in_a_row + 1
        if in_a_row == _OUTAGE:
            return


def all_batches(step: Step, upstream: Mapping[str, Made]) -> list[Batch]:
    """The batches of all clips, with where their inputs stand, for whoever works on them in this process."""
    keys = Keys.of(step.keys)
    return _work(step, keys, Refs(keys.ids), upstream).batches()


def _work(step: Step, keys: Keys, done: Refs, upstream: Mapping[str, Made]) -> Work:
    refs = {name: made.refs for name, made in upstream.items()}
    return Work(keys, done, step.stage.resources.batch_size, step.stage.reads, step.clips, refs)

"""Make the missing rows of a step's table, on Ray Data.

The driver cuts the missing rows into batches; each batch travels as one row of a dataset to an actor, which commits its
part by itself and sends back only counts. For a stage on GPUs tasks load and decode the batches ahead of the actors.
What the machine failed is done again, see ``_make``; clips are blamed by ``worker`` alone.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from mer_ray.config import RuntimeConfig
from mer_ray.data.retries import Retries
from mer_ray.data.table import RowRef, Table
from mer_ray.errors import MachineFault, MaterialiseError
from mer_ray.runtime import metrics
from mer_ray.runtime.batches import Batch, cut
from mer_ray.runtime.session import least_store_bytes
from mer_ray.runtime.sight import Sight
from mer_ray.runtime.stream import Done, Fault, Stalled, stream
from mer_ray.runtime.usage import Usage
from mer_ray.runtime.worker import Worker
from mer_ray.stages.base import Stage
from mer_ray.types import Clip

_FIRST_WAIT_SECONDS = 2.0
_ALL = ""
"""Stands for a batch's name where a fault ended all batches at once."""
_START_SECONDS = 600.0
"""What a process may take to start on a machine that is busy; loading models counts as progress, see ``attempts``."""
_OUTAGE = 8
"""After so many faults in a row it is not one process or node that is ill."""


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
    refs: Mapping[str, RowRef]
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
    refs = step.table.index(step.keys, on_corrupt)
    batches = missing_batches(step, upstream, refs)
    progress = Progress(step.stage.name, len(refs), len(step.keys), Counter())
    on_progress(progress)
    if not batches:
        return Made(step.table, refs)
    tables = {name: made.table for name, made in upstream.items()}
    worker = Worker(step.stage, step.table, tables, uuid.uuid4().hex[:12], runtime.max_attempts)
    worker.sight = sight or worker.sight

    found: dict[str, RowRef] = {}
    usage, store_bytes, noted = Usage(), least_store_bytes(), False

    def count(done: Done) -> None:
        nonlocal noted
        metrics.tell_batch(step.stage.name, done, step.stage.resources.batch_size, usage.add(done))
        if not noted and (note := usage.short_of(store_bytes)):
            noted = True
            on_note(note)
        progress.done += len(done.refs)
        found.update(done.refs)
        progress.errors.update(done.errors)
        on_progress(progress)

    _make(worker, batches, runtime, count, on_fault)
    made = {**refs, **found}
    if len(made) != len(step.keys):
        missing = [clip_id for clip_id in step.keys if clip_id not in made]
        raise MaterialiseError(
            f"step {step.stage.name}: {len(missing)} rows are missing after the run, e.g. {missing[0]}; "
            "give the same command again"
        )
    figures = usage.figures(step.stage.resources.gpus)
    return Made(step.table, made, len(step.keys) - len(refs), progress.errors, figures)


def _make(
    worker: Worker,
    batches: Sequence[Batch],
    runtime: RuntimeConfig,
    on_done: Callable[[Done], None],
    on_fault: Callable[[Fault], None],
) -> None:
    """Make all batches; those that the machine failed again, once the others are done.

    Raises:
        MachineFault: one batch met too many.
        MaterialiseError: see ``stream``.
    """
    left, met, stalls = {batch.name: batch for batch in batches}, Counter[str](), 0
    faults: dict[str, Fault] = {}
    while left:
        if faults:
            time.sleep(_FIRST_WAIT_SECONDS * 2 ** (max(met.values()) - 1))
        avoided, faults, before = {fault.node for fault in faults.values()}, {}, len(left)
        try:
            for done in _pass(worker, list(left.values()), runtime, avoided):
                on_done(done)
                if done.fault is None:
                    del left[done.batch]
                else:
                    faults[done.batch] = done.fault
                    on_fault(done.fault)
        except Stalled:
            stalls += 1
            if stalls > 1:
                raise
        if len(left) < before:
            del met[_ALL]
        met.update(faults.keys())
        for name, fault in faults.items():
            if met[name] > runtime.max_machine_faults:
                raise MachineFault(
                    f"step {worker.stage.name}: the machine failed {met[name]} times, last on node {fault.host}: "
                    f"{fault.what}. No clip is to blame and what is committed stays: mend it, and give the same "
                    "command again"
                )


def _pass(worker: Worker, batches: Sequence[Batch], runtime: RuntimeConfig, avoided: Collection[str]) -> Iterator[Done]:
    """The outcomes of batches, each tried once; a fault that ends them all is one of ``_ALL``."""
    patience_seconds = runtime.stall_seconds
    if patience_seconds == "auto":
        patience_seconds = worker.stage.resources.batch_seconds + _START_SECONDS
    with closing(stream(worker, batches, patience_seconds, avoided)) as outcomes:
        try:
            yield from _until_an_outage(outcomes)
        except MachineFault as fault:
            yield Done(_ALL, {}, Counter(), Fault("", "unknown", str(fault)))


def _until_an_outage(outcomes: Iterable[Done]) -> Iterator[Done]:
    """The outcomes, until so many were faults in a row that no further batch is worth trying for now."""
    in_a_row = 0
    for done in outcomes:
        yield done
        in_a_row = 0 if done.fault is None else in_a_row + 1
        if in_a_row == _OUTAGE:
            return


def missing_batches(step: Step, upstream: Mapping[str, Made], done: Mapping[str, RowRef]) -> list[Batch]:
    """The batches of the clips that are not ``done``, with where their inputs stand."""
    return [
        Batch(
            tuple(clip_ids),
            tuple(step.keys[clip_id] for clip_id in clip_ids),
            {name: tuple(_inputs(step, upstream, name, clip_ids)) for name in step.stage.reads},
        )
        for clip_ids in cut(list(step.keys), done.keys(), step.stage.resources.batch_size)
    ]


def _inputs(step: Step, upstream: Mapping[str, Made], name: str, clip_ids: Sequence[str]) -> Iterator[Any]:
    for clip_id in clip_ids:
        if name == "clip":
            yield asdict(step.clips[clip_id])
        else:
            yield upstream[name].refs.get(clip_id)

"""Make what several tables lack of the same clips by one visit to each, so that a file is fetched and opened once.

A visit blames no clip: where a batch fails, or kills its worker, its rows are left to the steps of the tables, which
find out whose fault it is.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import pyarrow as pa

from mer_ray.config import RuntimeConfig
from mer_ray.data.rows import Keys, Refs
from mer_ray.errors import NoMemoryFault, machine_fault
from mer_ray.runtime import metrics
from mer_ray.runtime.batches import Batch, Work
from mer_ray.runtime.materialise import Progress, Step, make_batches
from mer_ray.runtime.sight import Sight
from mer_ray.runtime.stream import Done, Fault
from mer_ray.runtime.usage import Usage
from mer_ray.runtime.worker import Outcome, Worker
from mer_ray.stages.base import Stage
from mer_ray.stages.isolate import dead_device
from mer_ray.stages.limit import time_limit
from mer_ray.stages.visit import MediaVisit


@dataclass
class Visited:
    """What a visit made for one table.

    Attributes:
        rows: how many.
        errors: among them, by reason.
        usage: of the visit, see ``Usage.figures``.
    """

    rows: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    usage: Mapping[str, float] = field(default_factory=dict)


class _Visitor(Worker):
    """Visits the clips of a batch and commits a part to each table.

    Args:
        media: what makes the rows.
        workers: of the tables, by name, the first of them that whose keys the batch has; not set up.
        session: see ``Attempts``.
    """

    def __init__(self, media: MediaVisit, workers: Mapping[str, Worker], session: str) -> None:
        self.workers = dict(workers)
        first = next(iter(self.workers.values()))
        super().__init__(first.stage, first.table, {}, session, first.max_attempts)
        self.media = media
        self.stage = cast(Stage, media)  # which it is in all that workers and streams ask of one

    def _run(self, batch: Batch, prepared: pa.Table | None, outcome: Outcome, deaths_allowed: int) -> None:
        name, limit_seconds = f"visit-{batch.name}", self.media.resources.clip_seconds * len(batch)
        record = self.attempts.begin_first(name, limit_seconds, self.node)
        if record is None:
            return
        try:
            with time_limit(limit_seconds, self.media.resources.clip_seconds):
                made = self.media.process(self.media.prepare(self.load(batch)) if prepared is None else prepared)
            self._commit_all(batch, made, outcome)
        except Exception as error:
            fault = machine_fault(error) or dead_device()
            if fault and not isinstance(fault, NoMemoryFault):
                self.forget(name, record)
                raise fault from error

    def _commit_all(self, batch: Batch, made: Mapping[str, pa.Table], outcome: Outcome) -> None:
        own, *others = self.workers
        self.workers[own].commit(batch, made[own], outcome)
        for name in others:
            beside = Outcome()
            keys = pa.array(batch.inputs[name]).to_pylist()
            self.workers[name].commit(Batch(batch.clip_ids, tuple(keys), {}), made[name], beside)
            outcome.beside[name] = beside.refs
            outcome.num_bytes += beside.num_bytes
            outcome.errors += beside.errors


def visit(
    steps: Mapping[str, Step],
    media: MediaVisit,
    runtime: RuntimeConfig,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_fault: Callable[[Fault], None] = lambda fault: None,
    sight: Sight | None = None,
    on_corrupt: Callable[[str, str, str], None] = lambda name, part, why: None,
) -> dict[str, Visited]:
    """Make the rows that all tables of ``steps`` lack of a clip; what is left is for ``materialise``.

    Args:
        steps: by name, of the same clips in the same order, read from clips alone.
        media: what makes their rows.
        runtime: as for ``materialise``.
        on_progress: told how far it is.
        on_fault: told what the machine did.
        sight: what every node must see.
        on_corrupt: told a table's name, its part that is damaged, and what is wrong with it.

    Raises:
        MaterialiseError, MachineFault: see ``materialise``.
    """
    keys = {name: Keys.of(step.keys) for name, step in steps.items()}
    refs = {name: step.table.index(keys[name], partial(on_corrupt, name)) for name, step in steps.items()}
    first, *others = steps
    there = Refs(keys[first].ids)
    for one in refs.values():
        there.part = one.part.clip(there.part)
    before = {name: len(one) for name, one in refs.items()}
    size, clips = media.resources.batch_size, steps[first].clips
    work = Work(keys[first], there, size, ("clip",), clips, {}, {name: keys[name] for name in others})
    if not len(work):
        return {name: Visited() for name in steps}
    session, usage = uuid.uuid4().hex[:12], Usage()
    workers = {name: Worker(step.stage, step.table, {}, session, runtime.max_attempts) for name, step in steps.items()}
    visitor = _Visitor(media, workers, session)
    visitor.sight = Sight(sight.places(steps)) if sight else visitor.sight
    progress = Progress(media.name, len(there), len(keys[first]), Counter())
    errors: dict[str, Counter[str]] = {name: Counter() for name in steps}

    def count(done: Done) -> None:
        metrics.tell_batch(media.name, done, size, usage.add(done))
        for name, found in {first: done.refs, **done.beside}.items():
            refs[name].put(found)
            errors[name].update(ref.error for ref in found.values() if ref.error)
        progress.done += len(done.refs)
        progress.errors.update(done.errors)
        on_progress(progress)

    for step in steps.values():
        step.table.describe()
    make_batches(visitor, work, runtime, count, on_fault)
    for name, step in steps.items():
        step.table.remember(keys[name], refs[name])
    visitor.attempts.clear()
    figures = usage.figures(media.resources.gpus)
    return {name: Visited(len(refs[name]) - before[name], errors[name], figures) for name in steps}

"""What the pipeline itself costs, and how it grows: steps that do nothing, up to MER2024's clips and a million.

JSON: ``noop_clips_per_s`` of the largest of ``clips``, from the end of the first batch to the end of the last, so that
starting the workers is outside; ``first_part_seconds`` until that first one; ``peak_memory_bytes_<clips>``, PSS over
all processes (``10k``, ``115k``), which should be flat; ``resume_seconds`` to find that nothing is to be made in
``tables`` finished tables of the largest; with ``s3``, ``resume_seconds_s3`` and ``resume_requests_s3`` of the same
there; with ``million``, ``driver_peak_bytes_1m`` of this process alone over a million clips in as many tables;
``scaling.<workers>``, the work of so many workers that sleep, as a share of so many times the work of one.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pydantic import Field
from rich.console import Console

from mer_ray.benchmarks.harness import peak_memory, table
from mer_ray.config import RuntimeConfig, Section
from mer_ray.data.rows import Ids, Keys, column_of
from mer_ray.data.storage import Store
from mer_ray.data.table import Table, row_key
from mer_ray.errors import ConfigError
from mer_ray.runtime.materialise import Made, Progress, Step, materialise
from mer_ray.runtime.session import session
from mer_ray.stages.base import Resources, Stage
from mer_ray.types import Clip, Split

_MILLION = 1_000_000


class Config(Section):
    """How many clips, tables and workers."""

    clips: list[int] = Field([10_000, 115_595], min_length=1, description="numbers of clips, one run each")
    batch_size: int = Field(64, ge=1, description="clips per batch and Parquet part")
    tables: int = Field(
        13, ge=1, description="tables of a run with nothing to do: two of clips, the others made from one"
    )
    s3: str = Field("", description="folder of a bucket, s3://BUCKET/PREFIX, in which the tables are made too")
    million: bool = Field(False, description="whether a million clips are run through all tables")
    workers: list[int] = Field(
        [1, 2, 4, 8, 16], description="numbers of sleeping workers; none: scaling is not measured"
    )
    batch_seconds: float = Field(1.0, gt=0, description="what a sleeping worker takes for a batch")


class NothingStage(Stage):
    """A row of one number for every clip, with no work in it.

    Args:
        batch_size: clips per batch.
        name: of the table.
        reads: of what it is made.
        seconds: that a batch takes.
        workers: most actors.
    """

    version = 1

    def __init__(
        self,
        batch_size: int,
        name: str = "nothing",
        reads: tuple[str, ...] = ("clip",),
        seconds: float = 0.0,
        workers: int | None = None,
    ) -> None:
        self.name, self.reads, self.seconds = name, reads, seconds
        self.resources = Resources(batch_size=batch_size, max_actors=workers)

    @property
    def columns(self) -> tuple[pa.Field, ...]:
        """A single number."""
        return (pa.field("vector", pa.list_(pa.float32(), 1)),)

    @property
    def spec(self) -> dict[str, Any]:
        """Nothing to choose."""
        return {"version": self.version}

    def process(self, batch: pa.Table) -> pa.Table:
        """See the base class."""
        time.sleep(self.seconds)
        return self.rows_to_table(
            [{"clip_id": clip_id, "present": True, "vector": [0.0]} for clip_id in batch["clip_id"].to_pylist()]
        )


@dataclass
class Steps:
    """Steps that do nothing over some clips, the first of them over clips and the others over its table.

    Attributes:
        ended: when each batch of the first was done, after the time at which it was begun.
    """

    number: int
    count: int
    batch_size: int
    ended: list[float] = field(default_factory=list)

    def make(self, folder: Store) -> dict[str, Made]:
        """Make what is missing in all tables."""
        clips = {f"clip_{i:07d}": Clip(f"clip_{i:07d}", Split.UNLABELED, text="-") for i in range(self.count)}
        ids = Ids(clips)
        self.ended = [time.perf_counter()]
        made: dict[str, Made] = {}
        for number in range(self.number):
            reads = ("clip",) if number < 2 else ("nothing_0",)
            stage = NothingStage(self.batch_size, f"nothing_{number}", reads)
            upstream = {name: made[name] for name in reads if name in made}
            target = Table(folder, stage.name, stage.schema, stage.spec, [one.table for one in upstream.values()])
            keys = Keys(ids, column_of((row_key(stage.name, clip_id) for clip_id in ids), len(ids)))
            step = Step(stage, target, keys, clips)
            made[stage.name] = materialise(step, upstream, RuntimeConfig(), self._note if number == 0 else _ignore)
        return made

    def _note(self, progress: Progress) -> None:
        self.ended.append(time.perf_counter())


def _ignore(progress: Progress) -> None:
    pass


def run(settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Run the steps over each number of clips; prints a table of each part.

    Raises:
        ConfigError: so few clips that one batch holds them all.
    """
    if min(settings.clips) < 3 * settings.batch_size:
        raise ConfigError(f"clips={settings.clips}: at least three batches of {settings.batch_size} are needed")
    figures: dict[str, Any] = {}
    with session(RuntimeConfig()):
        figures |= _grown(settings, console)
        yield figures
        if settings.s3:
            figures |= _in_s3(settings, console)
            yield figures
        if settings.million:
            figures |= _of_a_million(settings, console)
            yield figures
    if settings.workers:
        figures["scaling"] = _scaled(settings, console)
        yield figures


def _grown(settings: Config, console: Console) -> dict[str, Any]:
    """One table at each number of clips, and at the largest a run with nothing to do."""
    figures: dict[str, Any] = {}
    for count in sorted(settings.clips):
        with tempfile.TemporaryDirectory() as folder:
            steps = Steps(1, count, settings.batch_size)
            with peak_memory() as memory:
                steps.make(Store(folder))
            begun, _, first, *_, last = steps.ended
            figures[f"peak_memory_bytes_{count // 1000}k"] = memory.peak_bytes
            figures["noop_clips_per_s"] = (count - settings.batch_size) / (last - first)
            figures["first_part_seconds"] = first - begun
            if count == max(settings.clips):
                figures["resume_seconds"] = _resumed(settings, count, Store(folder))
    table(console, "steps that do nothing", list(figures), [list(figures.values())])
    return figures


def _resumed(settings: Config, count: int, folder: Store) -> float:
    """Seconds of a run that finds all of the tables finished."""
    Steps(settings.tables, count, settings.batch_size).make(folder)
    started = time.perf_counter()
    made = Steps(settings.tables, count, settings.batch_size).make(folder)
    assert sum(one.rows_made for one in made.values()) == 0
    return time.perf_counter() - started


def _in_s3(settings: Config, console: Console) -> dict[str, Any]:
    """The same in a bucket, in a folder that is removed again."""
    folder = Store(settings.s3) / f"scale-{os.getpid()}"
    try:
        with _requests(folder) as asked:
            asked_before = Counter[str]()
            Steps(settings.tables, max(settings.clips), settings.batch_size).make(folder)
            asked_before.update(asked)
            started = time.perf_counter()
            Steps(settings.tables, max(settings.clips), settings.batch_size).make(folder)
            seconds = time.perf_counter() - started
            figures = {"resume_seconds_s3": seconds, "resume_requests_s3": (asked - asked_before).total()}
    finally:
        folder.remove("")
    table(console, "in S3", list(figures), [list(figures.values())])
    return figures


@contextmanager
def _requests(folder: Store) -> Iterator[Counter[str]]:
    """The requests that this process sends to S3 in the block, by what they ask for."""
    asked: Counter[str] = Counter()

    def count(model: Any, **_: Any) -> None:  # noqa: ANN401 - botocore has no types
        asked[model.name] += 1

    folder.exists("_")  # connects
    events = folder.filesystem.s3.meta.events
    events.register("before-call.s3", count)
    try:
        yield asked
    finally:
        events.unregister("before-call.s3", count)


def _of_a_million(settings: Config, console: Console) -> dict[str, Any]:
    """The memory of this process, while a million clips go through all tables, and with nothing left to do."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with peak_memory(alone=True) as memory:
            Steps(settings.tables, _MILLION, settings.batch_size).make(Store(folder))
            made_seconds = time.perf_counter() - started
            Steps(settings.tables, _MILLION, settings.batch_size).make(Store(folder))
        figures = {"driver_peak_bytes_1m": memory.peak_bytes, "million_seconds": made_seconds}
    table(console, "a million clips", list(figures), [list(figures.values())])
    return figures


def _scaled(settings: Config, console: Console) -> dict[str, float]:
    """How busy sleeping workers are between their first batch and their last, in relation to one."""
    shares = {}
    for workers in sorted({1, *settings.workers}):
        count = 12 * workers
        with session(RuntimeConfig(num_cpus=workers + 1)), tempfile.TemporaryDirectory() as folder:
            stage = NothingStage(1, seconds=settings.batch_seconds, workers=workers)
            clips = {f"clip_{i:07d}": Clip(f"clip_{i:07d}", Split.UNLABELED, text="-") for i in range(count)}
            step = Step(
                stage,
                Table(Store(folder), stage.name, stage.schema, stage.spec),
                {clip_id: row_key(clip_id) for clip_id in clips},
                clips,
            )
            shares[workers] = materialise(step, {}, RuntimeConfig()).usage["busy_share"]
    scaling = {str(workers): round(share / shares[1], 4) for workers, share in shares.items()}
    table(console, "sleeping workers, of linear", list(scaling), [list(scaling.values())])
    return scaling

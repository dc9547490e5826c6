"""The pipeline's part of the extract benchmark: from media files to a committed table, on Ray.

Starting the workers, loading the model and a first batch to warm up are outside the timed part. On a GPU, tasks prepare
batches while the model is still being loaded: a step's time is that of preparing one batch, and what passes from the
beginning of its first forward to the return of its last; but no less than all its preparing, spread over the CPUs.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mer_ray.benchmarks.clips import decoders
from mer_ray.config import EncoderConfig, RuntimeConfig
from mer_ray.data.storage import Store
from mer_ray.data.table import Table, row_key
from mer_ray.runtime.materialise import Made, Step, all_batches, materialise
from mer_ray.runtime.session import session
from mer_ray.runtime.worker import Worker
from mer_ray.stages.base import Stage
from mer_ray.stages.encode import EncodeStage
from mer_ray.types import Clip

_LIMIT_SECONDS = 3600.0
_RUNTIME = RuntimeConfig()


class TimedStage(Stage):
    """A stage that notes when each of its batches is prepared and processed.

    Args:
        inner: the stage.
        notes: an empty folder of this machine.
        warm: a batch, not prepared, that is worked through when the stage is set up, and not noted.
    """

    def __init__(self, inner: Stage, notes: Path, warm: pa.Table | None = None) -> None:
        self.inner = inner
        self.notes = notes
        self.warm = warm
        self.name, self.version, self.reads = inner.name, inner.version, inner.reads
        self.resources = inner.resources

    @property
    def columns(self) -> tuple[pa.Field, ...]:
        """The inner stage's."""
        return self.inner.columns

    @property
    def spec(self) -> dict[str, Any]:
        """The inner stage's."""
        return self.inner.spec

    @property
    def provenance(self) -> dict[str, str]:
        """The inner stage's."""
        return self.inner.provenance

    def setup(self) -> None:
        """The inner stage's, and a batch to warm up."""
        self.inner.setup()
        if self.warm is not None:
            self.inner.process(self.inner.prepare(self.warm))

    def prepare(self, batch: pa.Table) -> pa.Table:
        """Do it, and note when it began and ended."""
        began = time.time_ns()
        prepared = self.inner.prepare(batch)
        self._note("prepare", began)
        return prepared

    def process(self, batch: pa.Table) -> pa.Table:
        """Do it, and note when it began and ended."""
        began = time.time_ns()
        rows = self.inner.process(batch)
        self._note("process", began)
        return rows

    def seconds(self, ended_ns: int, num_cpus: int) -> float:
        """How long the step took, once warm.

        Args:
            ended_ns: when its last batch was committed.
            num_cpus: those that prepare batches.
        """
        prepared, processed = (sorted(self._noted(what)) for what in ("prepare", "process"))
        first, spent = prepared[0][1] - prepared[0][0], sum(end - begin for begin, end in prepared)
        return max(first + ended_ns - processed[0][0], spent / num_cpus) / 1e9

    def _note(self, what: str, began: int) -> None:
        (self.notes / f"{what}-{began}-{time.time_ns()}").touch()

    def _noted(self, what: str) -> Iterator[tuple[int, int]]:
        for note in self.notes.glob(f"{what}-*"):
            _, began, ended = note.name.split("-")
            yield int(began), int(ended)


def started() -> AbstractContextManager[None]:
    """Ray, for the time of the block."""
    return session(_RUNTIME)


def run(
    encoder: EncoderConfig, clips: Sequence[Clip], num_frames: int, tables: Path
) -> tuple[float, dict[str, NDArray[np.float32]]]:
    """Seconds from the media files to the committed vectors, and the vectors by clip; Ray is running."""
    encode = EncodeStage("encoded", encoder, _LIMIT_SECONDS)
    stages = [stage for name, stage in decoders(num_frames).items() if name in encode.reads]
    seconds = 0.0
    made: dict[str, Made] = {}
    for stage in [*stages, encode]:
        spent, made[stage.name] = _step(stage, clips, made, Store(str(tables)))
        seconds += spent
    refs = [made["encoded"].refs[clip.clip_id] for clip in clips]
    rows = made["encoded"].table.take(refs, ["vector"])["vector"].combine_chunks()
    vectors = rows.flatten().to_numpy(zero_copy_only=False).reshape(len(clips), -1)
    return seconds, {clip.clip_id: vector for clip, vector in zip(clips, vectors, strict=True)}


def _step(stage: Stage, clips: Sequence[Clip], made: Mapping[str, Made], tables: Store) -> tuple[float, Made]:
    with tempfile.TemporaryDirectory() as notes:
        upstream = {name: made[name] for name in stage.reads if name in made}
        table = Table(tables, stage.name, stage.schema, stage.spec, [item.table for item in upstream.values()])
        keys = {clip.clip_id: row_key(clip.clip_id) for clip in clips}
        by_id = {clip.clip_id: clip for clip in clips}
        warm = _first_batch(Step(stage, table, keys, by_id), upstream) if isinstance(stage, EncodeStage) else None
        timed = TimedStage(stage, Path(notes), warm)
        step = Step(timed, table, keys, by_id)
        ended: list[int] = []
        done = materialise(step, upstream, _RUNTIME, on_progress=lambda progress: ended.append(time.time_ns()))
        if done.errors:
            raise RuntimeError(f"benchmark clips failed in {stage.name}: {dict(done.errors)}")
        return timed.seconds(ended[-1], os.cpu_count() or 1), done


def _first_batch(step: Step, upstream: Mapping[str, Made]) -> pa.Table:
    """The input of the step's first batch, not prepared."""
    tables = {name: made.table for name, made in upstream.items()}
    return Worker(step.stage, step.table, tables, "warm", 1).load(all_batches(step, upstream)[0])

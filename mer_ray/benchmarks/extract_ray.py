"""The pipeline's part of the extract benchmark: from media files to a committed table, on Ray.

Starting the workers and loading the model is outside the timed part: a step's time runs from its first batch to the
return of its last, as its own stage notes them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
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
from mer_ray.runtime.materialise import Made, Step, materialise
from mer_ray.runtime.session import session
from mer_ray.stages.base import Stage
from mer_ray.stages.encode import EncodeStage
from mer_ray.types import Clip

_LIMIT_SECONDS = 3600.0
_RUNTIME = RuntimeConfig(stall_seconds=7200.0)


class TimedStage(Stage):
    """A stage that notes when each of its batches begins."""

    def __init__(self, inner: Stage, notes: Path) -> None:
        self.inner = inner
        self.notes = notes
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
        """The inner stage's."""
        self.inner.setup()

    def prepare(self, batch: pa.Table) -> pa.Table:
        """Note the time, and do it."""
        (self.notes / str(time.time_ns())).touch()
        return self.inner.prepare(batch)

    def process(self, batch: pa.Table) -> pa.Table:
        """The inner stage's."""
        return self.inner.process(batch)


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
        step = Step(TimedStage(stage, Path(notes)), table, keys, {clip.clip_id: clip for clip in clips})
        ended: list[int] = []
        done = materialise(step, upstream, _RUNTIME, on_progress=lambda progress: ended.append(time.time_ns()))
        if done.errors:
            raise RuntimeError(f"benchmark clips failed in {stage.name}: {dict(done.errors)}")
        began = min(int(note.name) for note in Path(notes).iterdir())
        return (ended[-1] - began) / 1e9, done

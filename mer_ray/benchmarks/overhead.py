"""What the pipeline itself costs per clip: a stage that does nothing, at several numbers of clips up to MER2024's.

JSON, under ``clips.<number>``: ``seconds`` from the end of the first batch to the end of the last, so that starting the
workers is outside; ``overhead_seconds_per_clip``, that by the clips of the other batches; ``index_seconds`` to find
every row of the finished table again; ``peak_memory_bytes``, PSS over all processes, which should be flat in the number
of clips.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import pyarrow as pa
from pydantic import Field
from rich.console import Console

from mer_ray.benchmarks.harness import peak_memory, table
from mer_ray.config import RuntimeConfig, Section
from mer_ray.data.storage import Store
from mer_ray.data.table import Table, row_key
from mer_ray.errors import ConfigError
from mer_ray.runtime.materialise import Step, materialise
from mer_ray.runtime.session import session
from mer_ray.stages.base import Resources, Stage
from mer_ray.types import Clip, Split


class Config(Section):
    """How many clips."""

    clips: list[int] = Field([10_000, 115_595], min_length=1, description="numbers of clips, one run each")
    batch_size: int = Field(64, ge=1, description="clips per batch and Parquet part")


class NothingStage(Stage):
    """A row of one number for every clip, with no work in it."""

    name = "nothing"
    version = 1
    reads = ("clip",)

    def __init__(self, batch_size: int) -> None:
        self.resources = Resources(batch_size=batch_size)

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
        return self.rows_to_table(
            [{"clip_id": clip_id, "present": True, "vector": [0.0]} for clip_id in batch["clip_id"].to_pylist()]
        )


def run(settings: Config, console: Console) -> dict[str, Any]:
    """Run the stage over each number of clips; prints a table.

    Raises:
        ConfigError: so few clips that one batch holds them all.
    """
    if min(settings.clips) < 3 * settings.batch_size:
        raise ConfigError(f"clips={settings.clips}: at least three batches of {settings.batch_size} are needed")
    figures = {}
    with session(RuntimeConfig()):
        for count in settings.clips:
            with peak_memory() as memory:
                figures[str(count)] = materialise_nothing(count, settings.batch_size)
            figures[str(count)]["peak_memory_bytes"] = memory.peak_bytes
    columns = ["seconds", "overhead_seconds_per_clip", "index_seconds", "peak_memory_bytes"]
    rows = [[count, *(values[column] for column in columns)] for count, values in figures.items()]
    table(console, "a stage that does nothing", ["clips", *columns], rows)
    return {"clips": figures}


def materialise_nothing(count: int, batch_size: int) -> dict[str, Any]:
    """Make the table of ``count`` clips in a folder that is thrown away; its figures."""
    stage = NothingStage(batch_size)
    clips = {f"clip_{i:06d}": Clip(f"clip_{i:06d}", Split.UNLABELED, text="-") for i in range(count)}
    with tempfile.TemporaryDirectory() as folder:
        target = Table(Store(folder), stage.name, stage.schema, stage.spec)
        step = Step(stage, target, {clip_id: row_key(clip_id) for clip_id in clips}, clips)
        ended: list[float] = []
        made = materialise(step, {}, RuntimeConfig(), lambda progress: ended.append(time.perf_counter()))
        indexing = time.perf_counter()
        assert len(target.index(step.keys)) == len(made.refs) == count
        _, first, *_, last = ended
        return {
            "seconds": last - first,
            "overhead_seconds_per_clip": (last - first) / (count - batch_size),
            "index_seconds": time.perf_counter() - indexing,
        }

"""The dry run: how many rows each step would make, on how much disk, in about what time.

Seconds and bytes per clip are measured, not guessed: a few of the clips go through every step, in this process, into
a folder that is thrown away. Nothing else is written, and nobody is asked over a network: a step that would need that,
or a GPU that is not there, is not timed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table as Grid

from mer_ray.config import ExtractionConfig
from mer_ray.data.storage import Store
from mer_ray.data.table import Table
from mer_ray.errors import InputError, NotHereError
from mer_ray.pipelines import planning, source
from mer_ray.pretrained.weights import only_here
from mer_ray.runtime.materialise import Made, Step, all_batches
from mer_ray.runtime.worker import Worker
from mer_ray.stages.base import Stage
from mer_ray.types import Clip

_SAMPLE = 4
_SPARE = 1.2


@dataclass(frozen=True)
class Estimate:
    """What one step would do: rows to make, bytes on disk, and seconds on all CPUs together.

    ``seconds`` is None for a step that could not be tried, and ``why`` says so; then ``disk_bytes`` is of the vectors
    alone, None where their width is not known.
    """

    step: str
    rows: int
    disk_bytes: float | None
    seconds: float | None
    why: str = ""


def tell(
    settings: ExtractionConfig,
    clips: Sequence[Clip],
    tables: Store,
    console: Console,
    reads: Sequence[str] | None = None,
) -> None:
    """Say what extraction would make of the clips, ``reads`` being the tables that are wanted if not the encoders'.

    Raises:
        InputError: see ``planning.plan``; or the disk of the tables has less free space than they need.
    """
    with only_here():
        steps, unknown = planning.plan_here(settings, clips, tables, reads)
        known = estimate(steps, settings)
    show([*known, *(Estimate(name, len(clips), None, None, why) for name, why in unknown.items())], tables, console)


def estimate(steps: Sequence[Step], settings: ExtractionConfig) -> list[Estimate]:
    """Measure every step on a few clips and scale up to the rows that its table lacks.

    The sample is spread evenly over the order of the clips, so that long and short ones are in it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = _chosen(steps, settings, folder)
        made: dict[str, Made] = {}
        return [_estimate(step, clips, Store(str(folder / "tables")), made, settings) for step in steps]


def _estimate(
    step: Step, clips: Mapping[str, Clip], tables: Store, made: dict[str, Made], settings: ExtractionConfig
) -> Estimate:
    """Of one step, which is tried on ``clips``; what it makes of them is put into ``made`` for the steps after it."""
    name, cpus = step.stage.name, settings.runtime.num_cpus or os.cpu_count() or 1
    missing = len(step.keys) - len(step.table.index(step.keys, touch=False))
    why = _why_not(step.stage, made)
    if not why:
        upstream = [made[read].table for read in step.stage.reads if read in made]
        table = Table(tables, name, step.stage.schema, step.stage.spec, upstream)
        sampled = Step(step.stage, table, {clip_id: step.keys[clip_id] for clip_id in clips}, clips)
        try:
            made[name], seconds = _make(sampled, made, settings)
        except NotHereError:
            why = planning.NOT_HERE
        else:
            share = missing / len(clips)
            disk = share * _bytes(Path(table.store.root)) * _SPARE
            return Estimate(name, missing, disk, share * seconds / cpus)
    return Estimate(name, missing, missing * _row_bytes(step.stage) * _SPARE, None, why)


def _why_not(stage: Stage, made: Mapping[str, Made]) -> str:
    """Why a step cannot be tried, or nothing."""
    if stage.resources.gpus and not torch.cuda.is_available():
        return "it wants a GPU, and there is none here"
    if stage.is_remote:
        return "a server is asked for its rows"
    unmade = [read for read in stage.reads if read != "clip" and read not in made]
    return f"it reads {', '.join(unmade)}" if unmade else ""


def show(estimates: Sequence[Estimate], tables: Store, console: Console) -> None:
    """Print the estimates.

    Raises:
        InputError: the disk of the tables has less free space than they need.
    """
    grid = Grid("step", "rows to make", "disk", "time", title="What this command would make")
    for line in estimates:
        grid.add_row(line.step, str(line.rows), _size(line.disk_bytes), _duration(line.seconds))
    needed = sum(line.disk_bytes or 0 for line in estimates)
    known = [line.seconds for line in estimates if line.seconds is not None]
    grid.add_row("all", str(sum(line.rows for line in estimates)), _size(needed), _duration(sum(known)))
    console.print(grid)
    console.print("Times are of extraction alone, from a few clips on this machine.")
    for line in estimates:
        if line.why:
            console.print(f"{line.step} could not be timed here: {line.why}.", soft_wrap=True)
    if len(known) < len(estimates):
        console.print("The disk of what could not be timed is that of the vectors alone.")
    if tables.is_local:
        check_disk(tables, needed)


def check_disk(tables: Store, needed_bytes: float) -> None:
    """Refuse when the tables' disk is too small.

    Raises:
        InputError: fewer than ``needed_bytes`` are free.
    """
    folder = Path(tables.root)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise InputError(
            f"{tables.root} needs about {_size(needed_bytes)} and has {_size(free)} free; "
            "make room, or set tables.dir to a larger disk or a bucket"
        )


def _chosen(steps: Sequence[Step], settings: ExtractionConfig, folder: Path) -> dict[str, Clip]:
    """The clips that every step is tried on, spread over their order."""
    ids = list(steps[0].keys) if steps else []
    chosen = ids[:: max(1, len(ids) // _SAMPLE)][:_SAMPLE]
    return source.sampled(settings, [steps[0].clips[clip_id] for clip_id in chosen], folder)


def _make(step: Step, made: Mapping[str, Made], settings: ExtractionConfig) -> tuple[Made, float]:
    """The rows of the step, and the seconds that they took; loading models is not counted."""
    upstream = {name: made[name] for name in step.stage.reads if name in made}
    tables = {name: table.table for name, table in upstream.items()}
    worker = Worker(step.stage, step.table, tables, "estimate", settings.runtime.max_attempts)
    worker.setup()
    started = time.perf_counter()
    for batch in all_batches(step, upstream):
        worker.run(batch)
    return Made(step.table, step.table.index(step.keys)), time.perf_counter() - started


def _row_bytes(stage: Stage) -> int:
    """Bytes of a row's vectors."""
    vectors = [field.type for field in stage.columns if pa.types.is_fixed_size_list(field.type)]
    return sum(kind.list_size * kind.value_type.bit_width // 8 for kind in vectors)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("[!_]*.parquet"))


def _size(num_bytes: float | None) -> str:
    if num_bytes is None:
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"

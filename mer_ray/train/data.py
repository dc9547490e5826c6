"""A worker's batches, streamed from the tables by Ray Data."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data.collate_fn import ArrowBatchCollateFn

from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ClipError, LearnerError, ShapeError
from mer_ray.stages.inputs import read_prepared
from mer_ray.tasks.base import Batch, Task
from mer_ray.train.clips import Clips, load
from mer_ray.train.order import Once, Timeline

_AHEAD = 2
_CPUS = 0.5  # of a task that loads
_LOADED_AT_ONCE = 64  # clips of a task, as Ray Data keeps the trainer's own process busy with each


def batches(clips: Clips, task: Task, draws: Once | Timeline) -> Generator[list[Batch]]:
    """This worker's micro-batches, loaded ahead by tasks of Ray Data.

    Raises:
        LearnerError: a clip cannot be used; the message names it.
    """
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    num_clips = len(draws) * sum(len(rows) for rows in draws.draw(0).rows)
    tasks = min(len(draws), math.ceil(num_clips / _LOADED_AT_ONCE))
    dataset = ray.data.range(len(draws), override_num_blocks=tasks).map_batches(
        load, batch_size=None, batch_format="pyarrow", fn_kwargs={"given": ray.put((clips, draws))}, num_cpus=_CPUS
    )
    collate = _Collate(task, clips, draws)
    yield from dataset.iter_torch_batches(batch_size=1, collate_fn=collate, prefetch_batches=_AHEAD)


def usable(clips: Clips, task: Task) -> NDArray[np.bool_]:
    """Which clips can be learnt from, bool (N,): each is decoded and shown to the task."""
    parts = math.ceil(len(clips) / _LOADED_AT_ONCE)
    dataset = ray.data.range(parts, override_num_blocks=parts).map_batches(
        _judge, batch_size=1, batch_format="pyarrow", fn_kwargs={"given": ray.put((clips, task))}, num_cpus=1
    )
    judged = {row["id"]: row["usable"] for row in dataset.iter_rows()}
    return np.concatenate([judged[part] for part in range(parts)]).astype(bool)


def _judge(numbers: pa.Table, given: Any) -> pa.Table:  # noqa: ANN401 - a reference to clips and task
    clips, task = ray.get(given)
    start = numbers["id"][0].as_py() * _LOADED_AT_ONCE
    made = clips.load(range(start, min(start + _LOADED_AT_ONCE, len(clips))))["prepared"]
    loaded = [read_prepared(prepared) for prepared in made]
    found = [isinstance(clip, ClipInput) and task.usable(clip) for clip in loaded]
    return pa.table({"id": numbers["id"], "usable": pa.array([found], pa.list_(pa.bool_()))})


class _Collate(ArrowBatchCollateFn):  # type: ignore[misc]
    """What was loaded for a draw, as the task's batches."""

    def __init__(self, task: Task, clips: Clips, draws: Once | Timeline) -> None:
        self.task, self.clips, self.draws = task, clips, draws

    def __call__(self, batch: pa.Table) -> list[Batch]:
        """One batch for each micro-batch."""
        draw = self.draws.draw(batch["id"][0].as_py())
        made = pa.ipc.open_stream(batch["clips"][0].as_buffer()).read_all()["prepared"]
        ends = np.cumsum([len(rows) for rows in draw.rows])
        return [
            self._batch(rows, made[end - len(rows) : end], seeds)
            for rows, end, seeds in zip(draw.rows, ends.tolist(), draw.seeds, strict=True)
        ]

    def _batch(self, rows: NDArray[np.int64], made: pa.ChunkedArray, seeds: list[list[int]]) -> Batch:
        names = [self.clips.clip_ids[row] for row in rows]
        loaded = [_usable(name, read_prepared(prepared)) for name, prepared in zip(names, made, strict=True)]
        label, rngs = self.clips.label[rows], [np.random.default_rng(seed) for seed in seeds]
        try:
            return self.task.collate(loaded, label, rngs)
        except ShapeError:
            self._blame(names, loaded, rngs)
            raise

    def _blame(self, names: list[str], loaded: list[ClipInput], rngs: list[np.random.Generator]) -> None:
        """Name the clip that does not fit into a batch."""
        for name, clip, rng in zip(names, loaded, rngs, strict=True):
            try:
                self.task.collate([clip], np.zeros(1, np.int64), [rng])
            except ShapeError as error:
                raise LearnerError(f"clip {name}: {error}; leave it out") from error


def _usable(clip_id: str, read: ClipInput | ClipError | None) -> ClipInput:
    if isinstance(read, ClipInput):
        return read
    raise LearnerError(f"clip {clip_id} cannot be read for training: {read or 'it is not there any more'}")

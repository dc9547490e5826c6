"""Make the missing rows of a step's table, on Ray Data.

The driver cuts the missing rows into batches; each batch travels as one row of a dataset to an actor, which commits its
part by itself and sends back only counts. For a stage on GPUs tasks load and decode the batches ahead of the actors.
"""

from __future__ import annotations

import logging
import pickle
import queue
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import ray
from ray import cloudpickle
from ray.data import ActorPoolStrategy

from mer_ray.config import RuntimeConfig
from mer_ray.data.table import RowRef, Table
from mer_ray.errors import MaterialiseError, MerRayError
from mer_ray.runtime.batches import Batch, cut
from mer_ray.runtime.worker import Worker
from mer_ray.stages.base import Resources, Stage
from mer_ray.types import Clip

_LOG = logging.getLogger(__name__)
_AHEAD_CPUS = 1


@dataclass(frozen=True)
class Step:
    """A stage, its table, and what it reads.

    Attributes:
        stage: what makes the rows.
        table: where they go.
        keys: the key of each wanted clip, in the order in which clips are to be processed: similar lengths together.
        clips: the manifest's rows by id, for stages that read ``clip``.
    """

    stage: Stage
    table: Table
    keys: Mapping[str, str]
    clips: Mapping[str, Clip]


@dataclass(frozen=True)
class Made:
    """A materialised table: where each clip's row stands, and what making it did.

    Attributes:
        table: the table.
        refs: where the row of each wanted clip stands.
        rows_made: rows made by this run; the others were there.
        errors: errors among the rows made, by reason.
    """

    table: Table
    refs: Mapping[str, RowRef]
    rows_made: int = 0
    errors: Counter[str] = field(default_factory=Counter)


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
) -> Made:
    """Make the rows of ``step.keys`` that its table lacks.

    ``upstream`` holds the tables that the stage reads, by the names in its ``reads``, already materialised.

    Raises:
        MaterialiseError: no batch was finished for ``runtime.stall_seconds``, or a worker failed for good.
        StorageError: a table cannot be read or written. What is committed stays, and the same call goes on from there.
    """
    step.table.describe()
    refs = step.table.index(step.keys, on_corrupt)
    batches = missing_batches(step, upstream, refs)
    progress = Progress(step.stage.name, len(refs), len(step.keys), Counter())
    on_progress(progress)
    if not batches:
        return Made(step.table, refs)
    tables = {name: made.table for name, made in upstream.items()}
    worker = Worker(step.stage, step.table, tables, uuid.uuid4().hex[:12], runtime.max_attempts)
    for outcome in _watched(_stream(worker, batches), runtime.stall_seconds, step.stage.name):
        progress.done += outcome["rows"]
        progress.errors.update(pickle.loads(outcome["errors"]))
        on_progress(progress)
    made = step.table.index(step.keys, on_corrupt)
    if len(made) != len(step.keys):
        missing = [clip_id for clip_id in step.keys if clip_id not in made]
        raise MaterialiseError(
            f"step {step.stage.name}: {len(missing)} rows are missing after the run, e.g. {missing[0]}; "
            "give the same command again"
        )
    return Made(step.table, made, len(step.keys) - len(refs), progress.errors)


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


def _stream(worker: Worker, batches: Sequence[Batch]) -> Iterator[dict[str, Any]]:
    """Run the batches on the cluster; yields one outcome per batch as it is done."""
    resources = worker.stage.resources
    rows = [{"batch": pickle.dumps(batch)} for batch in batches]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    pickled = cloudpickle.dumps(worker)
    ahead_cpus = _ahead_cpus(resources, ray.cluster_resources())
    if ahead_cpus:
        dataset = dataset.map_batches(
            _prepare, batch_size=1, batch_format="pyarrow", fn_kwargs={"worker": pickled}, num_cpus=ahead_cpus
        )
    dataset = dataset.map_batches(
        _Actor,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_kwargs={"worker": pickled},
        compute=_pool(resources, len(batches), ahead_cpus),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
        memory=resources.memory_bytes,
    )
    yield from dataset.iter_rows()


def _ahead_cpus(resources: Resources, cluster: Mapping[str, float]) -> int:
    """CPUs of a task that prepares a batch ahead of its actor, which are never given to actors; 0 where none does.

    Beside a GPU one does, but where an actor and a task do not fit side by side and would wait for each other for ever.
    A cluster whose GPUs are still to come brings CPUs with them.
    """
    if not resources.gpus:
        return 0
    there = cluster.get("GPU", 0) >= resources.gpus
    return 0 if there and cluster.get("CPU", 0) < resources.cpus + _AHEAD_CPUS else _AHEAD_CPUS


def _pool(resources: Resources, num_batches: int, ahead_cpus: int) -> ActorPoolStrategy:
    """As many actors as the cluster's CPUs (or GPUs) take, and no more than there are batches."""
    cluster = ray.cluster_resources()
    fits = int((cluster.get("CPU", 1) - ahead_cpus) // resources.cpus)
    if resources.gpus:
        fits = min(fits, int(cluster.get("GPU", 0) // resources.gpus))
    initial = max(1, min(fits, num_batches, resources.max_actors or fits))
    most = max(initial, min(num_batches, resources.max_actors or num_batches))
    least = min(resources.min_actors, initial)
    return ActorPoolStrategy(min_size=least, max_size=most, initial_size=initial)


class _Actor:
    """The worker inside a Ray actor."""

    def __init__(self, worker: bytes) -> None:
        self.worker: Worker = pickle.loads(worker)

    def __call__(self, rows: pa.Table) -> pa.Table:
        batch: Batch = pickle.loads(rows["batch"][0].as_py())
        outcome = self.worker.run(batch, _payload(rows))
        return pa.table({"rows": [outcome.rows], "errors": [pickle.dumps(outcome.errors)]})


def _prepare(rows: pa.Table, worker: bytes) -> pa.Table:
    """Load and prepare one batch in a task; where that fails, the actor does it again under its guard."""
    preparer: Worker = pickle.loads(worker)
    batch: Batch = pickle.loads(rows["batch"][0].as_py())
    try:
        prepared = preparer.stage.prepare(preparer.load(batch))
    except Exception:  # noqa: BLE001 - it is raised again in the actor, with the batch under guard
        _LOG.warning("step %s: preparing a batch failed, its actor tries again", preparer.stage.name, exc_info=True)
        return rows.append_column("payload", pa.nulls(1, pa.large_binary()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, prepared.schema) as writer:
        writer.write_table(prepared)
    return rows.append_column("payload", pa.array([sink.getvalue().to_pybytes()], pa.large_binary()))


def _payload(rows: pa.Table) -> pa.Table | None:
    if "payload" not in rows.column_names or not rows["payload"][0].is_valid:
        return None
    return pa.ipc.open_stream(rows["payload"][0].as_buffer()).read_all()


def _watched(outcomes: Iterator[dict[str, Any]], stall_seconds: float, step: str) -> Iterator[dict[str, Any]]:
    """Pass on what ``outcomes`` yields, read in a thread, and fail when nothing comes for ``stall_seconds``."""
    arrived: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue()

    def read() -> None:
        try:
            for outcome in outcomes:
                arrived.put(outcome)
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            arrived.put(error)
        else:
            arrived.put(None)

    threading.Thread(target=read, daemon=True, name=f"materialise-{step}").start()
    while True:
        try:
            item = arrived.get(timeout=stall_seconds)
        except queue.Empty:
            raise MaterialiseError(
                f"step {step}: no batch was finished for {stall_seconds:.0f} s. What is committed stays: give the same "
                "command again, or raise runtime.stall_seconds if the step is that slow"
            ) from None
        if item is None:
            return
        if isinstance(item, BaseException):
            raise _cause(item, step)
        yield item


def _cause(error: BaseException, step: str) -> BaseException:
    """The project's own error inside what Ray wraps it in, or a ``MaterialiseError``."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, MerRayError) or not isinstance(inner, Exception):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return MaterialiseError(f"step {step} failed: {type(error).__name__}: {error}")

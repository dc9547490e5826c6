"""Batches through a stage's actors on Ray Data, and what becomes of each.

A machine fault does not end the stream: its batch comes back with the fault, and its process is not used again, since
what broke may stay broken there: the next batch that it is given makes Ray start it anew.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import ray
from ray import cloudpickle
from ray._private.state import state as global_state
from ray.data import ActorPoolStrategy, Dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mer_ray.data.rows import RowRef
from mer_ray.errors import CorruptPartError, MachineFault, MaterialiseError, MerRayError, machine_fault
from mer_ray.runtime.batches import Batch, Work, batch_of
from mer_ray.runtime.memory import memory_kill
from mer_ray.runtime.worker import Worker
from mer_ray.stages.base import Resources

_LOG = logging.getLogger(__name__)
_AHEAD_CPUS = 1
_TOGETHER_SECONDS = 1.0
_STDERR = 2
_SPARE_FILES = 16

Chunks = Mapping[int, ray.ObjectRef]
"""The chunks of the work at hand, see ``runtime.batches``."""


@dataclass(frozen=True)
class Fault:
    """What the machine did to a batch.

    Attributes:
        node: Ray's name of the node.
        host: the node's own name.
        what: went wrong.
        damaged: the step whose part was found damaged, if that is what went wrong; its rows must be made again.
    """

    node: str
    host: str
    what: str
    damaged: str = ""

    @classmethod
    def of(cls, error: MachineFault, node: str = "", host: str = "unknown") -> Fault:
        """The fault that an error tells of."""
        return cls(node, host, str(error), error.step if isinstance(error, CorruptPartError) else "")


@dataclass(frozen=True)
class Done:
    """What became of a batch.

    Attributes:
        batch: its number.
        refs: where its rows stand, made or found there.
        errors: among them, by reason.
        fault: why there are none.
        is_begun: whether it was tried; others of the same task took long enough.
        beside: see ``worker.Outcome``.
        num_bytes: of the rows made.
        worker: node and process that did it.
        times: when it began and ended there, seconds.
        prepared_seconds, prepared_bytes: of the task that worked ahead of it; 0 where none did.
    """

    batch: int
    refs: Mapping[str, RowRef] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    fault: Fault | None = None
    is_begun: bool = True
    beside: Mapping[str, Mapping[str, RowRef]] = field(default_factory=dict)
    num_bytes: int = 0
    worker: str = ""
    times: tuple[float, float] = (0.0, 0.0)
    prepared_seconds: float = 0.0
    prepared_bytes: int = 0


class Stalled(MaterialiseError):
    """No batch was finished for too long."""


def stream(
    worker: Worker,
    work: Work,
    batches: Mapping[int, int],
    stall_seconds: float,
    avoided: Collection[str] = (),
    together: int = 1,
) -> Generator[Done]:
    """Run batches on the cluster; yields one outcome for each as it is done. Closed, it ends the actors.

    Args:
        worker: not set up yet.
        work: what the batches are of.
        batches: one or more, by number, and how often the machine failed each before.
        stall_seconds: longest silence.
        avoided: nodes that others are preferred to.
        together: batches that an actor is handed at once, of which it begins none after the first second; to hand one
            over costs Ray about 6 ms of two cores.

    Raises:
        Stalled: it lasted longer.
        MachineFault: one ended all.
        MaterialiseError: a worker failed for good.
    """
    dataset = _dataset(worker, work, batches, together, _elsewhere(worker.stage.resources, avoided))
    executor = dataset._create_executor()  # what an iterator of the dataset makes too, and lets nobody end
    name = worker.stage.name
    arrived = _read_ahead(lambda: _outcomes(dataset._build_bundle_iterator(executor)), f"materialise-{name}")
    missing = len(batches)
    try:
        while True:
            try:
                item = arrived.get(timeout=stall_seconds)
            except queue.Empty:
                if worker.attempts.is_loading():
                    continue
                raise Stalled(
                    f"step {name}: no batch was finished for {stall_seconds:.0f} s. What is committed stays: give the "
                    "same command again, or raise runtime.stall_seconds if the step is that slow"
                ) from None
            if item is None and missing:
                raise MaterialiseError(
                    f"step {name}: Ray told nothing of {missing} batches; give the same command again"
                )
            if item is None:
                return
            if isinstance(item, BaseException):
                raise _cause(item, name)
            missing -= 1
            yield item
    finally:
        executor.shutdown(force=True)


def _outcomes(bundles: Iterable[Any]) -> Generator[Done]:
    for bundle in bundles:
        for block in ray.get(list(bundle.block_refs)):
            yield from map(pickle.loads, block["done"].to_pylist())


def _read_ahead(items: Callable[[], Iterable[Done]], name: str) -> queue.Queue[Done | BaseException | None]:
    """What is read in a thread of this name; at the end None, or the error that ended it."""
    arrived: queue.Queue[Done | BaseException | None] = queue.Queue()

    def read() -> None:
        try:
            for item in items():
                arrived.put(item)
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            arrived.put(error)
        else:
            arrived.put(None)

    threading.Thread(target=read, daemon=True, name=name).start()
    return arrived


def _dataset(
    worker: Worker, work: Work, batches: Mapping[int, int], together: int, placed: Mapping[str, Any]
) -> Dataset:
    resources = worker.stage.resources
    rows = [asdict(work.range(number)) | {"faults": faults} for number, faults in batches.items()]
    num_blocks = -(-len(rows) // together)
    chunks = {number: ray.put(work.chunk(number)) for number in sorted({row["chunk"] for row in rows})}
    given = {"worker": cloudpickle.dumps(worker), "chunks": chunks}
    dataset = ray.data.from_items(rows, override_num_blocks=num_blocks)
    whole_block = None if together > 1 else 1  # Ray Data wants a number where there are GPUs
    ahead_cpus = _ahead_cpus(resources, ray.cluster_resources())
    if ahead_cpus:
        dataset = dataset.map_batches(
            _prepare, batch_size=whole_block, batch_format="pyarrow", fn_kwargs=given, num_cpus=ahead_cpus
        )
    return dataset.map_batches(
        _Actor,
        batch_size=whole_block,
        batch_format="pyarrow",
        fn_constructor_kwargs=given,
        compute=_pool(resources, num_blocks, ahead_cpus),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
        memory=resources.memory_bytes,
        **placed,
    )


def _elsewhere(resources: Resources, avoided: Collection[str]) -> dict[str, Any]:
    """Where actors are to be rather than on the nodes avoided, where another is large enough."""
    if not avoided:
        return {}
    for node in ray.nodes():
        has = node["Resources"]
        fits = has.get("CPU", 0) >= resources.cpus and has.get("GPU", 0) >= resources.gpus
        if node["Alive"] and fits and node["NodeID"] not in avoided:
            return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)}
    return {}


def _ahead_cpus(resources: Resources, cluster: Mapping[str, float]) -> int:
    """CPUs of a task that prepares a batch ahead of its actor, which are never given to actors; 0 where none does.

    Beside a GPU one does, but where an actor and a task do not fit side by side and would wait for each other for ever.
    A cluster whose GPUs are still to come brings CPUs with them.
    """
    if not resources.gpus:
        return 0
    there = cluster.get("GPU", 0) >= resources.gpus
    return 0 if there and cluster.get("CPU", 0) < resources.cpus + _AHEAD_CPUS else _AHEAD_CPUS


def _pool(resources: Resources, num_tasks: int, ahead_cpus: int) -> ActorPoolStrategy:
    """As many actors as fit, or may when the cluster has grown, within their bounds and no more than there are tasks.

    All are asked for at once: a pool on GPUs may not grow later, and work begins with the first that is there.
    """
    cluster = _may_come()
    fits = int((cluster.get("CPU", 1) - ahead_cpus) // resources.cpus)
    if resources.gpus:
        fits = min(fits, int(cluster.get("GPU", 0) // resources.gpus))
    if resources.memory_bytes:
        fits = min(fits, int(cluster.get("memory", 0) // resources.memory_bytes))
    wanted = min(num_tasks, resources.max_actors or num_tasks)
    initial = max(1, min(fits, wanted))
    return ActorPoolStrategy(
        min_size=min(resources.min_actors, initial), max_size=max(initial, wanted), initial_size=initial
    )


def _may_come() -> dict[str, float]:
    """What the cluster has, or has when it has grown as far as its autoscaler may."""
    there: dict[str, float] = ray.cluster_resources()
    grown = global_state.get_max_resources_from_cluster_config() if ray.is_initialized() else None
    return {name: max(there.get(name, 0), (grown or {}).get(name, 0)) for name in {*there, *(grown or {})}}


class _Actor:
    """The worker inside a Ray actor."""

    def __init__(self, worker: bytes, chunks: Chunks) -> None:
        self.worker: Worker = pickle.loads(worker)
        self.chunks = chunks
        self._chunk: tuple[int, pa.Table] | None = None
        if ray.is_initialized():
            self.worker.node = ray.get_runtime_context().get_node_id()
            self.worker.living = _living_nodes
            self.worker.attempts.process = ray.get_runtime_context().get_worker_id()
            self.worker.attempts.memory_kill = memory_kill
        self.is_spent = False

    def __call__(self, rows: pa.Table) -> pa.Table:
        if self.is_spent:
            os._exit(1)  # Ray starts this process anew, and asks it again
        started, outcomes = time.monotonic(), list[Done]()
        for row in _told(rows):
            late = bool(outcomes) and time.monotonic() - started > _TOGETHER_SECONDS
            outcomes.append(Done(row["number"], is_begun=False) if late or self.is_spent else self._run(row))
        return pa.table({"done": [pickle.dumps(done) for done in outcomes]})

    def _run(self, row: Mapping[str, Any]) -> Done:
        started, number = time.monotonic(), row["number"]
        try:
            outcome = self.worker.run(self._batch(row), _payload(row), row["faults"])
            made = outcome.refs, outcome.errors
            done = Done(number, *made, num_bytes=outcome.num_bytes, beside=outcome.beside)
        except Exception as error:
            fault = machine_fault(error)
            if fault is None:
                raise
            self.is_spent = True
            done = Done(number, fault=Fault.of(fault, self.worker.node, os.uname().nodename))
        finally:
            _end_without_files(self.worker.stage.name)
        done = replace(done, worker=f"{self.worker.node} {os.getpid()}", times=(started, time.monotonic()))
        if "seconds" in row:
            num_bytes = row["payload"].size if row["payload"] else 0
            done = replace(done, prepared_seconds=row["seconds"], prepared_bytes=num_bytes)
        return done

    def _batch(self, row: Mapping[str, Any]) -> Batch:
        if self._chunk is None or self._chunk[0] != row["chunk"]:
            self._chunk = (row["chunk"], ray.get(self.chunks[row["chunk"]]))
        return batch_of(self._chunk[1], row["start"], row["stop"])


def _end_without_files(step: str) -> None:
    """End a process that may open hardly a file more: Ray, to tell of the outcome, would wait for a socket for ever.

    It is started anew, and finds the part if there is one.
    """
    spare: list[int] = []
    try:
        spare.extend(os.dup(_STDERR) for _ in range(_SPARE_FILES))
    except OSError as error:
        _LOG.error("step %s, node %s: %s; this process ends", step, os.uname().nodename, error)
        os._exit(1)
    finally:
        for descriptor in spare:
            os.close(descriptor)


def _living_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _prepare(rows: pa.Table, worker: bytes, chunks: Chunks) -> pa.Table:
    """Load and prepare one batch in a task; where that fails, the actor does it again under its guard."""
    preparer: Worker = pickle.loads(worker)
    (row,) = _told(rows)
    started = time.monotonic()
    try:
        batch = batch_of(ray.get(chunks[row["chunk"]]), row["start"], row["stop"])
        prepared = preparer.stage.prepare(preparer.load(batch))
    except Exception:  # noqa: BLE001 - it is raised again in the actor, with the batch under guard
        told = "step %s, node %s: preparing a batch failed, its actor tries again"
        _LOG.warning(told, preparer.stage.name, os.uname().nodename, exc_info=True)
        return rows.append_column("payload", pa.nulls(1, pa.large_binary())).append_column("seconds", pa.array([0.0]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, prepared.schema) as writer:
        writer.write_table(prepared)
    rows = rows.append_column("payload", pa.array([sink.getvalue().to_pybytes()], pa.large_binary()))
    return rows.append_column("seconds", pa.array([time.monotonic() - started]))


def _told(rows: pa.Table) -> list[dict[str, Any]]:
    """The rows of a block; what was prepared as the buffer that it is, not copied."""
    told: list[dict[str, Any]] = rows.select([name for name in rows.column_names if name != "payload"]).to_pylist()
    if "payload" not in rows.column_names:
        return told
    return [row | {"payload": one.as_buffer()} for row, one in zip(told, rows["payload"], strict=True)]


def _payload(row: Mapping[str, Any]) -> pa.Table | None:
    return pa.ipc.open_stream(row["payload"]).read_all() if row.get("payload") else None


def _cause(error: BaseException, step: str) -> BaseException:
    """The project's own error inside what Ray wraps it in, or a ``MaterialiseError``.

    Ray's own code in a worker meets machine faults too, as when no file can be opened any more.
    """
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, MerRayError) or not isinstance(inner, Exception):
            return inner
        if fault := machine_fault(inner):
            return MachineFault(f"step {step}: {fault}")
        inner = getattr(inner, "cause", None) or inner.__cause__
    return MaterialiseError(f"step {step} failed: {type(error).__name__}: {error}")

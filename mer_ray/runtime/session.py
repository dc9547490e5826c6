"""Start or attach to Ray, and know where a job runs."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._common.utils import get_system_memory
from ray._private import auto_init_hook
from rich.console import Console

from mer_ray.config import RuntimeConfig
from mer_ray.errors import MerRayError
from mer_ray.runtime.console import waiting
from mer_ray.runtime.head import own_head

_STORE_BYTES = 400 * 2**20
_STORE_SHARE = 0.3
_SHARED = Path("/dev/shm")


@contextmanager
def session(runtime: RuntimeConfig, held_bytes: int = 0) -> Iterator[None]:
    """A connection to Ray for the block: what this process has, the cluster of ``RAY_ADDRESS``, or one embedded in it.

    What was embedded here is shut down at the end; what was there stays. Where the head of a cluster is lost the
    process ends with 1, see ``runtime.head``.

    Args:
        runtime: how much of this machine an embedded one takes.
        held_bytes: what its object store is to hold for long.
    """
    was_there = ray.is_initialized()
    if not was_there:
        with _own_handler(), waiting(Console(highlight=False), "starting Ray"):
            _connect(runtime, held_bytes)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    is_attached = not was_there and bool(os.environ.get("RAY_ADDRESS"))
    try:
        with own_head() if is_attached else nullcontext():
            yield
    except BaseException:
        if not was_there:
            _hush()
        raise
    finally:
        if not was_there:
            ray.shutdown()


def _hush() -> None:
    """What still runs on Ray in other threads meets its end; that is no news, and must not start another Ray."""
    auto_init_hook.enable_auto_connect = False
    for name in ("ray", "ray.data", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def _own_handler() -> Iterator[None]:
    """What the process does on SIGTERM stays as it was; Ray, once connected, would end it with a code of its own.

    Until then Ray's handler stands, which takes down what has started.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def store_bytes(runtime: RuntimeConfig, held_bytes: int) -> int:
    """How large the object store of an embedded Ray is: as it is told, else a share of what this process may have.

    It has room for what it is to hold. It lies in memory, and takes no more of that, or of what may be shared, than
    leaves processes theirs.
    """
    if runtime.object_store_bytes != "auto":
        return runtime.object_store_bytes
    shared = shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else 2 * 2**30  # Ray's own bound on macOS
    most = min(0.9 * shared, 0.5 * psutil.virtual_memory().available)
    wanted = max(_STORE_SHARE * get_system_memory(), _STORE_BYTES + held_bytes)
    return int(max(_STORE_BYTES, min(wanted, most)))


def short_of(held_bytes: int) -> str | None:
    """What to tell the user when Ray's object store on some node cannot hold so much, else None. Ray is running."""
    least = least_store_bytes()
    if least >= held_bytes:
        return None
    return (
        f"the features take {held_bytes / 2**20:,.0f} MiB of Ray's object store, which has {least / 2**20:,.0f}: the "
        "rest goes over the disk, which is slow. Set runtime.object_store_bytes, or start the nodes of a cluster with "
        "a larger --object-store-memory"
    )


def least_store_bytes() -> float:
    """Of the node whose object store is the smallest; infinite where none tells. Ray is running."""
    return min(_store_sizes(), default=float("inf"))


def _store_sizes() -> list[float]:
    """Bytes of the object store of each node that tells."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [one["object_store_memory"] for one in resources if "object_store_memory" in one]


def _connect(runtime: RuntimeConfig, held_bytes: int) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address="auto" if is_submitted_job() else os.environ["RAY_ADDRESS"], **quiet)
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # one machine, one user, loopback only
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong reaches the driver as an exception
    # a process that waits is kept for the next task: of few CPUs Ray would end it after a second, and start another
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    _embed(
        address="local",
        num_cpus=runtime.num_cpus,
        object_store_memory=store_bytes(runtime, held_bytes),
        include_dashboard=False,
        **quiet,
    )


def _embed(**told: Any) -> None:  # noqa: ANN401 - what Ray takes
    """A Ray of this process, tried twice: a cold machine may exceed the half minute that Ray gives itself to start.

    Raises:
        MerRayError: it did not start in time.
    """
    this = psutil.Process()
    there = set(this.children())
    for _ in range(2):
        try:
            ray.init(**told)
        except Exception as error:  # Ray has no narrower one for it
            if "timed out during startup" not in str(error):
                raise
            begun = [started for child in set(this.children()) - there for started in (child, *child.children(True))]
            for started in begun:
                with suppress(psutil.NoSuchProcess):
                    started.kill()
            psutil.wait_procs(begun)
        else:
            return
    raise MerRayError(
        "Ray did not start in the half minute that it gives itself, twice; "
        "give the same command again when this machine is less busy"
    )


def is_submitted_job() -> bool:
    """Whether this process is the driver of a job given to ``ray job submit``."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def resolve_run_dir(run_dir: str) -> str:
    """Where a run directory really is.

    In a submitted job the working directory is a copy that Ray throws away, so a relative run directory is taken
    under ``MER_RAY_RUNS``, or else ``~/mer_ray/runs``, on the head node.
    """
    if "://" in run_dir:
        return run_dir
    base = (
        Path(os.environ.get("MER_RAY_RUNS") or Path.home() / "mer_ray" / "runs") if is_submitted_job() else Path.cwd()
    )
    return str((base / Path(run_dir).expanduser()).resolve())

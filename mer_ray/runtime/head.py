"""A job ends when another head answers in the place of its own.

Ray ends a driver that reaches no head for a minute. A head that is started again sooner, at the same address, knows
neither the driver nor its workers and refuses them, and the driver would wait until it took its batches for stalled.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray._private.worker import global_worker
from ray.exceptions import AuthenticationError

_CHECK_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
_REFUSAL = "WrongClusterID"


@contextmanager
def own_head() -> Iterator[None]:
    """For the block, which is connected to a cluster, end this process with 1 when the head is another one."""
    client, over = getattr(global_worker, "gcs_client", None), threading.Event()
    if client is not None:  # a Ray client (``ray://``) has none
        threading.Thread(target=watch, args=(client, over, _end), daemon=True, name="own-head").start()
    try:
        yield
    finally:
        over.set()


def watch(client: Any, over: threading.Event, end: Callable[[], object]) -> None:  # noqa: ANN401 - Ray has no types
    """Ask the head now and then, until ``over``; call ``end`` once another one answers."""
    while not over.wait(_CHECK_SECONDS):
        if _is_another(client) and not over.is_set():
            end()
            return


def _is_another(client: Any) -> bool:  # noqa: ANN401
    try:
        client.internal_kv_get(b"mer_ray", None, timeout=_ANSWER_SECONDS)
    except AuthenticationError as error:
        return _REFUSAL in str(error)
    except Exception:  # noqa: BLE001 - it does not answer: Ray sees to that
        return False
    return False


def _end() -> None:
    """As Ray ends a driver whose head is gone: any thread of it may wait for what never comes."""
    sys.stderr.write(
        "failed: the cluster's head is another one than this job began with. What is committed stays: give the same "
        "command again\n"
    )
    sys.stderr.flush()
    os._exit(1)

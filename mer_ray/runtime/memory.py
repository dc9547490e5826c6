"""What Ray tells of a worker that its memory monitor ended.

The monitor ends workers by how long they have been at it, not by what they take, and several at once: most are
bystanders. What each had stands in the message that Ray keeps of the end, and nowhere else.
"""

from __future__ import annotations

import re

import ray
from ray._private.state import state as global_state
from ray.core.generated import common_pb2, gcs_pb2

from mer_ray.runtime.attempts import MemoryKill

_CONSIDERED = re.compile(r"actual memory used=([\d.]+)GB, worker ID=([0-9a-f]+)")


def memory_kill(worker: str) -> MemoryKill | None:
    """Of a worker by its id: how it stood when the monitor ended it; None where it lives, or ended otherwise.

    Where Ray does not tell what it had, it is taken for the one that was to end.
    """
    told = global_state._connect_and_get_accessor().get_worker_info(ray.WorkerID(bytes.fromhex(worker)))
    if not told:
        return None
    ended = gcs_pb2.WorkerTableData.FromString(told)
    if ended.is_alive or ended.exit_type != common_pb2.WorkerExitType.NODE_OUT_OF_MEMORY:
        return None
    used_bytes = {name: float(gib) * 2**30 for gib, name in _CONSIDERED.findall(ended.exit_detail)}
    if worker not in used_bytes:
        return MemoryKill(float("inf"), is_largest=True)
    return MemoryKill(used_bytes[worker], used_bytes[worker] == max(used_bytes.values()))

"""How busy the workers of a step were, and what kept them waiting."""

from __future__ import annotations

from dataclasses import dataclass, field

from mer_ray.runtime.stream import Done

_IN_FLIGHT = 4
"""Batches that Ray Data lets one actor have: at work, before it, and on their way."""


@dataclass
class Usage:
    """Of the batches done so far.

    Attributes:
        spans: by worker, when its first batch began and its last one ended.
        busy_seconds: of all batches.
        prepared_seconds: of the tasks that worked ahead.
        largest_bytes: of what they made for one batch.
    """

    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    busy_seconds: float = 0.0
    prepared_seconds: float = 0.0
    largest_bytes: int = 0

    def add(self, done: Done) -> float:
        """Count a batch; gives the seconds that its worker waited for it since the one before, 0 where none had it."""
        if not done.worker:
            return 0.0
        started, ended = done.times
        first, last = self.spans.get(done.worker, (started, started))
        self.spans[done.worker] = min(first, started), max(last, ended)
        self.busy_seconds += ended - started
        self.prepared_seconds += done.prepared_seconds
        self.largest_bytes = max(self.largest_bytes, done.prepared_bytes)
        return max(0.0, started - last)

    def figures(self, gpus: float) -> dict[str, float]:
        """``busy_share``, of the time between a worker's first batch and its last, and ``cpus_per_gpu``.

        The latter are the CPUs that keep one GPU busy, where tasks work ahead of actors that have some.
        """
        there = sum(last - first for first, last in self.spans.values())
        told = {"busy_share": round(self.busy_seconds / there, 3)} if there else {}
        if gpus and self.prepared_seconds:
            told["cpus_per_gpu"] = round(self.prepared_seconds / (self.busy_seconds * gpus), 2)
        return told

    def short_of(self, store_bytes: float) -> str | None:
        """What to tell the user when an object store does not hold the batches that wait for actors, else None."""
        needed = self.largest_bytes * _IN_FLIGHT * len(self.spans)
        if needed <= store_bytes:
            return None
        return (
            f"a batch takes {self.largest_bytes / 2**20:,.0f} MiB, and those that wait for {len(self.spans)} workers "
            f"{needed / 2**20:,.0f} of Ray's object store, which has {store_bytes / 2**20:,.0f}: GPUs may wait. Set "
            "runtime.object_store_bytes, a smaller batch_size, or start the nodes with a larger --object-store-memory"
        )

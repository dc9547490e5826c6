"""What a running job lets Prometheus read, through Ray's own exporter; ``cluster/grafana.json`` draws it.

The driver counts what workers tell of their batches. Ray puts ``ray_`` before a name and ``_total`` behind a counter's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge

from mer_ray.runtime.stream import Done

_COUNTERS = {
    "clips": ("rows made, or found there", ("step",)),
    "errors": ("rows in error", ("step", "reason")),
    "machine_faults": ("batches that the machine failed", ("step", "node")),
    "bytes": ("of the rows made, in memory", ("step",)),
    "busy_seconds": ("of workers on batches", ("step",)),
    "waiting_seconds": ("of workers between two batches", ("step",)),
    "rounds": ("of mining, done", ("kept",)),
}
_GAUGES = {
    "batch_fill": ("clips of the last batch, of those that a batch may have", ("step",)),
    "oof_waf": ("weighted F1 out of fold of the last round", ()),
}


def tell_batch(step: str, done: Done, batch_size: int, waited_seconds: float) -> None:
    """Count a batch of a step, before which its worker waited."""
    if done.fault is not None:
        _count("machine_faults", 1, step=step, node=done.fault.host)
        return
    _count("clips", len(done.refs), step=step)
    _count("bytes", done.num_bytes, step=step)
    _count("busy_seconds", done.times[1] - done.times[0], step=step)
    _count("waiting_seconds", waited_seconds, step=step)
    _gauge("batch_fill", len(done.refs) / batch_size, step=step)
    for reason, number in done.errors.items():
        _count("errors", number, step=step, reason=reason)


def tell_round(figures: Mapping[str, Any]) -> None:
    """Count a round of mining, by the fields of the event ``round_done``."""
    _count("rounds", 1, kept=str(figures["kept"]).lower())
    _gauge("oof_waf", figures["oof_waf"])


def _count(name: str, amount: float, **tags: str) -> None:
    if amount > 0 and ray.is_initialized():
        _metric(Counter, name).inc(amount, tags)


def _gauge(name: str, value: float, **tags: str) -> None:
    if ray.is_initialized():
        _metric(Gauge, name).set(value, tags)


@cache
def _metric(kind: type[Counter] | type[Gauge], name: str) -> Any:  # noqa: ANN401 - a Counter or a Gauge
    what, tags = {**_COUNTERS, **_GAUGES}[name]
    return kind(f"mer_ray_{name}", description=what, tag_keys=tags)

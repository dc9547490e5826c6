"""Where the inputs of the clips stand, and how Ray Data's tasks load them: without torch, so that they start at once.

Shapes: N clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from mer_ray.data.rows import RowRef
from mer_ray.data.table import Table
from mer_ray.stages.base import as_struct
from mer_ray.stages.inputs import prepare


@dataclass(frozen=True)
class Clips:
    """Where the inputs of some clips stand.

    Attributes:
        clip_ids: in order.
        label: int64 (N,), -1 where unknown.
        tables: by name.
        refs: by table, the row of each clip.
    """

    clip_ids: tuple[str, ...]
    label: NDArray[np.int64]
    tables: Mapping[str, Table]
    refs: Mapping[str, tuple[RowRef, ...]]

    def __len__(self) -> int:
        return len(self.clip_ids)

    def load(self, rows: Sequence[int]) -> pa.Table:
        """The inputs of some clips, decoded: see ``stages.inputs.prepare``."""
        columns: dict[str, Any] = {"clip_id": pa.array([self.clip_ids[row] for row in rows], pa.string())}
        for name, table in self.tables.items():
            columns[name] = as_struct(table.take([self.refs[name][row] for row in rows]))
        return prepare(pa.table(columns), list(self.tables))


def load(numbers: pa.Table, given: Any) -> pa.Table:  # noqa: ANN401 - a reference to clips and draws
    """The clips of some draws, decoded, each draw an Arrow stream."""
    clips, draws = ray.get(given)
    loaded = [clips.load(np.concatenate(draws.draw(number).rows).tolist()) for number in numbers["id"].to_pylist()]
    return pa.table({"id": numbers["id"], "clips": pa.array([_stream(made) for made in loaded], pa.large_binary())})


def _stream(made: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made)
    return bytes(sink.getvalue().to_pybytes())

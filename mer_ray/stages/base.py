"""The contract of a stage: a step that turns a batch of clips into rows of one table.

A stage is plain Python without Ray and is tested without a cluster; ``runtime.materialise`` alone runs it on Ray Data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mer_ray.config import Pool
from mer_ray.errors import ClipError

ROW_FIELDS = (
    pa.field("clip_id", pa.string(), nullable=False),
    pa.field("present", pa.bool_(), nullable=False),
    pa.field("error", pa.string()),
    pa.field("detail", pa.string()),
)
"""The columns of every table beside its own (and ``key``, which the table adds). ``present`` is False for a clip that
lacks what the step makes: by absence (``error`` null) or by an error (``error`` a ``Reason``)."""


@dataclass(frozen=True)
class Resources:
    """What one worker of a stage needs, and how its work is cut.

    Attributes:
        cpus, gpus: per actor; fractions allowed.
        memory_bytes: host memory per actor, told to Ray so that it does not overfill a node; None leaves it out.
        min_actors, max_actors: bounds of the actor pool; ``max_actors`` None means as many as the cluster takes.
        batch_size: clips per batch, and so per Parquet part.
        clip_seconds: time limit per clip; a batch of n clips may take n times as long, see ``stages.limit``.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int | None = None
    min_actors: int = 1
    max_actors: int | None = None
    batch_size: int = 16
    clip_seconds: float = 60.0

    @classmethod
    def of(cls, pool: Pool, *, batch_size: int, clip_seconds: float, cpus: float = 1.0, gpus: float = 0.0) -> Resources:
        """As a step's settings have it."""
        least, most = pool.bounds
        return cls(cpus, gpus, pool.memory_bytes, least, most, batch_size, clip_seconds)

    @property
    def batch_seconds(self) -> float:
        """Longest time that a batch may take."""
        return self.clip_seconds * self.batch_size


class Stage(ABC):
    """One step of the pipeline.

    Attributes:
        name: the step's name, also of its table.
        version: raised when the same input would give another row.
        reads: what the input rows carry, in this order: names of upstream tables, or ``clip`` for the manifest's row.
        opens_media: whether it opens the files that a clip names.
        resources: see ``Resources``.

    A stage is pickled to its workers before ``setup``; it holds configuration until then, and models after.
    """

    name: str
    version: int
    reads: tuple[str, ...]
    opens_media: bool = False
    resources: Resources

    @property
    @abstractmethod
    def columns(self) -> tuple[pa.Field, ...]:
        """The table's own columns; all nullable: they are null where ``present`` is False."""

    @property
    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON-able: everything a row depends on beside its input: config, plug-ins' versions, weights' identity."""

    @property
    def is_remote(self) -> bool:
        """Whether rows are made by a server that is asked over a network, and not by this machine."""
        return False

    @property
    def provenance(self) -> dict[str, str]:
        """What is written into every part: model id, revision, dtype, pooling and the like."""
        return {}

    @property
    def schema(self) -> pa.Schema:
        """The schema of ``process``'s result."""
        head, tail = ROW_FIELDS[:2], ROW_FIELDS[2:]
        return pa.schema([*head, *self.columns, *tail])

    def setup(self) -> None:  # noqa: B027 - optional
        """Load models; called once per actor before the first batch."""

    def prepare(self, batch: pa.Table) -> pa.Table:
        """Work of the CPU that comes before ``process``, such as decoding; it may replace or add columns.

        For a stage with a GPU it runs in tasks that feed the actors, so that the GPU does not wait; else in the actor.
        """
        return batch

    @abstractmethod
    def process(self, batch: pa.Table) -> pa.Table:
        """Make the rows of a batch: the same clips in the same order, in ``schema``.

        ``batch`` has ``clip_id`` and, for each name in ``reads``, one struct column of that name: the upstream row
        (null where the upstream row is absent or in error), or for ``clip`` the fields of ``types.Clip``.

        An error of one clip is a row with ``error``; see ``row`` and ``failed``. An exception that is raised makes the
        runtime halve the batch until the clip at fault is alone, and quarantine that.
        """

    def rows_to_table(self, rows: list[dict[str, Any]]) -> pa.Table:
        """Rows as a table of ``schema``; columns that a row leaves out are null."""
        return pa.Table.from_pylist(rows, schema=self.schema)


def absent(clip_id: str) -> dict[str, Any]:
    """The row of a clip that lacks what the step makes."""
    return {"clip_id": clip_id, "present": False}


def failed(clip_id: str, error: ClipError) -> dict[str, Any]:
    """The row of a clip that is quarantined in this step."""
    return {"clip_id": clip_id, "present": False, "error": str(error.reason), "detail": error.detail}


def as_struct(rows: pa.Table) -> pa.Array:
    """Rows as one struct column, null where the upstream row is absent, in error or not there."""
    hidden = pc.invert(pc.fill_null(rows["present"].combine_chunks(), False))
    bookkeeping = {field.name for field in ROW_FIELDS} | {"key"}
    names = [name for name in rows.column_names if name not in bookkeeping]
    arrays = [rows[name].combine_chunks() for name in names]
    fields = [rows.schema.field(name) for name in names]
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=hidden)

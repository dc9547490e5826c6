"""Cut a step's missing rows into batches whose parts have the same names whoever makes them, and whenever.

Batches are cut from all wanted clips in a fixed order, not from the missing ones: a run that was killed, or a second
driver on the same table, cuts the same batches and makes parts of the same names. Only clips of batches that are partly
done (clips were added, or a batch had been halved) are gathered and cut anew.

A batch is a number until a worker takes it: it is a range of a chunk, a table of some thousand rows to make and where
their inputs stand, which all workers read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mer_ray.data.rows import Keys, Refs, RowRef
from mer_ray.data.table import part_name
from mer_ray.types import Clip

_CHUNK_ROWS = 4096
_PLACE = pa.struct([("part", pa.string()), ("row", pa.int32()), ("num_bytes", pa.int64())])


@dataclass(frozen=True)
class Batch:
    """Clips to be processed together, and where their inputs stand.

    Attributes:
        clip_ids, keys: the rows to make, aligned.
        inputs: for each name in the stage's ``reads``, one entry per clip: a ``RowRef`` of the upstream table or None
            where it has nothing, or for ``clip`` the fields of ``types.Clip``, as dicts or an Arrow array.
    """

    clip_ids: tuple[str, ...]
    keys: tuple[str, ...]
    inputs: Mapping[str, Sequence[Any] | pa.Array]

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def name(self) -> str:
        """The name of the part it makes."""
        return part_name(self.clip_ids, self.keys)

    def slice(self, start: int, stop: int) -> Batch:
        """The clips from ``start`` up to ``stop``."""
        inputs = {name: values[start:stop] for name, values in self.inputs.items()}
        return Batch(self.clip_ids[start:stop], self.keys[start:stop], inputs)

    def halves(self) -> tuple[Batch, Batch]:
        """The batch cut in two; it must have at least two clips."""
        middle = len(self) // 2
        return self.slice(0, middle), self.slice(middle, len(self))


@dataclass(frozen=True)
class Range:
    """A batch by its number: rows ``start`` up to ``stop`` of a chunk."""

    number: int
    chunk: int
    start: int
    stop: int


class Work:
    """The batches of a step's missing rows.

    Args:
        keys: of all wanted clips, in the order in which they are cut.
        done: the rows that are there.
        batch_size: most clips in a batch.
        reads: what the rows are made from, upstream tables and ``clip``.
        clips: the clips, where ``clip`` is read.
        upstream: where the rows of the tables stand, by name.
        beside: keys of further rows of the same clips, by the name under which they are read.
    """

    def __init__(
        self,
        keys: Keys,
        done: Refs,
        batch_size: int,
        reads: Sequence[str],
        clips: Mapping[str, Clip],
        upstream: Mapping[str, Refs],
        beside: Mapping[str, Keys] | None = None,
    ) -> None:
        self._keys, self._reads, self._clips, self._upstream = keys, reads, clips, upstream
        self._beside = beside or {}
        self._places, self._starts = cut(done.part >= 0, batch_size)
        self._batches_per_chunk = max(1, _CHUNK_ROWS // batch_size)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def num_chunks(self) -> int:
        """How many chunks there are."""
        return -(-len(self) // self._batches_per_chunk)

    def range(self, number: int) -> Range:
        """Where a batch stands."""
        chunk = number // self._batches_per_chunk
        first = self._starts[chunk * self._batches_per_chunk]
        return Range(number, chunk, int(self._starts[number] - first), int(self._starts[number + 1] - first))

    def chunk(self, number: int) -> pa.Table:
        """The rows of some batches: ``clip_id``, ``key`` and a column of each name that is read."""
        start = number * self._batches_per_chunk
        stop = min(start + self._batches_per_chunk, len(self))
        places = self._places[self._starts[start] : self._starts[stop]]
        clip_ids = self._keys.ids.column.take(pa.array(places))
        columns = {"clip_id": clip_ids, "key": self._keys.strings(places)}
        columns |= {name: keys.strings(places) for name, keys in self._beside.items()}
        for name in self._reads:
            if name == "clip":
                columns[name] = pa.array([_fields(self._clips[clip_id]) for clip_id in clip_ids.to_pylist()])
            else:
                columns[name] = _places(self._upstream[name], self._keys, places)
        return pa.table(columns)

    def batches(self) -> list[Batch]:
        """All of them, for whoever works on them in this process."""
        chunks = [self.chunk(number) for number in range(self.num_chunks)]
        ranges = [self.range(number) for number in range(len(self))]
        return [batch_of(chunks[one.chunk], one.start, one.stop) for one in ranges]


def batch_of(chunk: pa.Table, start: int, stop: int) -> Batch:
    """The batch that a range of a chunk is."""
    rows = chunk.slice(start, stop - start)
    inputs: dict[str, Sequence[Any] | pa.Array] = {}
    for name in chunk.column_names[2:]:
        column = rows[name].combine_chunks()
        inputs[name] = _refs(column) if column.type.equals(_PLACE) else column
    return Batch(tuple(rows["clip_id"].to_pylist()), tuple(rows["key"].to_pylist()), inputs)


def cut(is_done: NDArray[np.bool_], batch_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of what is not done, batch after batch, and where in these each batch starts; then their end.

    >>> places, starts = cut(np.array([False, False, True, False, False, False]), 2)
    >>> [places[start:stop].tolist() for start, stop in zip(starts, starts[1:])]
    [[0, 1], [4, 5], [3]]
    """
    number = np.arange(len(is_done)) // batch_size
    is_whole = ~np.isin(number, number[is_done])
    whole, rest = np.flatnonzero(is_whole), np.flatnonzero(~is_whole & ~is_done)
    starts = np.flatnonzero(np.diff(number[whole], prepend=-1))
    more = len(whole) + np.arange(0, len(rest), batch_size)
    return np.concatenate([whole, rest]), np.concatenate([starts, more, [len(whole) + len(rest)]]).astype(np.int64)


def _fields(clip: Clip) -> dict[str, Any]:
    return {name: getattr(clip, name) for name in Clip.__slots__}


def _places(refs: Refs, keys: Keys, places: NDArray[np.int64]) -> pa.Array:
    """Where the upstream rows of these clips stand, null where there is none."""
    if refs.ids is not keys.ids:
        known = [refs.ids.place(keys.ids[place]) if keys.ids[place] in refs.ids else -1 for place in places.tolist()]
        places = np.array(known, np.int64)
    part = np.where(places >= 0, refs.part[places], -1)
    parts, which = np.unique(part, return_inverse=True)
    names = pa.array([refs.parts[one][0] if one >= 0 else None for one in parts.tolist()], pa.string())
    sizes = np.array([refs.parts[one][1] if one >= 0 else 0 for one in parts.tolist()], np.int64)
    columns = [names.take(pa.array(which)), pa.array(refs.row[places]), pa.array(sizes[which])]
    return pa.StructArray.from_arrays(columns, fields=list(_PLACE), mask=pa.array(part < 0))


def _refs(places: pa.Array) -> tuple[RowRef | None, ...]:
    told = places.to_pylist()
    return tuple(one and RowRef(one["part"], one["row"], True, None, None, one["num_bytes"]) for one in told)

"""What the parts of a table hold, beside them in ``_index.parquet``: a cache, so that they need not be opened again.

A part is taken from it while its size and its ETag, on a disk its mtime, are those that were written down. Lost,
damaged or of another version, it is made anew from the parts.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mer_ray.data.rows import Keys, Refs
from mer_ray.data.storage import Stamp, Store
from mer_ray.errors import machine_fault

NAME = "_index.parquet"
ROW_COLUMNS = ("clip_id", "key", "present", "error", "detail")
"""Of each row of a part."""

_SCHEMA = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("tag", pa.string(), nullable=False),
        *(pa.field(name, pa.list_(pa.bool_() if name == "present" else pa.string())) for name in ROW_COLUMNS),
    ]
)


@dataclass(frozen=True)
class Index:
    """The parts of a table and their rows.

    Attributes:
        parts: a row for each part, sorted by name: ``part``, its size ``num_bytes``, its ``tag``, and a list of each of
            ``ROW_COLUMNS``.
    """

    parts: pa.Table = field(default_factory=_SCHEMA.empty_table)

    @classmethod
    def read(cls, store: Store) -> Index:
        """What was written in a table's folder; empty where that is lost, damaged, or of another version."""
        try:
            parts = pq.read_table(pa.BufferReader(store.read(NAME)), page_checksum_verification=True)
        except FileNotFoundError:
            return cls()
        except (pa.ArrowException, OSError, ValueError) as error:
            if fault := machine_fault(error):
                raise fault from error
            return cls()
        return cls(parts.combine_chunks()) if parts.schema.equals(_SCHEMA) else cls()

    def write(self, store: Store) -> None:
        """Write it down, for whoever comes later."""
        sink = io.BytesIO()
        pq.write_table(self.parts, sink, compression="zstd", write_page_checksum=True)
        store.write(NAME, sink.getvalue())

    def of(self, stamps: Mapping[str, Stamp]) -> Index:
        """What is known of these parts, being as they were."""
        names, sizes, tags = (self.parts[name].to_pylist() for name in ("part", "num_bytes", "tag"))
        told = zip(names, sizes, tags, strict=True)
        keep = [stamps.get(name) == (size, tag) for name, size, tag in told]
        return self if all(keep) else Index(self.parts.filter(pa.array(keep, pa.bool_())))

    def names(self) -> set[str]:
        """The parts that are known."""
        return set(self.parts["part"].to_pylist())

    def with_parts(self, read: Iterable[tuple[str, Stamp, pa.Table]]) -> Index:
        """The same, and other parts: name, stamp, and the ``ROW_COLUMNS`` of its rows."""
        more = []
        for name, stamp, rows in read:
            ends = pa.array([0, rows.num_rows], pa.int32())
            lists = [pa.ListArray.from_arrays(ends, rows[column].combine_chunks()) for column in ROW_COLUMNS]
            columns = [pa.array([value]) for value in (name, *stamp)] + lists
            more.append(pa.table(columns, schema=_SCHEMA))
        return self._joined(more)

    def with_rows(self, stamps: Mapping[str, Stamp], keys: Keys, refs: Refs) -> Index:
        """The same, and the parts in ``refs`` that are not known and have the size that they were made with.

        All rows of such a part stand in ``refs``.

        Args:
            stamps: of all parts that are there.
            keys: of the rows.
            refs: where they stand.
        """
        known = self.names()
        new = np.array([name not in known and stamps.get(name, (-1,))[0] == size for name, size in refs.parts], bool)
        places = np.flatnonzero(refs.part >= 0)
        places = places[new[refs.part[places]]] if len(places) else places
        if not len(places):
            return self
        places = places[np.lexsort((refs.row[places], refs.part[places]))]
        part, starts = np.unique(refs.part[places], return_index=True)
        ends = np.append(starts, len(places))
        wrong = [refs.errors.get(place, (None, None)) for place in places.tolist()]
        rows = (
            keys.ids.column.take(pa.array(places)),
            keys.strings(places),
            pa.array(refs.present[places]),
            pa.array([error for error, _ in wrong], pa.string()),
            pa.array([detail for _, detail in wrong], pa.string()),
        )
        named = [refs.parts[one] for one in part.tolist()]
        columns = [
            pa.array([name for name, _ in named], pa.string()),
            pa.array([size for _, size in named], pa.int64()),
            pa.array([stamps[name].tag for name, _ in named], pa.string()),
            *(pa.ListArray.from_arrays(pa.array(ends, pa.int32()), column) for column in rows),
        ]
        return self._joined([pa.table(columns, schema=_SCHEMA)])

    def refs(self, keys: Keys) -> Refs:
        """Where the rows of these keys stand; a row that is there twice is the one in the first part by name."""
        refs = Refs(keys.ids)
        parts = self.parts.combine_chunks()
        lists = {name: parts[name].combine_chunks() for name in ROW_COLUMNS}
        lengths = pc.list_value_length(lists["clip_id"]).to_numpy(zero_copy_only=False).astype(np.int64)
        columns = {name: column.flatten() for name, column in lists.items()}
        place = pc.fill_null(pc.index_in(columns["clip_id"], value_set=keys.ids.column), -1).to_numpy()
        key = columns["key"].to_numpy(zero_copy_only=False).astype(keys.column.dtype)
        part = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        row = np.arange(len(part)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        wanted = np.flatnonzero(place >= 0)
        wanted = wanted[keys.column[place[wanted]] == key[wanted]][::-1]  # the first part is written last, and stays
        refs.part[place[wanted]] = part[wanted]
        refs.row[place[wanted]] = row[wanted]
        refs.present[place[wanted]] = columns["present"].to_numpy(zero_copy_only=False)[wanted]
        for name, num_bytes in zip(parts["part"].to_pylist(), parts["num_bytes"].to_pylist(), strict=True):
            refs.part_place(name, num_bytes)
        is_wrong = columns["error"].is_valid().to_numpy(zero_copy_only=False)
        for at in wanted[is_wrong[wanted]].tolist():
            if refs.part[place[at]] == part[at]:
                refs.errors[int(place[at])] = (columns["error"][at].as_py(), columns["detail"][at].as_py())
        return refs

    def _joined(self, more: Iterable[pa.Table]) -> Index:
        joined = pa.concat_tables([self.parts, *more])
        return Index(joined.sort_by("part").combine_chunks())

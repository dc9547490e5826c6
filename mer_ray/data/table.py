"""The table of a step: a folder of immutable Parquet parts in which every clip is found exactly once.

``<tables.dir>/<step>/<digest>/`` holds ``<hash of its rows' keys>.parquet`` parts. Beside them ``_table.json`` says
what the digest stands for, ``_index.parquet`` what the parts hold, ``_attempts/`` which batches were begun, and
``_corrupt/`` keeps parts that were found altered. A row is known by its clip and its ``key``, the identity of its own
input: a clip whose input changed has another key, and its old row is never read again. Two drivers that make the same
row make parts that both stay; a reader takes the first by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mer_ray import __version__, config
from mer_ray.data.index import ROW_COLUMNS, Index
from mer_ray.data.rows import KEY_LENGTH, Keys, Refs, RowRef
from mer_ray.data.storage import Stamp, Store
from mer_ray.errors import CorruptPartError, StorageError, machine_fault

KEY_FIELD = pa.field("key", pa.string(), nullable=False)
_ROW_GROUP_BYTES = 4 * 2**20
_MAX_ROWS_PER_GROUP = 512
_READERS = 4
_CONNECTIONS = 16
_WHOLE_BYTES = 2 * 2**20
"""A part in S3 up to this size is fetched in one request, whatever is wanted of it."""
_DAMAGE = (pa.ArrowException, OSError, ValueError, IndexError)
"""What a part that is truncated or altered raises when it is read; what S3 raises is the machine's."""


def row_key(*identities: str) -> str:
    """The key of a row made from inputs of these identities (URI with size and mtime, text, upstream keys).

    >>> row_key("a", "b") == row_key("a", "b") != row_key("ab", "")
    True
    """
    return hashlib.sha256("\0".join(identities).encode()).hexdigest()[:KEY_LENGTH]


def part_name(clip_ids: Sequence[str], keys: Sequence[str]) -> str:
    """The name of the part that holds exactly these rows, in whatever order they came."""
    content = "\n".join(sorted(f"{clip_id}\0{key}" for clip_id, key in zip(clip_ids, keys, strict=True)))
    return hashlib.sha256(content.encode()).hexdigest()[:32] + ".parquet"


class Table:
    """The rows of one step under one digest.

    Args:
        tables: the folder of all tables.
        step: the step's name.
        schema: the columns of a row without ``key`` (``Stage.schema``).
        spec: JSON-able; everything that the rows depend on beside their own inputs.
        reads: the tables it is made from.
    """

    def __init__(
        self, tables: Store, step: str, schema: pa.Schema, spec: Mapping[str, Any], reads: Iterable[Table] = ()
    ) -> None:
        self.step = step
        self.spec: dict[str, Any] = {"step": step, **spec, "reads": {table.step: table.digest for table in reads}}
        self.digest: str = config.digest(self.spec)
        self.schema = schema.insert(1, KEY_FIELD)
        self.store = tables / f"{step}/{self.digest}"

    def describe(self) -> None:
        """Write ``_table.json``, unless it is there."""
        text = json.dumps({**self.spec, "mer_ray": __version__}, indent=2, sort_keys=True, ensure_ascii=False)
        if not self.store.exists("_table.json"):
            self.store.put_if_absent("_table.json", text.encode())

    def parts(self) -> dict[str, Stamp]:
        """The parts that are there, by name."""
        return {name: it for name, it in self.store.stamps(by_digit=True).items() if name.endswith(".parquet")}

    def commit(self, rows: pa.Table, keys: Sequence[str], provenance: Mapping[str, str]) -> dict[str, RowRef] | None:
        """Put the rows as one part, and tell where they stand; None when a part of the same rows was there already.

        Args:
            rows: in the step's schema, without ``key``.
            keys: one per row.
            provenance: model id, revision, dtype, pooling and the like, written into the part.
        """
        rows = rows.add_column(1, KEY_FIELD, pa.array(keys, pa.string())).cast(self.schema)
        metadata = {**provenance, "step": self.step, "digest": self.digest, "mer_ray": __version__}
        rows = rows.replace_schema_metadata({"mer_ray": json.dumps(metadata, sort_keys=True)})
        name, data = part_name(rows["clip_id"].to_pylist(), list(keys)), _to_parquet(rows)
        if not self.store.put_if_absent(name, data):
            return None
        return _refs(name, rows, len(data))

    def index(
        self,
        keys: Mapping[str, str],
        on_corrupt: Callable[[str, str], None] = lambda part, why: None,
        touch: bool = True,
    ) -> Refs:
        """Where the row of each wanted clip stands; clips without a row are left out.

        Parts that ``_index.parquet`` knows are not opened; the others are, and written down there. On a local disk such
        a part is checked whole, by the checksum of each page; in S3 its footer and keys, the rest being checked when it
        is read. One that is truncated or altered is moved to ``_corrupt/``, so that its rows are made again.

        Args:
            keys: the key of each wanted clip.
            on_corrupt: told the part's name and what is wrong with it.
            touch: whether such a part is moved; else its rows are missing all the same, and nothing is changed.
        """
        stamps = self.parts()
        stored = Index.read(self.store) if stamps else Index()
        known = stored.of(stamps)
        new = sorted(stamps.keys() - known.names())
        read = []
        with ThreadPoolExecutor(_READERS if self.store.is_local else _CONNECTIONS) as pool:
            for part, rows in zip(
                new, pool.map(lambda part: self._read_keys(part, stamps[part].size), new), strict=True
            ):
                if isinstance(rows, CorruptPartError):
                    if touch:
                        self.discard(part)
                    on_corrupt(part, str(rows))
                else:
                    read.append((part, stamps[part], rows))
        index = known.with_parts(read)
        if touch and (read or known is not stored):
            self._write(index)
        return index.refs(Keys.of(keys))

    def remember(self, keys: Mapping[str, str], refs: Refs) -> None:
        """Write down what the parts hold that ``refs`` tells of, so that nobody opens them to find their rows."""
        stamps = self.parts()
        self._write(Index.read(self.store).of(stamps).with_rows(stamps, Keys.of(keys), refs))

    def found(self, clip_ids: Sequence[str], keys: Sequence[str]) -> dict[str, RowRef] | None:
        """Where the rows of the part of exactly these stand; None where it is not there, or damaged and set aside."""
        part = part_name(clip_ids, keys)
        try:
            num_bytes = self.store.size(part)
        except FileNotFoundError:
            return None
        rows = self._read_keys(part, num_bytes)
        if isinstance(rows, CorruptPartError):
            self.discard(part)
            return None
        return _refs(part, rows, num_bytes)

    def take(self, refs: Sequence[RowRef | None], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows at ``refs``, in that order, as a table of ``columns`` (all by default); all null for a ``None``.

        Raises:
            CorruptPartError: a part is truncated or altered; it was moved aside, and its rows can be made again.
        """
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        schema = pa.schema([field.with_nullable(True) for field in schema])
        by_part: dict[tuple[str, int], list[int]] = {}
        for place, ref in enumerate(refs):
            if ref is not None:
                by_part.setdefault((ref.part, ref.num_bytes), []).append(place)
        pieces, places = [], []
        for (part, num_bytes), part_places in by_part.items():
            wanted = [ref.row for place in part_places if (ref := refs[place]) is not None]
            pieces.append(self._read_rows(part, num_bytes, wanted, schema.names).cast(schema))
            places.extend(part_places)
        missing = [place for place, ref in enumerate(refs) if ref is None]
        pieces.append(pa.table([pa.nulls(len(missing), field.type) for field in schema], schema=schema))
        order = {place: row for row, place in enumerate([*places, *missing])}
        return pa.concat_tables(pieces).take(pa.array([order[place] for place in range(len(refs))], pa.int64()))

    def discard(self, part: str) -> None:
        """Move a part out of the readers' sight, to ``_corrupt/``."""
        self.store.move_aside(part, "_corrupt")

    def _write(self, index: Index) -> None:
        with contextlib.suppress(StorageError):  # nothing is lost without it, and whoever only reads may not write
            index.write(self.store)

    def _read_keys(self, part: str, num_bytes: int) -> pa.Table | CorruptPartError:
        try:
            with self._open(part, num_bytes) as file:
                if not file.schema_arrow.equals(self.schema):
                    return CorruptPartError(f"{self.store.path(part)}: its columns are not those of the step")
                if self.store.is_local:
                    for group in range(file.num_row_groups):
                        file.read_row_group(group)
                return file.read(list(ROW_COLUMNS))
        except Exception as error:
            if fault := machine_fault(error):
                raise fault from error
            if not isinstance(error, _DAMAGE):
                raise
            return CorruptPartError(f"{self.store.path(part)} is truncated or altered: {error}")

    def _read_rows(self, part: str, num_bytes: int, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        try:
            with self._open(part, num_bytes) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                starts = np.cumsum([0, *sizes])
                group_of = np.searchsorted(starts, rows, side="right") - 1
                groups = np.unique(group_of)
                ahead = np.cumsum([0, *(sizes[group] for group in groups)])[np.searchsorted(groups, group_of)]
                read = file.read_row_groups(groups.tolist(), columns=list(columns))
                return read.take(pa.array(np.asarray(rows) - starts[group_of] + ahead))
        except Exception as error:
            if fault := machine_fault(error):
                raise fault from error
            if not isinstance(error, _DAMAGE):
                raise
            self.discard(part)
            raise CorruptPartError(
                f"{self.store.path(part)} is truncated or altered ({error}); it was moved to _corrupt/, "
                "give the same command again and its rows are made anew",
                self.step,
            ) from error

    def _open(self, part: str, num_bytes: int) -> pq.ParquetFile:
        local = self.store.is_local
        source: Any = self.store.path(part)
        if not local and num_bytes <= _WHOLE_BYTES:
            source = pa.BufferReader(self.store.read(part))
        elif not local:
            source = self.store.open(part, num_bytes)
        # pre_buffer: in S3 the columns of a row group that lie close together are fetched in one request
        return pq.ParquetFile(source, memory_map=local, pre_buffer=not local, page_checksum_verification=True)


def _refs(part: str, rows: pa.Table, num_bytes: int) -> dict[str, RowRef]:
    """Where each row of a part stands."""
    columns = [rows[name].to_pylist() for name in ("clip_id", "present", "error", "detail")]
    return {
        clip_id: RowRef(part, row, present, error, detail, num_bytes)
        for row, (clip_id, present, error, detail) in enumerate(zip(*columns, strict=True))
    }


def _to_parquet(rows: pa.Table) -> bytes:
    """Parquet with a checksum per page and row groups small enough to read single clips."""
    per_row = max(1, rows.nbytes // max(1, rows.num_rows))
    group = max(1, min(_MAX_ROWS_PER_GROUP, _ROW_GROUP_BYTES // per_row))
    sink = io.BytesIO()
    pq.write_table(
        rows,
        sink,
        row_group_size=group,
        compression="zstd",
        use_dictionary=False,
        write_page_checksum=True,
    )
    return sink.getvalue()

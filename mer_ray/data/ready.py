"""Ready features: vectors that the user made with other tools, brought into the order of the manifest.

A folder holds, per encoder, ``<encoder>.parquet`` (``clip_id``, ``vector``), ``<encoder>.npz`` (``clip_id`` (N,),
``vector`` (N, D)), or a folder of one ``.npy`` per clip as MERTools writes it (``data.ready_folder``).
Files are read in pieces straight into the result: 115,595 x 5120 float16 needs its 1.2 GB and about 0.2 more.

Shapes: N clips of the manifest, R rows of a file, D width.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mer_ray.data import arrays, ready_folder
from mer_ray.data.features import Feature
from mer_ray.data.files import identify
from mer_ray.data.room import Room
from mer_ray.data.storage import Store
from mer_ray.errors import ClipError, ConfigError, FeatureFileError, Reason, machine_fault
from mer_ray.registry import nearest
from mer_ray.types import Modality

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a feature may be called: its name is that of files and folders, too."""

_PIECE_BYTES = 32 * 2**20
_PARQUET_ROWS = 1024
_READ_BYTES = 4 * 2**20


@dataclass(frozen=True)
class ReadyFeature:
    """One encoder's ready features, found and not yet read.

    Attributes:
        name: the encoder's name: the file's or folder's.
        modality: ``types.Modality`` or the user's own word.
        path: local path or ``s3://`` address of the file, or of MERTools' folder.
        digest: changes when any of its files does.
    """

    name: str
    modality: str
    path: str
    digest: str


@dataclass(frozen=True)
class Loaded:
    """A ready feature in the manifest's order.

    Attributes:
        feature: ``values`` (N, D) float16 or float32; clips without a row, or with a bad one, are not ``present``.
        quarantine: rows for ``quarantine.parquet``: ``clip_id``, ``step`` (the encoder), ``error``, ``detail``.
        num_unknown: rows whose clip is not in the manifest; they are ignored.
    """

    feature: Feature
    quarantine: tuple[dict[str, str], ...]
    num_unknown: int


def discover(folder: str, modalities: Mapping[str, str]) -> tuple[ReadyFeature, ...]:
    """What ready features a folder holds, sorted by name.

    The modality is the name itself if that is a ``types.Modality``, else what ``modalities`` says, else for MERTools'
    folders that of the encoder they are named after, else one of its own, called as the encoder.

    Args:
        folder: local path or ``s3://`` address (``data.features``).
        modalities: ``data.modalities``.

    Raises:
        FeatureFileError: the folder holds no features, or two of one name.
        ConfigError: ``modalities`` names a feature that is not there.
    """
    store = Store(folder)
    paths: dict[str, str] = {}
    for file in store.files():
        name, _, ending = file.rpartition(".")
        if ending in ("parquet", "npz"):
            _claim(paths, name, store.path(file))
    for name in ready_folder.preferred(store.folders()):
        if ready_folder.entries(store.path(name)):
            _claim(paths, name, store.path(name))
    if not paths:
        raise FeatureFileError(
            f"{folder} holds no features; put <encoder>.parquet or <encoder>.npz there, or a folder <encoder>/ of "
            "<clip_id>.npy"
        )
    for name in modalities:
        if name not in paths:
            raise ConfigError(f"data.modalities.{name}: no such feature in {folder}{nearest(name, list(paths))}")
    return tuple(
        ReadyFeature(name, _modality(name, paths[name], modalities), paths[name], _digest(paths[name]))
        for name in sorted(paths)
    )


def load(ready: ReadyFeature, clip_ids: Sequence[str], room: Room | None = None) -> Loaded:
    """Read the vectors into ``room`` (memory, when None) and bring them into the order of ``clip_ids``.

    Raises:
        FeatureFileError: the file is damaged, empty, of another form or type, ragged, or has a clip twice.
        StorageError: S3 refused to be read.
    """
    rows = _Rows(ready, clip_ids, room or Room())
    try:
        if ready.path.endswith(".parquet"):
            _read_parquet(ready.path, rows)
        elif ready.path.endswith(".npz"):
            _read_npz(ready.path, rows)
        else:
            _read_folder(ready.path, rows)
    except (pa.ArrowException, zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError) as error:
        if fault := machine_fault(error):
            raise fault from error
        raise rows.fault(f"is truncated or is not of its form ({error}); write it again") from error
    return rows.finish()


@dataclass
class _Rows:
    """The result while it is filled, piece by piece."""

    ready: ReadyFeature
    clip_ids: Sequence[str]
    room: Room
    values: NDArray[np.floating] | None = None
    quarantine: list[dict[str, str]] = field(default_factory=list)
    num_unknown: int = 0

    def __post_init__(self) -> None:
        self.place = {clip_id: row for row, clip_id in enumerate(self.clip_ids)}
        self.present = np.zeros(len(self.clip_ids), bool)
        self.seen: set[str] = set()

    def fault(self, what: str) -> FeatureFileError:
        """The error that names the file."""
        return FeatureFileError(f"ready feature {self.ready.path} {what}")

    def add(self, clip_ids: Sequence[str], vectors_RD: NDArray[Any]) -> None:
        """Put the vectors of these clips where they belong.

        Raises:
            FeatureFileError: wrong type or width, or a clip for the second time.
        """
        self._check(clip_ids, vectors_RD)
        if self.values is None:
            kept = np.float16 if vectors_RD.dtype == np.float16 else np.float32
            self.values = self.room.zeros((len(self.clip_ids), vectors_RD.shape[1]), kept)
        places = np.array([self.place.get(clip_id, -1) for clip_id in clip_ids], np.int64)
        finite = _stays_finite(vectors_RD, self.values.dtype)
        self.num_unknown += int((places < 0).sum())
        for row in np.flatnonzero((places >= 0) & ~finite).tolist():
            bad = int((~np.isfinite(vectors_RD[row])).sum())
            self.reject(clip_ids[row], Reason.NOT_FINITE, f"{bad or 'too large'} of {vectors_RD.shape[1]} values")
        good = (places >= 0) & finite
        self.values[places[good]] = vectors_RD[good]
        self.present[places[good]] = True

    def reject(self, clip_id: str, reason: Reason, detail: str) -> None:
        """Quarantine one clip's vector."""
        row = {"clip_id": clip_id, "step": self.ready.name, "error": str(reason), "detail": detail}
        self.quarantine.append(row)

    def finish(self) -> Loaded:
        """The whole result.

        Raises:
            FeatureFileError: there is nothing for the manifest's clips.
        """
        if not self.present.any() and not self.quarantine:
            example = f", for instance {min(self.seen)!r}" if self.seen else ""
            raise self.fault(
                f"has no vector for any clip of the manifest, and {self.num_unknown} for others{example}; "
                "write one row per clip, under the manifest's clip_id"
            )
        values = np.zeros((len(self.clip_ids), 1), np.float32) if self.values is None else self.values
        feature = Feature(self.ready.name, self.ready.modality, values, self.present)
        return Loaded(feature, tuple(self.quarantine), self.num_unknown)

    def _check(self, clip_ids: Sequence[str], vectors_RD: NDArray[Any]) -> None:
        if not np.issubdtype(vectors_RD.dtype, np.floating):
            raise self.fault(f"has vectors of type {vectors_RD.dtype}; write float16 or float32")
        if vectors_RD.ndim != 2 or not vectors_RD.shape[1]:
            raise self.fault(f"has vectors of shape {vectors_RD.shape}; write one vector of the same width per clip")
        if self.values is not None and vectors_RD.shape[1] != self.values.shape[1]:
            raise self.fault(
                f"is ragged: the vector of {clip_ids[0]!r} is {vectors_RD.shape[1]} wide, those before it "
                f"{self.values.shape[1]}; pool frames to one vector per clip first"
            )
        for clip_id in clip_ids:
            if clip_id in self.seen:
                raise self.fault(f"has clip {clip_id!r} twice; keep one row per clip")
            self.seen.add(clip_id)


def _stays_finite(vectors_RD: NDArray[Any], kept: np.dtype[np.floating]) -> NDArray[np.bool_]:
    """Which rows are finite, also once they are of type ``kept``, bool (R,)."""
    finite: NDArray[np.bool_] = np.isfinite(vectors_RD).all(axis=1)
    if vectors_RD.dtype.itemsize > kept.itemsize:
        finite &= (np.abs(vectors_RD) <= np.finfo(kept).max).all(axis=1)
    return finite


def _claim(paths: dict[str, str], name: str, path: str) -> None:
    if not NAME.fullmatch(name):
        raise FeatureFileError(f"{path}: the name of a feature has letters, digits, '.', '_' and '-'; rename it")
    if name in paths:
        raise FeatureFileError(f"{paths[name]} and {path} are both the feature {name!r}; keep one")
    paths[name] = path


def _modality(name: str, path: str, modalities: Mapping[str, str]) -> str:
    if name in set(Modality):
        return name
    if name in modalities:
        return modalities[name]
    known = None if path.endswith((".parquet", ".npz")) else ready_folder.modality_of(name)
    return known or name


def _digest(path: str) -> str:
    is_file = path.endswith((".parquet", ".npz"))
    identities = [identify([path])[path]] if is_file else ready_folder.identities(path)
    return hashlib.sha256("\n".join(identities).encode()).hexdigest()[:16]


def _read_folder(path: str, rows: _Rows) -> None:
    found = ready_folder.entries(path)
    wanted = {clip_id: found[clip_id] for clip_id in rows.clip_ids if clip_id in found}
    rows.num_unknown = len(found) - len(wanted)
    for clip_id, vector in ready_folder.read(wanted):
        if isinstance(vector, ClipError):
            rows.reject(clip_id, vector.reason, vector.detail)
        elif vector is not None:
            rows.add([clip_id], vector[np.newaxis])


@contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    with fsspec.open(path, "rb") as file:
        yield file


def _read_parquet(path: str, rows: _Rows) -> None:
    with _open(path) as file, pq.ParquetFile(file, buffer_size=_READ_BYTES, pre_buffer=False) as parquet:
        names = parquet.schema_arrow.names
        if "clip_id" not in names or "vector" not in names:
            raise rows.fault(f"has the columns {', '.join(names)}; it needs clip_id and vector")
        for batch in parquet.iter_batches(batch_size=_PARQUET_ROWS, columns=["clip_id", "vector"]):
            clip_ids = _strings(batch.column("clip_id"), rows)
            vectors = batch.column("vector")
            given = np.asarray(pc.is_valid(vectors))
            if given.any():
                present_ids = [clip_id for clip_id, there in zip(clip_ids, given, strict=True) if there]
                rows.add(present_ids, _stack(vectors.filter(pa.array(given)), present_ids, rows))


def _strings(column: pa.Array, rows: _Rows) -> list[str]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) or column.null_count:
        raise rows.fault(f"has clip_id of type {column.type}, {column.null_count} of them null; write strings")
    strings: list[str] = column.to_pylist()
    return strings


def _stack(vectors: pa.Array, clip_ids: Sequence[str], rows: _Rows) -> NDArray[Any]:
    """A column of lists without nulls as (R, D), without Python floats in between."""
    kind = vectors.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise rows.fault(f"has vector of type {kind}; write a list of floats per clip")
    if not pa.types.is_floating(kind.value_type):
        raise rows.fault(f"has vectors of {kind.value_type}; write float16 or float32")
    widths = np.asarray(pc.list_value_length(vectors))
    if (odd := np.flatnonzero(widths != widths[0])).size:
        raise rows.fault(
            f"is ragged: the vector of {clip_ids[int(odd[0])]!r} is {widths[odd[0]]} wide, "
            f"that of {clip_ids[0]!r} {widths[0]}; pool frames to one vector per clip first"
        )
    stacked: NDArray[Any] = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), int(widths[0]))
    return stacked


def _read_npz(path: str, rows: _Rows) -> None:
    with _open(path) as file, zipfile.ZipFile(file) as archive:
        if missing := {"clip_id.npy", "vector.npy"} - set(archive.namelist()):
            raise rows.fault(f"lacks the array {min(missing).removesuffix('.npy')}; it needs clip_id and vector")
        ids = arrays.load(archive.read("clip_id.npy"))
        if ids.dtype.kind not in "US" or ids.ndim != 1:
            raise rows.fault(f"has clip_id of type {ids.dtype} and shape {ids.shape}; write np.array(ids, dtype=str)")
        clip_ids = [str(clip_id) for clip_id in (np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids)]
        done = 0
        with archive.open("vector.npy") as member:
            for piece in _pieces(member, len(clip_ids), rows):
                rows.add(clip_ids[done : done + len(piece)], piece)
                done += len(piece)


def _pieces(member: IO[bytes], num_clips: int, rows: _Rows) -> Iterator[NDArray[Any]]:
    """The rows of an ``.npy`` (R, D) array, a piece at a time; an array in Fortran order comes whole."""
    shape, by_columns, dtype = arrays.read_header(member)
    if dtype.kind != "f":
        raise rows.fault(f"has vectors of type {dtype}; write float16 or float32")
    if len(shape) != 2 or shape[0] != num_clips or not shape[1]:
        raise rows.fault(f"has {num_clips} clip_id and vector of shape {shape}; write ({num_clips}, width)")
    if by_columns:
        yield np.frombuffer(member.read(), dtype).reshape(shape, order="F")
        return
    row_bytes = shape[1] * dtype.itemsize
    step = max(_PIECE_BYTES // row_bytes, 1)
    for start in range(0, num_clips, step):
        count = min(step, num_clips - start)
        yield np.frombuffer(_read_exactly(member, count * row_bytes), dtype).reshape(count, shape[1])
    if member.read(1):
        raise ValueError("bytes are left over")


def _read_exactly(member: IO[bytes], num_bytes: int) -> bytes:
    data = member.read(num_bytes)
    if len(data) != num_bytes:
        raise EOFError("the array ends early")
    return data

"""Features in the forms that other tools read: MERTools' ``.npy`` files, a Hugging Face dataset.

Shapes: N clips, T frames, D width.
"""

from __future__ import annotations

import importlib.util
import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mer_ray.config import EncoderConfig, ExportConfig
from mer_ray.data.rows import RowRef
from mer_ray.data.storage import Store
from mer_ray.data.table import Table
from mer_ray.errors import ConfigError
from mer_ray.types import Clip, Split

_READ_AT_ONCE = 256
_WRITERS = 8
_VECTOR, _FRAMES = "vector", "frames"
_OF_A_CLIP = ("clip_id", "text", "speaker", "label", "valence")
_HUGGINGFACE_MARK = "dataset_dict.json"


@dataclass(frozen=True)
class FeatureTable:
    """One encoder's table, and where the clips' rows stand in it.

    Attributes:
        name: the feature's name.
        table: has ``vector``, perhaps ``vector_<pooling>``, and ``frames``, ``num_frames``, ``dim`` with sequences.
        refs: where the row of each clip stands.
        frames_dtype: of ``frames``; None without sequences.
    """

    name: str
    table: Table
    refs: Mapping[str, RowRef]
    frames_dtype: str | None = None

    @property
    def vectors(self) -> dict[str, int]:
        """The columns that hold one vector per clip, and their widths."""
        return {field.name: field.type.list_size for field in self.table.schema if field.name.startswith(_VECTOR)}

    def read(self, clip_ids: Sequence[str]) -> dict[str, dict[str, NDArray[np.floating]]]:
        """The arrays of each clip that has any, by column: vectors (D,), frames (T, D)."""
        present = [clip_id for clip_id in clip_ids if self.refs[clip_id].present]
        sequences = [_FRAMES, "num_frames", "dim"] if self.frames_dtype else []
        rows = self.table.take([self.refs[clip_id] for clip_id in present], [*self.vectors, *sequences])
        columns: dict[str, Sequence[NDArray[np.floating]]] = {
            name: rows[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
            for name, width in self.vectors.items()
        }
        if self.frames_dtype:
            columns[_FRAMES] = _frames(rows, self.frames_dtype)
        return {clip_id: {name: column[i] for name, column in columns.items()} for i, clip_id in enumerate(present)}


def to_mertools(features: Sequence[FeatureTable], clip_ids: Sequence[str], root: str) -> tuple[str, ...]:
    """Write ``features/<FEAT>-UTT/NAME.npy`` (D,) and, of features with sequences, ``<FEAT>-FRA/NAME.npy`` (T, D).

    Where a feature has several poolings, those after the first are ``<FEAT>-<pooling>-UTT``. A clip that lacks the
    feature has zeros, one frame of them, as the toolbox writes it: a missing file would stop the toolbox.

    Args:
        features: what to write.
        clip_ids: the clips, all of them in every feature's ``refs``.
        root: local path or ``s3://`` address of the dataset's folder.

    Returns:
        The folders, within ``root``.

    Raises:
        StorageError: a table cannot be read, or the folder cannot be written.
    """
    store = Store(root)
    folders: list[str] = []
    for feature in features:
        named = {column: f"features/{_mertools_name(feature.name, column)}" for column in feature.vectors}
        blank: dict[str, NDArray[Any]] = {name: np.zeros(width, np.float32) for name, width in feature.vectors.items()}
        if feature.frames_dtype:
            named[_FRAMES] = f"features/{_mertools_name(feature.name, _FRAMES)}"
            blank[_FRAMES] = np.zeros((1, _frame_width(feature)), feature.frames_dtype)
        with ThreadPoolExecutor(_WRITERS) as pool:
            for part in _parts(clip_ids):
                made = feature.read(part)
                files = [
                    (f"{folder}/{clip_id}.npy", made.get(clip_id, blank)[column])
                    for clip_id in part
                    for column, folder in named.items()
                ]
                for _ in pool.map(lambda file: store.write(file[0], _to_npy(file[1])), files):
                    pass
        folders.extend(named.values())
    return tuple(folders)


def check_names(encoders: Mapping[str, EncoderConfig], wanted: ExportConfig) -> None:
    """Whether what is written of each feature has a name of its own, before anything is started.

    Raises:
        ConfigError: two features, or a feature and a fact of the clip, would have one name.
    """
    columns = {
        name: [
            _VECTOR,
            *(f"{_VECTOR}_{how}" for how in encoder.poolings[1:]),
            *([_FRAMES] if encoder.sequences else []),
        ]
        for name, encoder in encoders.items()
    }
    if wanted.mertools:
        _check_distinct("mertools", {name: [_mertools_name(name, c) for c in made] for name, made in columns.items()})
    if wanted.huggingface:
        own = {name: [_huggingface_name(name, c) for c in made] for name, made in columns.items()}
        _check_distinct("huggingface", own, _OF_A_CLIP)


def _check_distinct(key: str, names: Mapping[str, Sequence[str]], taken: Sequence[str] = ()) -> None:
    owners = dict.fromkeys(taken, "the clip itself")
    for encoder, made in names.items():
        for name in made:
            if name in owners:
                raise ConfigError(
                    f"export.{key}: encoders.{encoder} and {owners[name]} would both be {name}; rename it"
                )
            owners[name] = f"encoders.{encoder}"


def check_huggingface(folder: str) -> None:
    """Whether a Hugging Face dataset can be written there, before anything is started.

    Raises:
        ConfigError: the library is not installed, or the folder holds something else.
    """
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError(
            "export.huggingface needs the library datasets, which is not installed: "
            "pip install -c constraints.txt -e '.[huggingface]'"
        )
    store = Store(folder)
    if not store.exists(_HUGGINGFACE_MARK) and (store.files() or store.folders()):
        raise ConfigError(f"export.huggingface={folder} holds something that is no dataset; name an empty folder")


def to_huggingface(
    features: Sequence[FeatureTable], clips: Sequence[Clip], class_names: Sequence[str], folder: str
) -> tuple[str, ...]:
    """Write a ``datasets.DatasetDict`` with a dataset per split, for ``datasets.load_from_disk``.

    Columns: ``clip_id``, ``text``, ``speaker``, ``valence``, ``label`` (``ClassLabel``; only where there are classes),
    and per feature ``<name>`` (D,), ``<name>_<pooling>`` and ``<name>_frames`` (T, D). What a clip lacks is null.
    A dataset that was there is replaced when all is written.

    Args:
        features: what to write.
        clips: the rows, in this order within their split.
        class_names: the label space; may be empty.
        folder: local path or ``s3://`` address.

    Returns:
        The splits written.

    Raises:
        ConfigError: see ``check_huggingface``.
        StorageError: a table cannot be read, or the folder cannot be written.
    """
    check_huggingface(folder)
    import datasets  # noqa: PLC0415 - an optional dependency

    datasets.disable_progress_bars()
    store = Store(folder)
    splits = {split: [clip for clip in clips if clip.split is split] for split in Split}
    splits = {split: rows for split, rows in splits.items() if rows}
    if store.is_local:
        Path(folder).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=Path(folder).parent if store.is_local else None) as beside:
        made = datasets.DatasetDict(
            {
                str(split): datasets.Dataset.from_generator(
                    partial(_examples, features, rows, bool(class_names)),
                    features=_schema(features, class_names),
                    cache_dir=f"{beside}/cache",
                    fingerprint=str(split),
                )
                for split, rows in splits.items()
            }
        )
        made.save_to_disk(f"{beside}/whole" if store.is_local else folder)
        if store.is_local:
            shutil.rmtree(folder, ignore_errors=True)
            Path(f"{beside}/whole").rename(folder)
    return tuple(str(split) for split in splits)


def _schema(features: Sequence[FeatureTable], class_names: Sequence[str]) -> Any:  # noqa: ANN401 - optional library
    from datasets import ClassLabel, Features, List, Value  # noqa: PLC0415 - an optional dependency

    columns: dict[str, Any] = {name: Value("string") for name in ("clip_id", "text", "speaker")}
    columns["valence"] = Value("float32")
    if class_names:
        columns["label"] = ClassLabel(names=list(class_names))
    for feature in features:
        for column, width in feature.vectors.items():
            columns[_huggingface_name(feature.name, column)] = List(Value("float32"), length=width)
        if feature.frames_dtype:
            frame = List(Value(feature.frames_dtype), length=_frame_width(feature))
            columns[_huggingface_name(feature.name, _FRAMES)] = List(frame)
    return Features(columns)


def _examples(features: Sequence[FeatureTable], clips: Sequence[Clip], has_classes: bool) -> Iterator[dict[str, Any]]:
    by_id = {clip.clip_id: clip for clip in clips}
    for part in _parts(list(by_id)):
        made = {feature.name: feature.read(part) for feature in features}
        for clip_id in part:
            clip = by_id[clip_id]
            row: dict[str, Any] = {name: getattr(clip, name) for name in ("clip_id", "text", "speaker", "valence")}
            if has_classes:
                row["label"] = clip.label
            for feature in features:
                arrays = made[feature.name].get(clip_id, {})
                columns = [*feature.vectors, *([_FRAMES] if feature.frames_dtype else [])]
                row |= {_huggingface_name(feature.name, column): arrays.get(column) for column in columns}
            yield row


def _frames(rows: pa.Table, dtype: str) -> list[NDArray[np.floating]]:
    columns = (rows[_FRAMES], rows["num_frames"].to_pylist(), rows["dim"].to_pylist())
    return [
        np.frombuffer(data.as_buffer(), dtype).reshape(num_frames, dim)
        for data, num_frames, dim in zip(*columns, strict=True)
    ]


def _frame_width(feature: FeatureTable) -> int:
    """D of the frames of a feature; 1 when no clip has any."""
    ref = next((ref for ref in feature.refs.values() if ref.present), None)
    return 1 if ref is None else int(feature.table.take([ref], ["dim"])["dim"][0].as_py())


def _mertools_name(feature: str, column: str) -> str:
    if column == _FRAMES:
        return f"{feature}-FRA"
    return "-".join(filter(None, [feature, column.removeprefix(_VECTOR).strip("_"), "UTT"]))


def _huggingface_name(feature: str, column: str) -> str:
    return feature + column.removeprefix(_VECTOR) if column.startswith(_VECTOR) else f"{feature}_{column}"


def _parts(clip_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    yield from (clip_ids[start : start + _READ_AT_ONCE] for start in range(0, len(clip_ids), _READ_AT_ONCE))


def _to_npy(array: NDArray[Any]) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()

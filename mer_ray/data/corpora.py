"""MERTools' ``label-*.npz``: corpora of labels pickled by numpy, read by an unpickler that admits plain values only."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_ray.errors import ManifestError

CLASSES = ("neutral", "angry", "happy", "sad", "worried", "surprise")
"""The toolbox's order of classes, for labels stored as numbers (LAYOUTS)."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The label of one clip as the toolbox stores it; None where there is none."""

    emotion: str | None
    valence: float | None


def read(data: bytes, path: str) -> dict[str, dict[str, Mark]]:
    """The corpora of a label file (``train_corpus``, ``test1_corpus``, ...) and the marks of their clips by name.

    Args:
        data: the file's bytes.
        path: for messages.

    Raises:
        ManifestError: it is no such file, or holds anything but dicts, text and numbers; nothing in it is ever run.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [name for name in archive.namelist() if name.endswith("_corpus.npy")]
            found = {name.removesuffix(".npy"): _load(archive.read(name)) for name in members}
    except pickle.UnpicklingError as error:
        raise ManifestError(f"{path} is refused: {error}") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise ManifestError(f"{path} cannot be read as a label file of MERTools: {error!r}") from error
    if not found:
        raise ManifestError(f"{path} is refused: it holds no train_corpus or other *_corpus")
    return {name: _marks(corpus, f"{path} {name}") for name, corpus in found.items()}


def _load(member: bytes) -> object:
    """The one object of a pickled ``.npy``."""
    file = io.BytesIO(member)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = read_header(file)
    if not dtype.hasobject:
        raise pickle.UnpicklingError(f"an array of {dtype} where a dictionary is wanted")
    array = _PlainUnpickler(file, encoding="latin1").load()
    if not isinstance(array, np.ndarray) or array.size != 1:
        raise pickle.UnpicklingError("it holds no single dictionary")
    return array.reshape(-1)[0]


class _NdarrayName:
    """Stands for ``numpy.ndarray`` in a pickle, where numpy only names it; calling it makes no array."""


def _new_array(kind: object, shape: object, typecode: object) -> NDArray[Any]:
    """What numpy's ``_reconstruct`` does, for the empty array that numpy writes: a larger one is a bomb."""
    if kind is not _NdarrayName or shape != (0,):
        raise pickle.UnpicklingError("an array that numpy did not write")
    return np.ndarray((0,), "b")


def _encode(text: str, encoding: str) -> bytes:
    """What old pickles make bytes with."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded as {encoding}")
    return text.encode(encoding)


class _PlainUnpickler(pickle.Unpickler):
    """Admits dict, str, numbers and numpy's scalars and arrays of them; everything else is refused by name."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - the base class's signature
        numpy_module = module.replace("numpy.core", "numpy._core")
        admitted: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): _NdarrayName,
            ("numpy", "dtype"): np.dtype,
            ("numpy._core.multiarray", "_reconstruct"): _new_array,
            ("numpy._core.multiarray", "scalar"): np._core.multiarray.scalar,  # type: ignore[attr-defined]
            ("_codecs", "encode"): _encode,
        }
        if (numpy_module, name) not in admitted:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which is no label; do not trust this file")
        return admitted[numpy_module, name]


def _marks(corpus: object, where: str) -> dict[str, Mark]:
    if not isinstance(corpus, dict):
        raise ManifestError(f"{where} is refused: {type(corpus).__name__} where a dictionary by clip is wanted")
    marks = {}
    for name, entry in corpus.items():
        if not isinstance(entry, dict):
            raise ManifestError(f"{where} is refused: clip {name!r} has no {{'emo': ..., 'val': ...}}")
        marks[str(name)] = _mark(entry, f"{where}, clip {name!r}")
    return marks


def _mark(entry: Mapping[object, object], where: str) -> Mark:
    emotion, valence = entry.get("emo"), entry.get("val")
    if isinstance(emotion, int | np.integer):
        if not 0 <= emotion < len(CLASSES):
            raise ManifestError(f"{where} is refused: emo {emotion} is not one of 0..{len(CLASSES) - 1}")
        emotion = CLASSES[int(emotion)]
    if not isinstance(emotion, str | None) or not isinstance(valence, int | float | np.number | None):
        raise ManifestError(f"{where} is refused: emo {emotion!r}, val {valence!r} are not a name and a number")
    known = valence is not None and bool(np.isfinite(valence))
    return Mark(emotion and str(emotion), float(valence) if known and valence is not None else None)

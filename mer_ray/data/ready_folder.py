"""MERTools' feature folders: ``<FEAT>/NAME.npy``, (D,) or (T, D), or ``<FEAT>/NAME/*.npy`` of frames (LAYOUTS).

Frames are pooled by mean (METHODS, pooling). The toolbox writes zeros where a modality is absent; here it is absent.

Shapes: T frames, D width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from mer_ray.data import arrays
from mer_ray.data.files import identify, object_identity
from mer_ray.data.storage import Store
from mer_ray.errors import ClipError, Reason
from mer_ray.types import Modality

_READERS = 8
_WINDOW = 256

_ENCODERS = {
    Modality.JOINT: r"qwen2?(\.5)?-audio|salmonn|audio-?flamingo",
    Modality.AUDIO: r"hubert|wav2vec|wavlm|whisper|data2vec-audio|emotion2vec|opensmile|e?gemaps|is(09|10|11|13)"
    r"|compare|vggish|pann|ast|clap|mfcc|fbank|paraformer",
    Modality.VIDEO: r"clip|vit|internvit|internvl|eva-?02|dinov?|videomae|mae|(se|res)net\d*(face)?|manet|emonet"
    r"|ferplus|openface|pyfeat|msceleb|affectnet|denseface|densenet|videoclip|swin|timesformer",
    Modality.TEXT: r"\w*bert|\w*roberta|\w*electra|baichuan|\w*llama|chatglm|glm|qwen|gpt|xlnet|bloom\w*|opt"
    r"|vicuna|alpaca|falcon|moss|stablelm|mpt|lert|pert|ernie|sentence|bge|data2vec-text|t5|deberta",
}
"""Words of the toolbox's encoder names, whole words between ``-`` and ``_``; the first kind that matches decides."""


def modality_of(feature: str) -> str | None:
    """What a feature of the toolbox listens to, by the encoder it is named after; None for an unknown name.

    >>> modality_of("chinese-hubert-large-UTT"), modality_of("clip-vit-large-patch14-FRA"), modality_of("mine")
    ('audio', 'video', None)
    """
    for modality, words in _ENCODERS.items():
        if re.search(rf"(?:^|[-_])(?:{words})(?:\d*)(?:[-_]|$)", feature.lower()):
            return modality.value
    return None


def preferred(folders: Iterable[str]) -> list[str]:
    """The folders without those frame-level ones (``-FRA``) that are there pooled (``-UTT``) too."""
    names = list(folders)
    return [name for name in names if not (name[-4:] in ("-FRA", "_FRA") and f"{name[:-3]}UTT" in names)]


def entries(folder: str) -> dict[str, str]:
    """The clips of a feature folder: each one's ``.npy`` file or folder of frames."""
    store = Store(folder)
    frames = {name: store.path(name) for name in store.folders()}
    return frames | {name[:-4]: store.path(name) for name in store.files() if name.endswith(".npy")}


def identities(folder: str) -> list[str]:
    """What changes when any file of the folder does, sorted."""
    store = Store(folder)
    if store.is_local:
        found = identify(entries(folder).values())
    else:
        found = {name: object_identity(info) for name, info in store.details(deep=True).items()}
    return sorted(f"{name}:{identity}" for name, identity in found.items())


def read(paths: Mapping[str, str]) -> Iterator[tuple[str, NDArray[np.floating] | ClipError | None]]:
    """The vector (D,) of each clip, float32 or, as written, float16; None where it is absent; or why it is unusable.

    Args:
        paths: what ``entries`` found, for the clips wanted.
    """
    names = list(paths)
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(names), _WINDOW):
            window = names[start : start + _WINDOW]
            yield from zip(window, pool.map(_read_clip, (paths[name] for name in window)), strict=True)


def _read_clip(path: str) -> NDArray[np.floating] | ClipError | None:
    try:
        return _pool(_read_frames(path))
    except ClipError as error:
        return error


def _read_frames(path: str) -> Sequence[NDArray[np.floating]]:
    """The arrays of a clip, in the order of their names."""
    if path.endswith(".npy"):
        folder, _, name = path.rpartition("/")
        return [_parse(Store(folder).read(name) if "://" in path else _read_local(path), path)]
    store = Store(path)
    return [_parse(store.read(name), name) for name in store.files() if name.endswith(".npy")]


def _read_local(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _parse(data: bytes, path: str) -> NDArray[np.floating]:
    if not data:
        raise ClipError(Reason.EMPTY_FILE, f"{path} has no bytes")
    try:
        array: NDArray[np.floating] = arrays.load(data)
    except ValueError as error:
        raise ClipError(Reason.UNREADABLE, f"{path}: {error}") from error
    if array.dtype.kind != "f" or array.ndim not in (1, 2):
        raise ClipError(Reason.UNREADABLE, f"{path} is {array.dtype} {array.shape}, not float (D,) or (T, D)")
    return array


def _pool(arrays: Sequence[NDArray[np.floating]]) -> NDArray[np.floating] | None:
    frames = [np.atleast_2d(array) for array in arrays if array.size]
    if len({array.shape[1] for array in frames}) > 1:
        raise ClipError(Reason.UNREADABLE, f"frames of different widths: {sorted({a.shape[1] for a in frames})}")
    if not frames or not any(array.any() for array in frames):
        return None
    if len(frames) == 1 and len(frames[0]) == 1:
        vector: NDArray[np.floating] = frames[0][0]
        return vector
    mean: NDArray[np.float32] = np.concatenate(frames).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean

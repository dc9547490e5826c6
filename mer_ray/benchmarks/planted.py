"""Synthetic features with a planted signal, of any size, made block by block into files.

A clip has a hidden vector: its class's centre and noise. Each feature shows it, with noise of its own, through a random
map, as an encoder of that width would.

Shapes: N clips, L hidden numbers, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mer_ray.data.features import Feature, FeatureSet

_HIDDEN = 32
_CENTRES = 0.55
_NOISE = 1.0
_BLOCK = 2048


def make(folder: Path, num_clips: int, widths: Mapping[str, int], num_classes: int, seed: int) -> NDArray[np.int64]:
    """Write ``<feature>.npy``, float16 (N, D), for each width; the classes of the clips, int64 (N,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=num_clips)
    centres_CL = _CENTRES * rng.standard_normal((num_classes, _HIDDEN), dtype=np.float32)
    maps = {name: rng.standard_normal((_HIDDEN, dim), dtype=np.float32) for name, dim in widths.items()}
    files = {
        name: np.lib.format.open_memmap(_path(folder, name), mode="w+", dtype=np.float16, shape=(num_clips, dim))
        for name, dim in widths.items()
    }
    for start in range(0, num_clips, _BLOCK):
        rows = slice(start, min(start + _BLOCK, num_clips))
        hidden_BL = centres_CL[labels[rows]] + rng.standard_normal((len(labels[rows]), _HIDDEN), dtype=np.float32)
        for name, dim in widths.items():
            shown_BL = hidden_BL + _NOISE * rng.standard_normal(hidden_BL.shape, dtype=np.float32)
            values_BD = shown_BL @ maps[name] / np.sqrt(_HIDDEN, dtype=np.float32)
            files[name][rows] = values_BD + rng.standard_normal((len(values_BD), dim), dtype=np.float32)
    for file in files.values():
        file.flush()
    return labels


def read(folder: Path, modalities: Mapping[str, str], rows: slice) -> FeatureSet:
    """Some of the clips that ``make`` wrote, memory-mapped.

    Args:
        folder: where.
        modalities: of each feature, in the order wanted.
        rows: which clips.
    """
    features = []
    for name, modality in modalities.items():
        values = np.load(_path(folder, name), mmap_mode="r")[rows]
        features.append(Feature(name, modality, values, np.ones(len(values), dtype=bool)))
    numbers = range(*rows.indices(rows.stop))
    return FeatureSet(tuple(f"clip_{number:06d}" for number in numbers), tuple(features))


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"

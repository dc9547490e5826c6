"""Features larger than the memory set aside for them: kept in files and memory-mapped.

Fitting and predicting gather rows from the features where they lie, so that nothing else of their size is ever made.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mer_ray.data.features import Feature, FeatureSet

_BLOCK = 4096


def held(features: FeatureSet, memory_bytes: int, folder: Path) -> FeatureSet:
    """The features as they are, or, when they are larger than ``memory_bytes`` together, read from files.

    Args:
        features: of all clips.
        memory_bytes: ``fit.memory_bytes``.
        folder: where the files go; it must outlive what is returned.
    """
    if sum(feature.values.nbytes for feature in features.features) <= memory_bytes:
        return features
    mapped = (_mapped(feature, folder / f"{number}.npy") for number, feature in enumerate(features.features))
    return FeatureSet(features.clip_ids, tuple(mapped))


def _mapped(feature: Feature, path: Path) -> Feature:
    values = feature.values
    file = np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=values.shape)
    for start in range(0, len(values), _BLOCK):
        file[start : start + _BLOCK] = values[start : start + _BLOCK]
    file.flush()
    return replace(feature, values=np.load(path, mmap_mode="r"))

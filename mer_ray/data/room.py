"""Room for features of all clips: in memory, or memory-mapped once more bytes are taken than was set aside.

Fitting and predicting gather rows from the features where they lie, so that nothing else of their size is ever made.
"""

from __future__ import annotations

import math
import tempfile

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mer_ray.data.features import Feature, FeatureSet

_BLOCK = 4096


class Room:
    """Gives out arrays. Those that no longer fit in memory lie where temporary files do (``TMPDIR``).

    Their files have no name: they go when the arrays do.

    Args:
        memory_bytes: what arrays in memory may take together (``fit.memory_bytes``); no bound when None.
    """

    def __init__(self, memory_bytes: int | None = None) -> None:
        self.bytes_left = math.inf if memory_bytes is None else memory_bytes

    def zeros(self, shape: tuple[int, int], dtype: DTypeLike) -> NDArray[np.floating]:
        """An array of zeros."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size <= self.bytes_left or not size:
            self.bytes_left -= size
            return np.zeros(shape, dtype)
        with tempfile.TemporaryFile(prefix="mer_ray_") as file:
            # as a plain array: a memmap is copied into the message when it is sent to a worker
            return np.asarray(np.memmap(file, dtype, mode="w+", shape=shape))

    def copy(self, values_ND: NDArray[np.floating], rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """The rows of an array, in that order."""
        copied = self.zeros((len(rows), values_ND.shape[1]), values_ND.dtype)
        for start in range(0, len(rows), _BLOCK):
            copied[start : start + _BLOCK] = values_ND[rows[start : start + _BLOCK]]
        return copied

    def take(self, features: FeatureSet, rows: NDArray[np.int64]) -> FeatureSet:
        """As ``features.take``; the features themselves when ``rows`` are all clips in order."""
        if np.array_equal(rows, np.arange(len(features.clip_ids))):
            return features
        taken = (Feature(f.name, f.modality, self.copy(f.values, rows), f.present[rows]) for f in features.features)
        return FeatureSet(tuple(features.clip_ids[row] for row in rows), tuple(taken))

"""What is learnt from: features of all clips, labels of some, and which clips may be adopted.

Shapes: N clips.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mer_ray.data.features import Feature, FeatureSet
from mer_ray.errors import ShapeError
from mer_ray.types import Split

_BLOCK = 4096


@dataclass(frozen=True)
class Experiment:
    """Everything that the mining loop reads. The truth of test clips and of the pool is not in it.

    Attributes:
        features: of all clips that are not quarantined.
        labels: int64 (N,), class of the clips labelled for training, -1 for all others.
        splits: of each clip.
        speakers: of each clip, None where unknown.
        class_names: the label space, in order.
        pool: bool (N,), clips that may be adopted as pseudo-labelled: none of them labelled for training.
        features_digest: changes when any feature of any clip does.
        seed: the job's seed.
        valence: float32 (N,), of the clips labelled with it for training, NaN for all others; None when none is.
    """

    features: FeatureSet
    labels: NDArray[np.int64]
    splits: tuple[Split, ...]
    speakers: tuple[str | None, ...]
    class_names: tuple[str, ...]
    pool: NDArray[np.bool_]
    features_digest: str
    seed: int
    valence: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        lengths = {
            "clips": len(self.features.clip_ids),
            "labels": len(self.labels),
            "splits": len(self.splits),
            "speakers": len(self.speakers),
            "pool": len(self.pool),
            "valence": len(self.labels if self.valence is None else self.valence),
        }
        if len(set(lengths.values())) != 1:
            raise ShapeError(f"experiment: lengths differ: {lengths}")
        if self.labels.max(initial=-1) >= len(self.class_names):
            raise ShapeError(f"experiment: label {self.labels.max()} with {len(self.class_names)} classes")
        if (self.pool & (self.labels >= 0)).any():
            raise ShapeError("experiment: a clip labelled for training is in the pool too")
        for feature in self.features.features:
            if not _is_finite(feature):
                raise ShapeError(f"feature {feature.name}: a present value is NaN or infinite; quarantine its clip")

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Rows of the clips labelled for training, ascending."""
        return np.flatnonzero(self.labels >= 0).astype(np.int64)

    @property
    def labelled_speakers(self) -> NDArray[np.int64] | None:
        """A number for the speaker of each labelled clip, int64 (n,); None where one is not known."""
        speakers = [self.speakers[row] for row in self.labelled]
        if None in speakers:
            return None
        return np.unique(np.array(speakers, dtype=str), return_inverse=True)[1].astype(np.int64)

    @property
    def prior(self) -> NDArray[np.float64]:
        """Share of each class among the labelled clips, float64 (C,)."""
        counts = np.bincount(self.labels[self.labelled], minlength=len(self.class_names))
        shares: NDArray[np.float64] = counts / counts.sum()
        return shares

    @property
    def mean_valence(self) -> float | None:
        """Of the labelled clips; None when no valence is known."""
        return None if self.valence is None else float(np.nanmean(self.valence))


def _is_finite(feature: Feature) -> bool:
    """Whether all present values are; a block at a time, for features may be larger than the memory."""
    blocks = (slice(start, start + _BLOCK) for start in range(0, len(feature.present), _BLOCK))
    return all(np.isfinite(feature.values[block][feature.present[block]]).all() for block in blocks)

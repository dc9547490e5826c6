"""Features in memory: what the learners read. One ``Feature`` per encoder, all over the same clips.

Shapes: N clips, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mer_ray.errors import ShapeError


@dataclass(frozen=True)
class Feature:
    """One encoder's vectors.

    Attributes:
        name: the encoder's name.
        modality: ``types.Modality`` or the user's own word for it.
        values: float16 or float32 (N, D); the row of an absent clip has no meaning and is never read.
        present: bool (N,).
    """

    name: str
    modality: str
    values: NDArray[np.floating]
    present: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.present.shape != self.values.shape[:1]:
            raise ShapeError(
                f"feature {self.name}: values {self.values.shape} and present {self.present.shape} do not fit; "
                "give (N, D) and (N,)"
            )


@dataclass(frozen=True)
class FeatureSet:
    """Several features over the same clips, in the order of ``clip_ids``."""

    clip_ids: tuple[str, ...]
    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        for feature in self.features:
            if len(feature.present) != len(self.clip_ids):
                raise ShapeError(
                    f"feature {feature.name} has {len(feature.present)} rows for {len(self.clip_ids)} clips"
                )

    def take(self, rows: NDArray[np.int64]) -> FeatureSet:
        """The clips at ``rows``, in that order."""
        return FeatureSet(
            tuple(self.clip_ids[i] for i in rows),
            tuple(Feature(f.name, f.modality, f.values[rows], f.present[rows]) for f in self.features),
        )

    def only(self, names: Sequence[str]) -> FeatureSet:
        """The features called ``names``, in that order.

        Raises:
            KeyError: a name is not among the features.
        """
        by_name = {feature.name: feature for feature in self.features}
        return FeatureSet(self.clip_ids, tuple(by_name[name] for name in names))

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which features each clip has, bool (N, M)."""
        return np.stack([feature.present for feature in self.features], axis=1)

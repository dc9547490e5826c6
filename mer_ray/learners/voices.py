"""Groups of similar voices, for clips whose speakers are not known.

The audio features (all of them where there is none) are standardised, reduced to their main directions and parted by a
Gaussian mixture; the number of groups is the one of lowest BIC.

Shapes: N clips, W width of all the features read, V main directions, G groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from mer_ray.data.features import FeatureSet
from mer_ray.data.moments import Moments
from mer_ray.types import Modality

_SAMPLE = 4096
_BLOCK = 4096
_DIRECTIONS = 12
_CLIPS_PER_VOICE = 30
_NUMBERS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Voices:
    """What tells the voice of a clip.

    Attributes:
        features: names of the features read.
        mean, scale: float64 (W,), standardise them.
        directions: float64 (V, W).
        log_weight: float64 (G,), of each voice's share.
        centre, precision: float64 (G, V), of each voice along the directions; ``precision`` is 1 / variance.
    """

    features: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    directions: NDArray[np.float64]
    log_weight: NDArray[np.float64]
    centre: NDArray[np.float64]
    precision: NDArray[np.float64]

    @property
    def num_voices(self) -> int:
        """At least 1."""
        return len(self.centre)

    @classmethod
    def learn(cls, features: FeatureSet, seed: int) -> Voices:
        """Find the voices there are.

        Args:
            features: of all clips; values of absent ones are never read.
            seed: of the sample of clips and of the search.
        """
        heard = [feature.name for feature in features.features if feature.modality == Modality.AUDIO]
        own = features.only(heard or [feature.name for feature in features.features])
        rows = np.flatnonzero(own.present.any(axis=1))
        rng = np.random.default_rng(seed)
        sample = own.take(np.sort(rng.permutation(rows)[:_SAMPLE]))
        mean, scale = _standard(sample)
        x_NW = _fill(sample, mean, scale)
        found = PCA(min(_DIRECTIONS, *x_NW.shape), random_state=seed).fit(x_NW)
        directions = found.components_.astype(np.float64)
        mixture = _mixture(x_NW @ directions.T, seed)
        return cls(
            tuple(feature.name for feature in own.features),
            mean,
            scale,
            directions,
            np.log(mixture.weights_),
            mixture.means_,
            1.0 / mixture.covariances_,
        )

    def assign(self, features: FeatureSet) -> NDArray[np.int64]:
        """The voice of each clip, int64 (N,); -1 where the clip has none of the features.

        Raises:
            KeyError: a feature that was read is not given.
        """
        own = features.only(self.features)
        voice_N = np.full(len(own.clip_ids), -1, dtype=np.int64)
        rows = np.flatnonzero(own.present.any(axis=1))
        constant_G = self.log_weight + 0.5 * np.log(self.precision).sum(axis=1)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            x_NV = _fill(own.take(block), self.mean, self.scale) @ self.directions.T
            apart_NGV = x_NV[:, None] - self.centre
            voice_N[block] = (constant_G - 0.5 * (apart_NGV**2 * self.precision).sum(axis=2)).argmax(axis=1)
        return voice_N

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Everything but the features' names, by attribute."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "features"}

    @classmethod
    def from_arrays(cls, features: tuple[str, ...], arrays: Mapping[str, NDArray[np.float64]]) -> Voices:
        """From ``to_arrays``.

        Raises:
            TypeError: an array is missing or one too many.
        """
        return cls(features, **arrays)


def _standard(sample: FeatureSet) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and 1 / deviation of every column, 0 of a constant one."""
    found = [Moments.of(feature.values, np.flatnonzero(feature.present)) for feature in sample.features]
    return np.concatenate([one.mean for one in found]), np.concatenate([one.scale for one in found])


def _fill(features: FeatureSet, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standardised features side by side, (N, W), held to ``±10``; an absent one stands at the mean."""
    held, start = [], 0
    for feature in features.features:
        end = start + feature.values.shape[1]
        values = np.where(feature.present[:, None], feature.values, mean[start:end])
        held.append(((values - mean[start:end]) * scale[start:end]).clip(-10, 10))
        start = end
    return np.concatenate(held, axis=1)


def _mixture(x_NV: NDArray[np.float64], seed: int) -> GaussianMixture:
    """The mixture of lowest BIC; the search ends once two larger ones in a row are worse."""
    best, best_bic, worse = None, np.inf, 0
    for number in (1, *_NUMBERS):
        if number > 1 and (number * _CLIPS_PER_VOICE > len(x_NV) or worse == 2):
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a rough parting will do
            mixture = GaussianMixture(number, covariance_type="diag", reg_covar=1e-3, random_state=seed).fit(x_NV)
        bic = mixture.bic(x_NV)
        best, best_bic, worse = (mixture, bic, 0) if bic < best_bic else (best, best_bic, worse + 1)
    return best

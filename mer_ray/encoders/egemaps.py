"""openSMILE's eGeMAPSv02 functionals: 88 hand-made measures of a voice (Eyben et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import opensmile
from numpy.typing import NDArray

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.types import SAMPLE_RATE_HZ, Modality

_MIN_SAMPLES = SAMPLE_RATE_HZ // 2  # openSMILE's longest window needs a tenth of a second, its statistics some more
_LARGEST = 32767.0 / 32768.0  # openSMILE takes 16-bit samples, in which 1.0 would become -1.0


class Config(base.Config):
    """eGeMAPS is a fixed set: there is nothing to choose."""


class Encoder(base.Encoder):
    """Loudness, pitch, formants, spectral balance, voice quality and rhythm of a clip, one row of 88."""

    modality = Modality.AUDIO
    reads = ("audio",)
    version = 1

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._smile: Any = None

    @property
    def dim(self) -> int:
        """The set's size."""
        return 88

    @property
    def identity(self) -> str:
        """The set's definition comes with the library."""
        return f"opensmile {opensmile.__version__} eGeMAPSv02"

    def load(self) -> None:
        """Build openSMILE's graph, without its log."""
        self._smile = opensmile.Smile(
            feature_set=opensmile.FeatureSet.eGeMAPSv02,
            feature_level=opensmile.FeatureLevel.Functionals,
            loglevel=0,
        )

    def encode(self, clips: Sequence[ClipInput]) -> list[NDArray[np.float32]]:
        """See the base class. A clip shorter than half a second is repeated up to that."""
        if self._smile is None:
            self.load()
        return [self._functionals(clip.audio) for clip in clips if clip.audio is not None]

    def _functionals(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        missing = _MIN_SAMPLES - len(samples)
        if missing > 0:
            samples = np.pad(samples, (0, missing), mode="wrap")
        values = self._smile(np.clip(samples, -1.0, _LARGEST), SAMPLE_RATE_HZ)
        return np.asarray(values, np.float32).reshape(1, -1)

"""openSMILE's hand-made measures of a voice: eGeMAPS, GeMAPS, ComParE 2016, emobase, Interspeech 2009 to 2013.

Every set comes with the library (Eyben et al. 2010 and 2016; the sets' papers are named in ``opensmile.FeatureSet``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import opensmile
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.types import SAMPLE_RATE_HZ, Modality

_MIN_SAMPLES = SAMPLE_RATE_HZ // 2  # openSMILE's longest window needs a tenth of a second, its statistics some more
_LARGEST = 32767.0 / 32768.0  # openSMILE takes 16-bit samples, in which 1.0 would become -1.0
_LEVELS = {
    "functionals": opensmile.FeatureLevel.Functionals,
    "descriptors": opensmile.FeatureLevel.LowLevelDescriptors,
}
FeatureSet = Literal[
    "eGeMAPSv02", "eGeMAPSv01b", "eGeMAPSv01a", "GeMAPSv01b", "GeMAPSv01a", "ComParE_2016", "emobase",
    "IS09", "IS10", "IS11", "IS12", "IS13",
]  # fmt: skip


class Config(base.Config):
    """Which measures, of the whole clip or over time."""

    feature_set: FeatureSet = Field("eGeMAPSv02", description="eGeMAPSv02: 88 measures; ComParE_2016 and IS13: 6373")
    level: Literal["functionals", "descriptors"] = Field(
        "functionals", description="statistics over the clip, one row | the low-level descriptors, a row every 10 ms"
    )


class Encoder(base.Encoder):
    """Loudness, pitch, formants, spectral balance, voice quality and rhythm of a clip, as the chosen set measures them.

    A clip shorter than half a second, such as one of 0.2 s, is repeated up to that. Silence has finite measures in
    every set. Five minutes are one row of functionals, or some 30,000 of descriptors.
    """

    modality = Modality.AUDIO
    reads = ("audio",)
    version = 1
    licence: ClassVar[str] = "audEERING Research License: no commercial use"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._smile: Any = None

    @property
    def dim(self) -> int:
        """The set's size."""
        return _size(self.config.feature_set, self.config.level)

    @property
    def identity(self) -> str:
        """The sets' definitions come with the library."""
        return f"opensmile {opensmile.__version__}"

    def load(self) -> None:
        """Build openSMILE's graph."""
        self._smile = _graph(self.config.feature_set, self.config.level)

    def encode(self, clips: Sequence[ClipInput]) -> list[NDArray[np.float32]]:
        """See the base class."""
        if self._smile is None:
            self.load()
        return [self._measures(clip.audio) for clip in clips if clip.audio is not None]

    def _measures(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        missing = _MIN_SAMPLES - len(samples)
        if missing > 0:
            samples = np.pad(samples, (0, missing), mode="wrap")
        (values,) = self._smile(np.clip(samples, -1.0, _LARGEST), SAMPLE_RATE_HZ)  # one channel
        return np.ascontiguousarray(values.T, np.float32)


def _graph(feature_set: str, level: str) -> Any:
    """The library's graph of a set, without its log."""
    return opensmile.Smile(opensmile.FeatureSet[feature_set], _LEVELS[level], loglevel=0)


@cache
def _size(feature_set: str, level: str) -> int:
    return int(_graph(feature_set, level).num_features)

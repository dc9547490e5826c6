"""Statistics of log-mel bands and of their changes: a light picture of timbre, loudness and rhythm.

Shapes: S samples, T frames, B bands.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.types import SAMPLE_RATE_HZ, Modality

_WINDOW = 400  # 25 ms
_HOP = 160  # 10 ms
_FFT = 512
_FLOOR = 1e-8  # power below the smallest step of 16-bit audio
_PERCENTILES = (5.0, 50.0, 95.0)


class Config(base.Config):
    """How fine the spectrum is."""

    num_bands: int = Field(40, ge=8, le=128, description="mel bands between 60 Hz and 7.6 kHz")


class Encoder(base.Encoder):
    """Per band: mean, standard deviation and three percentiles of the level, mean and deviation of its change.

    One row per clip, of 0.2 s or of five minutes; less than 25 ms are padded with silence to one frame. Silence is at
    the floor in every band, and nothing changes in it.
    """

    modality = Modality.AUDIO
    reads = ("audio",)
    version = 1
    config: Config

    @property
    def dim(self) -> int:
        """Seven statistics of each band, and six of the whole level."""
        return 7 * self.config.num_bands + 6

    def encode(self, clips: Sequence[ClipInput]) -> list[NDArray[np.float32]]:
        """See the base class."""
        return [self._statistics(clip.audio)[None] for clip in clips if clip.audio is not None]

    def _statistics(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        levels_TB = log_mel(samples, self.config.num_bands)
        change_TB = np.diff(levels_TB, axis=0, prepend=levels_TB[:1])
        loudness_T = levels_TB.max(axis=1)
        rising_T = np.diff(loudness_T, prepend=loudness_T[:1])
        bands = [
            levels_TB.mean(axis=0),
            levels_TB.std(axis=0),
            *np.percentile(levels_TB, _PERCENTILES, axis=0),
            np.abs(change_TB).mean(axis=0),
            change_TB.std(axis=0),
        ]
        whole = [
            loudness_T.mean(),
            loudness_T.std(),
            *np.percentile(loudness_T, (5, 95)),
            rising_T.max(),
            rising_T.min(),
        ]
        return np.concatenate([*bands, whole]).astype(np.float32)


def log_mel(samples: NDArray[np.float32], num_bands: int) -> NDArray[np.float64]:
    """Natural logarithm of the power in mel bands, (T, B), a frame every 10 ms; at least one frame.

    >>> log_mel(np.zeros(1600, np.float32), 40).shape
    (8, 40)
    """
    missing = _WINDOW - len(samples)
    if missing > 0:
        samples = np.pad(samples, (0, missing))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), _FFT)) ** 2
    return np.asarray(np.log(power @ _filters(num_bands).T + _FLOOR))


@functools.cache
def _filters(num_bands: int) -> NDArray[np.float64]:
    """Triangles, evenly spaced on O'Shaughnessy's mel scale, each of unit sum: (B, bins)."""
    mel = np.linspace(_to_mel(60.0), _to_mel(7600.0), num_bands + 2)
    edges_hz = 700.0 * (10 ** (mel / 2595.0) - 1)
    bins_hz = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE_HZ)
    low, middle, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - low) / (middle - low), (high - bins_hz) / (high - middle)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    nearest = np.abs(bins_hz - middle).argmin(axis=1)
    triangles[np.arange(num_bands), nearest] += 1e-3  # a narrow low band must not miss every bin
    return np.asarray(triangles / triangles.sum(axis=1, keepdims=True))


def _to_mel(frequency_hz: float) -> float:
    return float(2595.0 * np.log10(1 + frequency_hz / 700.0))

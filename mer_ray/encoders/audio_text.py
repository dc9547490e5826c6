"""What is said crossed with how it is said: prosody, words, and every product of the two (after P1 section 2.3).

The light stand-in for a joint audio-text model: a word counts differently when it is shouted.

Shapes: S samples, T frames, P measures of prosody, H hashed words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.feature_extraction.text import HashingVectorizer

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.types import SAMPLE_RATE_HZ, Modality

_WINDOW = 640  # 40 ms: two periods of the lowest voice
_HOP = 160
_FFT = 2048
_BLOCK = 1024  # frames whose spectra are held at once, 10 s: memory does not grow with the clip
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 450.0
_VOICED = 0.45  # height of the autocorrelation's peak
_OCTAVE_COST = 0.06  # twice the period fits as well as the period: the shorter one is meant
_AUDIBLE_DB = -60.0
_TYPICAL = np.array([-30.0, 8.0, 0.0, 7.3, 0.2, 0.0, 0.4, 0.5, 2.0, -1.0, 12.0])
_SPREAD = np.array([10.0, 4.0, 10.0, 0.5, 0.15, 0.3, 0.25, 0.25, 1.0, 1.0, 8.0])
"""Middle and spread of each measure over ordinary speech: they only bring the measures to one scale."""


class Config(base.Config):
    """How many words are told apart."""

    words: int = Field(16, ge=4, le=256, description="width of the hashed words that are crossed with the prosody")


class Encoder(base.Encoder):
    """One row per clip, of 0.2 s or of five minutes: P measures of prosody, H hashed words, and their outer product.

    Less than 40 ms are padded with silence to one frame. Silence has the lowest level, no audible frame, and typical
    pitch. An empty transcript has zeros for its words and their products.
    """

    modality = Modality.JOINT
    reads = ("audio", "transcript")
    version = 2
    config: Config

    @property
    def dim(self) -> int:
        """P + H + P H."""
        return len(_TYPICAL) + self.config.words + len(_TYPICAL) * self.config.words

    def encode(self, clips: Sequence[ClipInput]) -> list[NDArray[np.float32]]:
        """See the base class."""
        if not clips:
            return []
        hashing = HashingVectorizer(
            analyzer="char_wb", ngram_range=(1, 3), n_features=self.config.words, dtype=np.float64
        )
        words_BH = hashing.transform([clip.text or "" for clip in clips]).toarray()
        rows = []
        for clip, words_H in zip(clips, words_BH, strict=True):
            if clip.audio is not None:
                measures_P = np.tanh((prosody(clip.audio, clip.text or "") - _TYPICAL) / (2 * _SPREAD))
                row = np.concatenate([measures_P, words_H, np.outer(measures_P, words_H).ravel()])
                rows.append(row.astype(np.float32)[None])
        return rows


def prosody(samples: NDArray[np.float32], text: str) -> NDArray[np.float64]:
    """Eleven measures of a voice.

    Level in dB: mean, standard deviation and slope (second half less first); pitch in octaves above 1 Hz: median,
    standard deviation and slope; shares of frames that are voiced and that are audible; bursts per second; spectral
    balance (log10 of the power above 1 kHz over that below); characters per second. Unvoiced clips have typical pitch.
    """
    frames_TW = _frames(samples)
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(frames_TW), _BLOCK)]
    power_T = np.concatenate([(frames_TW[block].astype(np.float64) ** 2).mean(axis=1) for block in blocks])
    level_T = 10 * np.log10(power_T + 1e-9)
    audible_T = level_T > max(_AUDIBLE_DB, level_T.max() - 40)
    parts = [_Spectrum.of(frames_TW[block], audible_T[block]) for block in blocks]
    octaves, voiced_T = (
        np.concatenate([part.octaves for part in parts]),
        np.concatenate([part.voiced for part in parts]),
    )
    above, below = sum(part.above for part in parts), sum(part.below for part in parts)
    seconds = len(samples) / SAMPLE_RATE_HZ
    loud_T = level_T > level_T.mean()
    bursts = np.count_nonzero(loud_T[1:] & ~loud_T[:-1]) / seconds
    return np.array(
        [
            level_T.mean(),
            level_T.std(),
            _slope(level_T),
            np.median(octaves) if len(octaves) else _TYPICAL[3],
            octaves.std() if len(octaves) else _TYPICAL[4],
            _slope(octaves),
            voiced_T.mean(),
            audible_T.mean(),
            bursts,
            np.log10((above + 1e-9) / (below + 1e-9)),
            len(text) / seconds,
        ]
    )


def _frames(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    missing = _WINDOW - len(samples)
    padded = np.pad(samples, (0, missing)) if missing > 0 else samples
    return np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]


class _Spectrum(NamedTuple):
    """What the spectra of some frames tell: what ``_pitch`` gives, and the power above and below 1 kHz."""

    octaves: NDArray[np.float64]
    voiced: NDArray[np.bool_]
    above: float
    below: float

    @classmethod
    def of(cls, frames_TW: NDArray[np.float32], audible_T: NDArray[np.bool_]) -> _Spectrum:
        power_TF = np.abs(np.fft.rfft(frames_TW * np.hanning(_WINDOW), _FFT)) ** 2
        return cls(*_pitch(power_TF, audible_T), power_TF[:, 128:].sum(), power_TF[:, 8:128].sum())


def _pitch(
    power_TF: NDArray[np.float64], audible_T: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Octaves above 1 Hz of the voiced frames, and which frames are voiced, by autocorrelation."""
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(_WINDOW), _FFT)) ** 2)
    shortest, longest = int(SAMPLE_RATE_HZ / _HIGHEST_HZ), int(SAMPLE_RATE_HZ / _LOWEST_HZ)
    correlation_TL = np.fft.irfft(power_TF)[:, : longest + 1] / window[: longest + 1] * window[0]
    heights_TL = correlation_TL[:, shortest:] / (correlation_TL[:, :1] + 1e-9)
    voiced_T = audible_T & (heights_TL.max(axis=1) > _VOICED)
    lags_T = shortest + (heights_TL - _OCTAVE_COST * np.log2(np.arange(shortest, longest + 1))).argmax(axis=1)
    return np.log2(SAMPLE_RATE_HZ / lags_T[voiced_T]), voiced_T


def _slope(values: NDArray[np.float64]) -> float:
    """Mean of the second half less that of the first; zero for fewer than two values."""
    middle = len(values) // 2
    return float(values[middle:].mean() - values[:middle].mean()) if middle else 0.0

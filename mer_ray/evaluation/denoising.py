"""How much denoising helps: signal-to-distortion before and after, where the clean voice is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import correlate

_MOST_DB = 60.0

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class DenoisedClip:
    """One clip's voices, float32 (S,), 16 kHz, of any lengths and delays, and whether it was made noisy."""

    original: Waveform
    denoised: Waveform
    clean: Waveform
    is_noisy: bool


@dataclass(frozen=True)
class DenoisingEffect:
    """Medians over clips, in dB; None where there is no such clip.

    Attributes:
        num_noisy, num_clean: clips measured of each kind.
        noisy_before_db, noisy_after_db: scale-invariant SDR of noisy voices to the clean voice.
        clean_before_db, clean_after_db: the same of clean voices (their coding is all that differs).
        clean_kept_db: how like the original the denoised clean voice is.
    """

    num_noisy: int
    num_clean: int
    noisy_before_db: float | None
    noisy_after_db: float | None
    clean_before_db: float | None
    clean_after_db: float | None
    clean_kept_db: float | None


def si_sdr_db(estimate: Waveform, reference: Waveform) -> float:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019), in dB, held to [-60, 60].

    The estimate is first shifted to the reference by the peak of their cross-correlation: coding adds a delay. Only
    the reference's span is compared; where the estimate has no samples it counts as silent.

    Raises:
        ValueError: the reference is empty or silent.

    >>> tone = np.sin(np.arange(800, dtype=np.float32))
    >>> si_sdr_db(0.5 * tone, tone)
    60.0
    """
    target = reference.astype(np.float64)
    energy = float(target @ target)
    if energy == 0:
        raise ValueError("the reference voice is empty or silent; give the clean voice")
    aligned = _aligned(estimate.astype(np.float64), target)
    projection = float(aligned @ target) / energy * target
    signal, distortion = float(projection @ projection), float(np.sum((aligned - projection) ** 2))
    if signal == 0:
        return -_MOST_DB
    return float(np.clip(10 * np.log10(signal / max(distortion, 1e-12 * signal)), -_MOST_DB, _MOST_DB))


def summarise(clips: Iterable[DenoisedClip]) -> DenoisingEffect:
    """The effect over many clips; read one at a time, so the clips may be made on the way.

    Raises:
        ValueError: see ``si_sdr_db``.
    """
    noisy: list[tuple[float, float]] = []
    clean: list[tuple[float, float, float]] = []
    for clip in clips:
        before, after = si_sdr_db(clip.original, clip.clean), si_sdr_db(clip.denoised, clip.clean)
        if clip.is_noisy:
            noisy.append((before, after))
        else:
            clean.append((before, after, si_sdr_db(clip.denoised, clip.original)))
    return DenoisingEffect(len(noisy), len(clean), *_medians(noisy, 2), *_medians(clean, 3))


def _medians(rows: Sequence[tuple[float, ...]], width: int) -> list[float | None]:
    return [float(np.median(column)) for column in zip(*rows, strict=True)] if rows else [None] * width


def _aligned(estimate: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(estimate) == 0:
        return np.zeros_like(reference)
    correlation = correlate(estimate, reference, mode="full", method="fft")
    delay = int(np.argmax(np.abs(correlation))) - (len(reference) - 1)
    shifted = estimate[delay:] if delay >= 0 else np.pad(estimate, (-delay, 0))
    return np.pad(shifted[: len(reference)], (0, max(0, len(reference) - len(shifted))))

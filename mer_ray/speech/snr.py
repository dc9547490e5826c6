"""How far a voice stands above what is heard in its pauses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FRAME = 512  # 32 ms
_PAUSES = 0.05
_LEAST_DB, _MOST_DB = -20.0, 60.0


def estimate_snr_db(samples: NDArray[np.float32]) -> float:
    """The signal-to-noise ratio of 16 kHz sound (S,) in dB, taking its quietest twentieth for the noise alone.

    Between -20 and 60; of sound that never pauses it is too low.
    """
    frames = np.array_split(samples.astype(np.float64), max(1, len(samples) // _FRAME))
    power = np.array([np.mean(frame**2) if len(frame) else 0.0 for frame in frames])
    noise = float(np.quantile(power, _PAUSES))
    speech = float(power.mean()) - noise
    if noise <= 0.0 or speech <= 0.0:
        return _MOST_DB if noise <= 0.0 else _LEAST_DB
    return float(np.clip(10 * np.log10(speech / noise), _LEAST_DB, _MOST_DB))

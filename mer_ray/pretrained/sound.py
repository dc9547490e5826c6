"""What models of sound share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mer_ray.errors import ClipError, Reason


def check_finite(waveforms: Iterable[NDArray[np.float32]]) -> None:
    """Refuse samples that are no numbers.

    Raises:
        ClipError: of the first waveform that holds NaN or infinity.
    """
    for samples in waveforms:
        if not np.isfinite(samples).all():
            bad = int((~np.isfinite(samples)).sum())
            raise ClipError(Reason.NOT_FINITE, f"{bad} of {len(samples)} samples are NaN or infinite")


def resample(samples: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """Samples at another rate, float32 along the last axis; ceil(n to / from) of them."""
    import torch  # noqa: PLC0415 - light plug-ins run without the seconds that it takes
    from torchaudio.functional import resample as by_torchaudio  # noqa: PLC0415

    if from_hz == to_hz or not samples.shape[-1]:
        return samples
    made: NDArray[np.float32] = by_torchaudio(torch.from_numpy(np.ascontiguousarray(samples)), from_hz, to_hz).numpy()
    return made

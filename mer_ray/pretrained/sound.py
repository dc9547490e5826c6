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

"""What a source separator is: one noisy waveform in, two mono streams out (P1 section 2.4.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mer_ray.pretrained.plugin import Plugin
from mer_ray.pretrained.sound import check_finite


class Separator(Plugin, ABC):
    """Splits a waveform into two streams of the same length. Which is the speech is not known to it."""

    def separate(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Per waveform (S,), 16 kHz float32, its two streams as float32 (2, S); a clip's do not depend on the others.

        Raises:
            ClipError: a waveform holds NaN or infinity, or cannot be separated.
        """
        check_finite(waveforms)
        return self._separate(waveforms)

    @abstractmethod
    def _separate(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See ``separate``; the waveforms are finite, and may be empty."""

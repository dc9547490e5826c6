"""What a source separator is: one noisy waveform in, two mono streams out (P1 section 2.4.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mer_ray.pretrained import plugin
from mer_ray.pretrained.plugin import Plugin
from mer_ray.pretrained.sound import check_finite, resample
from mer_ray.types import SAMPLE_RATE_HZ

Config = plugin.Config
"""Base of every separator's ``Config``."""


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


class Enhancer(Separator):
    """Runs a library that cleans sound frame by frame as it comes in, and gives it back late.

    Stream 0 is the voice at the time at which it was spoken, stream 1 what is left; they add up to the input. Each clip
    is cleaned by a library that has heard nothing else. Silence is not shown to it and stays silence.

    Class attributes:
        rate_hz: of the library's sound.
        frame: samples that it takes at a time.
        delay: samples by which what it gives back is late.
    """

    rate_hz: ClassVar[int] = 48_000
    frame: ClassVar[int] = 480
    delay: ClassVar[int]

    def _separate(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        return [self._part(waveform) for waveform in waveforms]

    def _part(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.any(waveform):
            return np.zeros((2, len(waveform)), np.float32)
        samples = resample(waveform, SAMPLE_RATE_HZ, self.rate_hz)
        until = len(samples) + self.delay
        frames = np.pad(samples, (0, -until % self.frame + self.delay)).reshape(-1, self.frame)
        late = self._enhance(np.ascontiguousarray(frames, np.float32)).reshape(-1)
        voice = resample(late[self.delay : until], self.rate_hz, SAMPLE_RATE_HZ)[: len(waveform)]
        return np.stack([voice, waveform - voice])

    @abstractmethod
    def _enhance(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """The frames (T, ``frame``) of one clip, at least one, cleaned one after another from a fresh state."""

"""The voice gate before recognition: where in a waveform somebody speaks, by Silero VAD, so that noise gives no words.

The package ``silero-vad`` carries its weights; it comes with the extra ``speech``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_ray.pretrained import extras, weights
from mer_ray.types import SAMPLE_RATE_HZ

_PACKAGE = "silero-vad"
_WEIGHTS = "data/silero_vad.jit"
_LEAST_SAMPLES = 512  # one window of the model
_LEAST_PROBABILITY, _LEAST_MILLISECONDS = 0.6, 400
"""The package's own 0.5 and 250 take 7 of 105 noises of ESC-10 for speech, sneezes and barks; these none of them, and
no voice of nEMO (318 recordings) for noise."""


class Gate:
    """Finds speech of 0.4 s and more. Each waveform is heard from a fresh state, so none depends on those beside it."""

    version = 1

    def __init__(self) -> None:
        self._model: Any = None

    @cached_property
    def identity(self) -> str:
        """The package and the hash of its weights.

        Raises:
            PluginError: it is not installed.
        """
        file = extras.folder("silero_vad", _PACKAGE) / _WEIGHTS
        return f"{_PACKAGE} {extras.version(_PACKAGE)}, {weights.file_identity(str(file))}"

    def load(self) -> None:
        """Load the model, once per process.

        Raises:
            PluginError: the package is not installed.
        """
        extras.version(_PACKAGE)
        from silero_vad import load_silero_vad  # noqa: PLC0415 - of an extra

        self._model = load_silero_vad()

    def voiced(self, waveforms: Sequence[NDArray[np.float32]]) -> list[list[tuple[float, float]]]:
        """Per finite waveform (S,), 16 kHz, its stretches of speech: seconds of their beginnings and ends."""
        if self._model is None:
            self.load()
        return [self._stretches(samples) for samples in waveforms]

    def _stretches(self, samples: NDArray[np.float32]) -> list[tuple[float, float]]:
        import torch  # noqa: PLC0415 - light stages run without it
        from silero_vad import get_speech_timestamps  # noqa: PLC0415 - of an extra

        if len(samples) < _LEAST_SAMPLES or not np.any(samples):
            return []
        with torch.inference_mode():  # it resets the model's state first
            found = get_speech_timestamps(
                torch.tensor(samples),
                self._model,
                threshold=_LEAST_PROBABILITY,
                min_speech_duration_ms=_LEAST_MILLISECONDS,
                sampling_rate=SAMPLE_RATE_HZ,
            )
        return [(one["start"] / SAMPLE_RATE_HZ, one["end"] / SAMPLE_RATE_HZ) for one in found]

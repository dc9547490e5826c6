"""Log-mel spectrograms as Whisper and the models built on its encoder take them: of one fixed length, mostly silence.

Shapes: B waveforms, S samples, F spectrogram frames (100 a second), M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperFeatureExtractor

from mer_ray.errors import PluginError
from mer_ray.pretrained.weights import Weights
from mer_ray.types import SAMPLE_RATE_HZ

_SILENCE = (-10.0 + 4.0) / 4.0  # what no power at all becomes: log10 of the floor 1e-10, scaled
_RANGE = 8.0 / 4.0  # nothing is lower than the loudest point by more: 8 powers of ten, scaled


class LogMel:
    """Whisper's spectrogram of a batch, padded with silence to the length that the model takes.

    The same numbers as the library's extractor gives for the padded waveforms, but the silence behind the longest
    waveform is filled in, not transformed: for clips of 5 s in windows of 30 s a sixth of the time.

    Args:
        extractor: knows bands, hop and scaling.
        num_samples: of the window that the model takes, a multiple of the hop.
    """

    def __init__(self, extractor: WhisperFeatureExtractor, num_samples: int) -> None:
        self.extractor = extractor
        self.num_samples = num_samples

    def __call__(self, waveforms: Sequence[NDArray[np.float32]]) -> Tensor:
        """float32 (B, M, F) of B waveforms of at most ``num_samples`` each."""
        longest = max(len(waveform) for waveform in waveforms) + self.extractor.n_fft
        hop = self.extractor.hop_length
        made: Tensor = self.extractor(
            list(waveforms),
            sampling_rate=SAMPLE_RATE_HZ,
            max_length=min(self.num_samples, -(-longest // hop) * hop),
            return_tensors="pt",
        )["input_features"]
        floor = (made.amax((1, 2), keepdim=True) - _RANGE).clamp(min=_SILENCE)
        silence = floor.expand(-1, made.shape[1], self.num_samples // hop - made.shape[2])
        return torch.cat([made, silence], dim=2)

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform's own length: one for each hop that it begins."""
        return int(-(-num_samples // self.extractor.hop_length))


def load(folder: Path, weights: Weights, num_bands: int) -> WhisperFeatureExtractor:
    """The extractor that stands beside a model's weights.

    Raises:
        PluginError: it is missing, or makes another number of bands than the model takes.
    """
    try:
        extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise PluginError(
            f"weights {weights.source}: no feature extractor can be loaded from {folder}: {error}; the model's "
            "preprocessor_config.json belongs there"
        ) from error
    if extractor.feature_size != num_bands:
        raise PluginError(
            f"weights {weights.source}: a feature extractor of {extractor.feature_size} mel bands beside a model of "
            f"{num_bands}; it is of another model"
        )
    return extractor

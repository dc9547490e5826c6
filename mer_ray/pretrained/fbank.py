"""Stacked frames of mel bands, as FunASR's models hear sound: Kaldi's filter bank, thinned out and normed.

80 bands of 25 ms every 10 ms; seven such frames make one, every 60 ms; all are shifted and scaled by the numbers of
``am.mvn``, which comes with the weights.

Shapes: S samples, F frames of bands, T stacked frames, I numbers of a stacked frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.compliance import kaldi

from mer_ray.errors import PluginError
from mer_ray.types import SAMPLE_RATE_HZ

NORMS = "am.mvn"
"""Name of the file of shifts and scales, in the text format of Kaldi's nnet."""
STACKED, STEP = 7, 6
BANDS = 80
FRAME_SECONDS = 0.06
"""From a stacked frame to the next."""
_MIN_SAMPLES = 400  # one window
_FULL_SCALE = 32768  # the models were trained on numbers of 16 bits
_NUMBERS = r"<{}>[^\[]*\[([^\]]*)\]"


@dataclass(frozen=True)
class Frontend:
    """From a waveform to stacked frames.

    Attributes:
        shift_I, scale_I: float32; added to a frame, then multiplied with it.
        noise: standard deviation of the noise that is added, in steps of 16 bits: funasr's own default, so that digital
            silence is as it was in training. It is the same for every clip, so that results repeat.
    """

    shift_I: Tensor
    scale_I: Tensor
    noise: float = 1.0

    @classmethod
    def plain(cls, bands: int = BANDS) -> Frontend:
        """One that norms nothing, for random weights."""
        return cls(torch.zeros(STACKED * bands), torch.ones(STACKED * bands))

    @classmethod
    def load(cls, folder: Path, source: str, size: int) -> Frontend:
        """That of a folder of weights.

        Args:
            folder: of ``weights.fetch``.
            source: the folder as the user knows it.
            size: I, of the model.

        Raises:
            PluginError: there is no ``am.mvn``, or it is none of such a model.
        """
        file = folder / NORMS
        try:
            text = file.read_text(encoding="utf-8")
            found = [re.search(_NUMBERS.format(name), text) for name in ("AddShift", "Rescale")]
            shift, scale = (torch.tensor([float(number) for number in one[1].split()]) for one in found if one)
        except (OSError, ValueError) as error:
            raise PluginError(f"weights {source}: {file} cannot be read as shifts and scales: {error}") from error
        if not len(shift) == len(scale) == size or size % STACKED:
            raise PluginError(
                f"weights {source}: {file} holds {len(shift)} shifts and {len(scale)} scales, the model takes {size}"
            )
        return cls(shift, scale)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``am.mvn`` into a folder that is there."""
        size = len(self.shift_I)
        parts = [
            f"<{name}> {size} {size}\n<LearnRateCoef> 0 [ {' '.join(map(str, numbers.tolist()))} ]\n"
            for name, numbers in (("AddShift", self.shift_I), ("Rescale", self.scale_I))
        ]
        text = "".join(["<Nnet>\n", *parts, "</Nnet>\n"])
        Path(folder, NORMS).write_text(text, encoding="utf-8")

    def __call__(self, samples: NDArray[np.float32]) -> Tensor:
        """Float32 (T, I) of a waveform (S,), 16 kHz in [-1, 1]; one shorter than 25 ms is filled up with silence."""
        sound = _FULL_SCALE * torch.from_numpy(np.pad(samples, (0, max(0, _MIN_SAMPLES - len(samples)))))
        if self.noise:
            sound += self.noise * torch.randn(len(sound), generator=torch.Generator().manual_seed(0))
        bands_FM = kaldi.fbank(
            sound[None],
            num_mel_bins=len(self.shift_I) // STACKED,
            window_type="hamming",
            dither=0.0,
            energy_floor=0.0,
            sample_frequency=SAMPLE_RATE_HZ,
        )
        return (stack(bands_FM) + self.shift_I) * self.scale_I


def stack(bands_FM: Tensor) -> Tensor:
    """Every sixth frame with three before and three behind it, the first and the last repeated beyond the ends.

    >>> stack(torch.arange(8.0)[:, None]).tolist()
    [[0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0], [3.0, 4.0, 5.0, 6.0, 7.0, 7.0, 7.0]]
    """
    middle_T = torch.arange(0, len(bands_FM), STEP)
    taken_TK = middle_T[:, None] + torch.arange(STACKED) - STACKED // 2
    return bands_FM[taken_TK.clamp(0, len(bands_FM) - 1)].flatten(1)

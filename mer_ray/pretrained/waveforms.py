"""Models of transformers that read waveforms: HuBERT, wav2vec 2.0, WavLM, data2vec-audio; a frame every 20 ms.

Shapes: S samples, T frames.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from transformers import Wav2Vec2FeatureExtractor

from mer_ray.errors import ConfigError
from mer_ray.pretrained.forward import Item
from mer_ray.pretrained.model import PretrainedConfig, PretrainedModel
from mer_ray.types import SAMPLE_RATE_HZ

FAMILIES = ("hubert", "wav2vec2", "wavlm", "data2vec-audio")
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}
"""Of the configuration of a large model, as HuBERT and wav2vec 2.0 publish it."""
MIN_SAMPLES = 400  # one frame: the receptive field of the convolutions


class WaveformConfig(PretrainedConfig):
    """Weights of such a model, and how long clips are cut."""

    budget: int = Field(60 * SAMPLE_RATE_HZ, ge=1, description="samples of one forward: clips x longest clip")
    window_seconds: float = Field(
        30.0, gt=0.1, description="a longer clip is read in equal windows of at most this, side by side"
    )


class WaveformModel(PretrainedModel):
    """What stands before and around such a model, whatever is read out of it.

    A waveform shorter than 25 ms is padded with silence to one frame. Beyond ``window_seconds`` a clip is read in equal
    windows, each brought to unit variance by itself and seeing nothing of the others.

    Class attributes:
        families: types of models that are taken.
    """

    families: ClassVar[tuple[str, ...]] = FAMILIES
    config: WaveformConfig

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether padding would change the result.

        Group norm in the convolutions takes its statistics over the padding too, and data2vec's stacked positional
        convolutions carry it into the clip; such models are batched by exact length.
        """
        return self._has_group_norm or self.model_config.model_type == "data2vec-audio"

    @property
    def _has_group_norm(self) -> bool:
        return getattr(self.model_config, "feat_extract_norm", "layer") == "group"

    def _read_config(self, folder: Path) -> Any:
        config = super()._read_config(folder)
        if config.model_type not in self.families:
            raise ConfigError(
                f"weights {self.config.weights.source}: a model of type {config.model_type!r}; the "
                f"{type(self).__module__.rpartition('.')[2]} plug-in takes {', '.join(self.families)}"
            )
        return config

    def _prepare(self, folder: Path) -> None:
        self._extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)

    def _prepare_randomly(self) -> None:
        self._extractor = Wav2Vec2FeatureExtractor(do_normalize=not self._has_group_norm)

    def _windows(self, index: int, samples: NDArray[np.float32]) -> list[Item]:
        """The items of the clip at ``index`` of a call."""
        if len(samples) < MIN_SAMPLES:
            samples = np.pad(samples, (0, MIN_SAMPLES - len(samples)))
        windows = max(1, -(-len(samples) // int(self.config.window_seconds * SAMPLE_RATE_HZ)))
        return [Item(index, len(part), part) for part in np.array_split(samples, windows)]

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        made = self._extractor(
            payloads,
            sampling_rate=SAMPLE_RATE_HZ,
            padding=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        lengths = [len(payload) for payload in payloads]
        return {"input_values": made["input_values"], "attention_mask": made["attention_mask"], "lengths": lengths}

    def _spans(self, inputs: dict[str, Any]) -> list[tuple[int, int]]:
        """The frames of each payload; takes out of ``inputs`` what the model itself is not to be given."""
        lengths = inputs.pop("lengths")
        if len(set(lengths)) == 1:
            del inputs["attention_mask"]  # nothing is padded; without a mask attention takes its fastest kernel
        return [(0, self._num_frames(length)) for length in lengths]

    @cached_property
    def _strides(self) -> list[tuple[int, int]]:
        return list(zip(self.model_config.conv_kernel, self.model_config.conv_stride, strict=True))

    def _num_frames(self, num_samples: int) -> int:
        """Frames that the convolutions make of so many samples."""
        for kernel, stride in self._strides:
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples

"""Whisper's encoder, in all its sizes, by its weights; the decoder is never loaded.

Read out is by default the last hidden state, a frame every 20 ms, over the clip's own length: not over the silence that
fills Whisper's window of 30 s.

Shapes: S samples, T frames, D width.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from torch import nn
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError
from mer_ray.pretrained import architecture, spectrogram
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.forward import Features, Item
from mer_ray.pretrained.layers import LayerReader, Readout, combine
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.spectrogram import LogMel
from mer_ray.pretrained.weights import Weights
from mer_ray.types import SAMPLE_RATE_HZ, Modality

_SAMPLES_PER_FRAME = 320  # two hops of 10 ms: the convolutions' stride
_POSITIONS = 1500


def _published(num_parameters: float, name: str, width: int, layers: int, **options: Any) -> Architecture:
    """An architecture by its encoder's figures; the source leaves out the positions, which are not trained."""
    sizes = {
        "d_model": width,
        **{f"{part}_layers": layers for part in ("encoder", "decoder")},
        **{f"{part}_attention_heads": width // 64 for part in ("encoder", "decoder")},
        **{f"{part}_ffn_dim": 4 * width for part in ("encoder", "decoder")},
    }
    return Architecture(
        lambda: WhisperConfig(**sizes, **options),
        num_parameters + _POSITIONS * width,
        "SLAM-ASR (Ma et al. 2024), table 5, and 1,500 fixed positions",
        f"openai/{name}",
        "Apache-2.0",
    )


ARCHITECTURES = {
    "whisper-base": _published(19.82e6, "whisper-base", 512, 6),
    "whisper-small": _published(87.00e6, "whisper-small", 768, 12),
    "whisper-medium": _published(305.68e6, "whisper-medium", 1024, 24),
    "whisper-large-v2": _published(634.86e6, "whisper-large-v2", 1280, 32),
    "whisper-large-v3": _published(634.86e6, "whisper-large-v3", 1280, 32, num_mel_bins=128, vocab_size=51866),
}


class Config(PretrainedConfig, Readout):
    """Which weights, and what is read out of them."""

    budget: int = Field(8, ge=1, description="windows of one forward; each costs its full length, whatever is in it")
    layers: int | tuple[int, ...] = Field(
        1, description="the last n hidden states, or a list of them; 0: before layer 1"
    )
    window_seconds: int | None = Field(
        None,
        ge=1,
        description="clips are padded to this, and longer ones cut into equal windows; unset: the model's 30 s. "
        "Shorter saves work, but is nothing that Whisper was trained on",
    )


class _EncoderAlone(WhisperEncoder):  # type: ignore[misc]
    """Finds its weights in files of the whole model without a word about the decoder's."""

    _keys_to_ignore_on_load_unexpected = (r"decoder\.", r"proj_out\.")


class Encoder(base.PretrainedEncoder):
    """Frames of Whisper's encoder, 50 a second: one for every 20 ms that the clip begins, at least one.

    A clip is padded with silence to the window, as Whisper was trained, and its own frames are kept. A longer one is
    encoded in equal windows, whose frames follow each other without a gap or an overlap: 0.2 s are 10 frames, five
    minutes 15,000. Silence gives the model's features of silence.
    """

    modality = Modality.AUDIO
    reads = ("audio",)
    version = 1
    architectures: ClassVar = ARCHITECTURES
    config: Config

    @property
    def dim(self) -> int:
        """The encoder's width, times the layers if they stand side by side."""
        return self.config.width(self.model_config.encoder_layers, self.model_config.d_model)

    @property
    def _positions(self) -> int:
        """Frames of one window."""
        of_model = int(self.model_config.max_source_positions)
        if self.config.window_seconds is None:
            return of_model
        wanted = self.config.window_seconds * SAMPLE_RATE_HZ // _SAMPLES_PER_FRAME
        if wanted > of_model:
            raise ConfigError(
                f"window_seconds={self.config.window_seconds}: the model's window is "
                f"{of_model * _SAMPLES_PER_FRAME / SAMPLE_RATE_HZ:g} s"
            )
        return wanted

    def _read_config(self, folder: Path) -> Any:
        config = super()._read_config(folder)
        if config.model_type != "whisper":
            raise ConfigError(
                f"weights {self.config.weights.source}: a model of type {config.model_type!r}; the whisper plug-in "
                "takes whisper; hubert takes HuBERT, wav2vec 2.0, WavLM and data2vec-audio"
            )
        return config

    def _build(self, model_config: Any) -> nn.Module:
        return WhisperEncoder(model_config)  # type: ignore[no-any-return]

    def _load(self, folder: Path) -> nn.Module:
        names = {r"^(model\.)?encoder\.": ""}  # as WhisperForConditionalGeneration and WhisperModel save them
        return architecture.load(_EncoderAlone, folder, self.config.weights, key_mapping=names)  # type: ignore[no-any-return]

    def _prepare(self, folder: Path) -> None:
        self._set_extractor(spectrogram.load(folder, self.config.weights, self.model_config.num_mel_bins))

    def _prepare_randomly(self) -> None:
        self._set_extractor(WhisperFeatureExtractor(feature_size=self.model_config.num_mel_bins))

    def _set_extractor(self, extractor: WhisperFeatureExtractor) -> None:
        self._log_mel = LogMel(extractor, self._positions * _SAMPLES_PER_FRAME)

    def _adapt(self, model: Any) -> nn.Module:
        num_layers = self.model_config.encoder_layers
        self._reader = LayerReader(model, "layers", self.config.indices(num_layers), normed=True)
        self._learnt = self.config.learnt(num_layers)
        if self._positions < len(model.embed_positions.weight):
            model.embed_positions = nn.Embedding(
                self._positions, model.config.d_model, _weight=model.embed_positions.weight[: self._positions]
            )
            model.config = copy.copy(model.config)
            model.config.max_source_positions = self._positions
        return model  # type: ignore[no-any-return]

    def _items(self, index: int, clip: ClipInput) -> list[Item]:
        assert clip.audio is not None
        samples = clip.audio if len(clip.audio) else np.zeros(1, np.float32)
        frames = -(-len(samples) // _SAMPLES_PER_FRAME)
        windows = -(-frames // self._positions)
        size = -(-frames // windows) * _SAMPLES_PER_FRAME  # whole frames, so that no window begins within one
        return [Item(index, 1, samples[start : start + size]) for start in range(0, len(samples), size)]

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        return {"input_features": self._log_mel(payloads), "lengths": [len(payload) for payload in payloads]}

    def _forward(self, inputs: dict[str, Any]) -> Features:
        assert self._model is not None
        states = self._reader.states(self._model, input_features=inputs["input_features"])
        features_BTD = combine(states, self.config.combine, self._learnt)
        return Features(features_BTD, [(0, -(-length // _SAMPLES_PER_FRAME)) for length in inputs["lengths"]])


def tiny() -> Encoder:
    """A Whisper in everything but its size: 3 layers of width 32 and a window of 5 s, saved and loaded as files."""
    sizes = {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
    sizes |= {f"{part}_ffn_dim": 64 for part in ("encoder", "decoder")}
    config = WhisperConfig(d_model=32, encoder_layers=3, decoder_layers=1, max_source_positions=250, **sizes)
    model = architecture.randomly(lambda: WhisperModel(config))
    folder = architecture.keep_files(model, WhisperFeatureExtractor(chunk_length=5))
    return Encoder(Config(weights=Weights(source=folder), layers=2, device="cpu"))

"""HuBERT and its kin: wav2vec 2.0, WavLM, data2vec-audio, in base, large and Chinese variants, by their weights.

Read out are hidden states of the transformer, a frame every 20 ms: the mean of the last four (P1), their sum (P3), one
layer, or a learnt weighting (P2 section 2.1), with the adapters of P2 where they were trained.

Shapes: S samples, T frames, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import nn
from transformers import (
    AutoModel,
    Data2VecAudioConfig,
    HubertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
)

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.pretrained import architecture
from mer_ray.pretrained.adapters import add_adapters
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.forward import Features, Item
from mer_ray.pretrained.layers import LayerReader, Readout, combine
from mer_ray.pretrained.waveforms import LARGE, WaveformConfig, WaveformModel
from mer_ray.pretrained.weights import LocalPath, Weights
from mer_ray.types import Modality

ARCHITECTURES = {
    "hubert-base": Architecture(
        HubertConfig, 95e6, "HuBERT (Hsu et al. 2021), table 1", "facebook/hubert-base-ls960", "Apache-2.0"
    ),
    "hubert-large": Architecture(
        lambda: HubertConfig(**LARGE),
        317e6,
        "HuBERT (Hsu et al. 2021), table 1",
        "facebook/hubert-large-ll60k",
        "Apache-2.0",
    ),
    "chinese-hubert-large": Architecture(
        lambda: HubertConfig(**LARGE),
        317e6,
        "HuBERT (Hsu et al. 2021), table 1: the same architecture",
        "TencentGameMate/chinese-hubert-large",
        "MIT",
    ),
    "wav2vec2-large": Architecture(
        lambda: Wav2Vec2Config(**LARGE),
        317e6,
        "wav2vec 2.0 (Baevski et al. 2020), section 4.2",
        "facebook/wav2vec2-large-lv60",
        "Apache-2.0",
    ),
    "wavlm-large": Architecture(
        lambda: WavLMConfig(**{**LARGE, "conv_bias": False}),
        316.62e6,
        "WavLM (Chen et al. 2022), table 1",
        "microsoft/wavlm-large",
        "CC-BY-SA-3.0",
    ),
    "data2vec-audio-large": Architecture(
        lambda: Data2VecAudioConfig(**{**LARGE, "do_stable_layer_norm": False}),
        317e6,
        "data2vec (Baevski et al. 2022), section 4: the size of wav2vec 2.0 large",
        "facebook/data2vec-audio-large",
        "Apache-2.0",
    ),
}


class Config(WaveformConfig, Readout):
    """Which weights, and what is read out of them."""

    adapters: LocalPath | None = Field(None, description="safetensors file of P2's adapters, trained for these weights")
    final_norm: bool = Field(
        False, description="the last state behind the stack's final norm, as transformers 4 and features made by it"
    )


class Encoder(WaveformModel, base.PretrainedEncoder):
    """Frames of a speech model, 50 a second.

    A waveform shorter than 25 ms is padded with silence to one frame; 0.2 s are 9 frames. Silence gives the model's
    features of silence: where the weights want waveforms of unit variance, those of all zeros. Beyond
    ``window_seconds`` a clip is encoded in equal windows, each brought to unit variance by itself and seeing nothing of
    the others: five minutes are ten windows of 30 s, 14,990 frames.
    """

    modality = Modality.AUDIO
    reads = ("audio",)
    version = 1
    architectures: ClassVar = ARCHITECTURES
    file_options: ClassVar = ("layer_weights", "adapters")
    shareable = False  # the norm of its positional convolution's weights is taken of whole tensors
    config: Config

    @property
    def dim(self) -> int:
        """The transformer's width, times the layers if they stand side by side."""
        return self.config.width(self.model_config.num_hidden_layers, self.model_config.hidden_size)

    def _build(self, model_config: Any) -> nn.Module:
        model: nn.Module = AutoModel.from_config(model_config)
        return model

    def _load(self, folder: Path) -> nn.Module:
        model: nn.Module = architecture.load(AutoModel, folder, self.config.weights, ("masked_spec_embed",))
        return model

    def _adapt(self, model: Any) -> nn.Module:
        num_layers = self.model_config.num_hidden_layers
        if self.config.adapters:
            add_adapters(model.encoder.layers, self.config.adapters)
        stable = getattr(self.model_config, "do_stable_layer_norm", False)
        wanted = self.config.indices(num_layers)
        self._reader = LayerReader(model.encoder, "layers", wanted, normed=self.config.final_norm and stable)
        self._learnt = self.config.learnt(num_layers)
        return model  # type: ignore[no-any-return]

    def _items(self, index: int, clip: ClipInput) -> list[Item]:
        assert clip.audio is not None
        return self._windows(index, clip.audio)

    def _forward(self, inputs: dict[str, Any]) -> Features:
        spans = self._spans(inputs)
        assert self._model is not None
        states = self._reader.states(self._model, **inputs)
        return Features(combine(states, self.config.combine, self._learnt), spans)


def tiny() -> Encoder:
    """A HuBERT-large in everything but its size: 3 layers of width 32, saved and loaded as files."""
    config = HubertConfig(
        **{**LARGE, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64},
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    model = architecture.randomly(lambda: AutoModel.from_config(config))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    folder = architecture.keep_files(model, extractor)
    return Encoder(Config(weights=Weights(source=folder), layers=2, device="cpu"))

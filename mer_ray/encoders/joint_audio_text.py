"""Qwen2-Audio: a prompt, the audio and its punctuated transcript read in one sequence (P1 section 2.3).

Read out is the mean of the last four hidden states of the decoder; the last state is the one behind the final norm. The
vocabulary's head is neither loaded nor run, but in training.

Shapes: B sequences, T tokens, F spectrogram frames, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import nn
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioModel,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture, spectrogram, tokens
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.forward import Features, Item
from mer_ray.pretrained.layers import LayerReader, Readout, combine
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.spectrogram import LogMel
from mer_ray.pretrained.weights import Weights
from mer_ray.types import Modality

_SAMPLES_PER_POSITION = 320  # of the audio tower, before its pooling by two
_MIN_SAMPLES = 1120  # two audio tokens: the library takes a single one for a sequence whose audio is not yet put in
_AUDIO, _TEXT = "{audio}", "{text}"
_VOCABULARY, _WIDTH = 156032, 4096


def _qwen2_audio() -> Qwen2AudioConfig:
    text = {
        "model_type": "qwen2",
        "vocab_size": _VOCABULARY,
        "hidden_size": _WIDTH,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }
    return Qwen2AudioConfig(text_config=text)


def _published(name: str) -> Architecture:
    return Architecture(
        _qwen2_audio,
        8.4e9 - _VOCABULARY * _WIDTH,
        "size of the safetensors on the hub: 8.4 G (with the audio encoder), less the head",
        f"Qwen/{name}",
        "Apache-2.0",
    )


ARCHITECTURES = {
    "qwen2-audio-7b": _published("Qwen2-Audio-7B"),
    "qwen2-audio-7b-instruct": _published("Qwen2-Audio-7B-Instruct"),
}


class Config(PretrainedConfig, Readout):
    """Which weights, what they are asked, and which tokens are read out."""

    budget: int = Field(4096, ge=1, description="tokens of one forward, audio included: clips x longest sequence")
    prompt: str = Field(
        "Which emotion does the speaker express: neutral, anger, happiness, sadness, worry or surprise?\n"
        "{audio}\nTranscript: {text}\nEmotion:",
        description="the sequence, with the places of audio and transcript; an Instruct model wants chat marks",
    )
    tokens: Literal["content", "all", "audio", "last"] = Field(
        "content",
        description="frames: from the audio on (audio and transcript) | the prompt before it, too | the audio alone | "
        "the last token, where the answer would begin",
    )
    max_characters: int = Field(1024, ge=0, description="a longer transcript is cut here")

    @field_validator("prompt")
    @classmethod
    def _has_both_places(cls, prompt: str) -> str:
        if prompt.count(_AUDIO) != 1 or prompt.count(_TEXT) != 1:
            raise ValueError(f"the places of audio and transcript must be written once each, as {_AUDIO} and {_TEXT}")
        return prompt


@dataclass(frozen=True)
class _Sequence:
    """One clip as the model takes it.

    Attributes:
        ids: token ids, those of the audio repeated for each of its tokens.
        samples: of the audio, float32.
        span: first position read out, and the one behind the last.
    """

    ids: list[int]
    samples: NDArray[np.float32]
    span: tuple[int, int]


class Encoder(base.PretrainedEncoder):
    """A frame for each token of the sequence from the audio on: 25 a second of audio, then the transcript's.

    P1 does not say which of the prompt's tokens count. Those before the audio are left out by default: they say nothing
    of the clip, and the states of a sequence's first token are far larger than all others.

    Audio beyond the model's 30 s is not heard, so that five minutes count as their first 30 s; a transcript beyond
    ``max_characters`` is not read. Audio shorter than 70 ms is padded with silence; 0.2 s are 5 frames of audio. A
    silent clip, which P1 leaves out of training, gives the model's features of silence with its transcript; an empty
    transcript leaves its place empty. A transcript cannot pose as one of the model's special tokens. Random weights
    read bytes: three tokens for a Chinese character.
    """

    modality = Modality.JOINT
    reads = ("audio", "transcript")
    version = 1
    architectures: ClassVar = ARCHITECTURES
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._keeps_head = False
        self._head: nn.Linear | None = None

    @property
    def dim(self) -> int:
        """The decoder's width, times the layers if they stand side by side."""
        decoder = self.model_config.text_config
        return self.config.width(decoder.num_hidden_layers, decoder.hidden_size)

    def _read_config(self, folder: Path) -> Any:
        config = super()._read_config(folder)
        if config.model_type != "qwen2_audio":
            raise ConfigError(
                f"weights {self.config.weights.source}: a model of type {config.model_type!r}; the joint_audio_text "
                "plug-in takes qwen2_audio"
            )
        return config

    def answering(self, tune: Callable[[nn.Module], None]) -> tuple[nn.Module, nn.Linear]:
        """``network``, and the vocabulary's head that belongs to it, float32."""
        self._keeps_head = True
        model = self.network(tune)
        assert self._head is not None
        return model, self._head.float()

    def answer(self, text: str) -> list[int]:
        """The tokens of an answer and of its end; once the model is there."""
        ids: list[int] = self._tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        ends = (self._tokenizer.eos_token_id, self._tokenizer.pad_token_id, 0)
        return [*ids, next(end for end in ends if end is not None)]

    def _build(self, model_config: Any) -> nn.Module:
        return self._without_head(self._class(model_config))

    def _load(self, folder: Path) -> nn.Module:
        return self._without_head(architecture.load(self._class, folder, self.config.weights))

    @property
    def _class(self) -> Any:
        return Qwen2AudioForConditionalGeneration if self._keeps_head else Qwen2AudioModel

    def _without_head(self, model: Any) -> nn.Module:
        self._head = model.lm_head if self._keeps_head else None
        return model.model if self._keeps_head else model  # type: ignore[no-any-return]

    def _prepare(self, folder: Path) -> None:
        config, weights = self.model_config, self.config.weights
        self._set_tokenizer(tokens.load(folder, weights, config.text_config.vocab_size))
        if self._audio_id != config.audio_token_id:
            raise PluginError(
                f"weights {weights.source}: the tokenizer's {self._audio_token} is {self._audio_id}, the model's "
                f"{config.audio_token_id}; it is of another model"
            )
        self._set_extractor(spectrogram.load(folder, weights, config.audio_config.num_mel_bins))

    def _prepare_randomly(self) -> None:
        config = self.model_config
        self._set_tokenizer(_byte_tokenizer())
        config.audio_token_id = self._audio_id
        self._set_extractor(WhisperFeatureExtractor(config.audio_config.num_mel_bins))

    def _set_tokenizer(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._audio_token = getattr(tokenizer, "audio_token", "<|AUDIO|>")
        self._audio_id = tokenizer.convert_tokens_to_ids(self._audio_token)

    def _set_extractor(self, extractor: WhisperFeatureExtractor) -> None:
        positions = self.model_config.audio_config.max_source_positions
        self._log_mel = LogMel(extractor, positions * _SAMPLES_PER_POSITION)

    def _adapt(self, model: Any) -> nn.Module:
        num_layers = self.model_config.text_config.num_hidden_layers
        self._reader = LayerReader(model.language_model, "layers", self.config.indices(num_layers), normed=True)
        self._learnt = self.config.learnt(num_layers)
        return model  # type: ignore[no-any-return]

    def _items(self, index: int, clip: ClipInput) -> list[Item]:
        assert clip.audio is not None
        samples = clip.audio[: self._log_mel.num_samples]
        samples = np.pad(samples, (0, max(0, _MIN_SAMPLES - len(samples))))
        ids = self._tokenizer(self._fill(samples, clip.text or ""), verbose=False)["input_ids"]
        return [Item(index, len(ids), _Sequence(ids, samples, self._span(ids)))]

    def _fill(self, samples: NDArray[np.float32], text: str) -> str:
        """The prompt with the audio's tokens and the transcript in their places."""
        positions = (self._log_mel.num_frames(len(samples)) + 1) // 2
        audio = f"<|audio_bos|>{self._audio_token * (positions // 2)}<|audio_eos|>"
        said = text[: self.config.max_characters].replace("<|", "< |")
        before, behind = self.config.prompt.split(_AUDIO)
        return f"{before.replace(_TEXT, said)}{audio}{behind.replace(_TEXT, said)}"

    def _span(self, ids: list[int]) -> tuple[int, int]:
        first = ids.index(self._audio_id)
        return {
            "content": (first, len(ids)),
            "all": (0, len(ids)),
            "audio": (first, first + ids.count(self._audio_id)),
            "last": (len(ids) - 1, len(ids)),
        }[self.config.tokens]

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        """Padded on the right and without a mask: the decoder looks back only, and no token sees what is behind it."""
        sequences: list[_Sequence] = payloads
        features_BMF = self._log_mel([sequence.samples for sequence in sequences])
        frames_B = torch.tensor([self._log_mel.num_frames(len(sequence.samples)) for sequence in sequences])
        ids_BT = torch.full((len(sequences), max(len(s.ids) for s in sequences)), self._tokenizer.pad_token_id or 0)
        for row, sequence in zip(ids_BT, sequences, strict=True):
            row[: len(sequence.ids)] = torch.tensor(sequence.ids)
        return {
            "input_ids": ids_BT,
            "input_features": features_BMF,
            "feature_attention_mask": (torch.arange(features_BMF.shape[2]) < frames_B[:, None]).long(),
            "spans": [sequence.span for sequence in sequences],
        }

    def _forward(self, inputs: dict[str, Any]) -> Features:
        spans = inputs.pop("spans")
        assert self._model is not None
        states = self._reader.states(self._model, **inputs, use_cache=False)
        return Features(combine(states, self.config.combine, self._learnt), spans)


def _byte_tokenizer() -> Any:
    return architecture.byte_tokenizer(
        pad_token="<|endoftext|>",
        audio_token="<|AUDIO|>",
        audio_bos_token="<|audio_bos|>",
        audio_eos_token="<|audio_eos|>",
    )


def tiny() -> Encoder:
    """A Qwen2-Audio in everything but its size: 2 and 3 layers of width 32, 5 s of audio, saved and loaded as files."""
    processor = Qwen2AudioProcessor(WhisperFeatureExtractor(16, chunk_length=5), _byte_tokenizer())
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": 16,
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "max_source_positions": 250,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": 300,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        audio_token_index=processor.audio_token_id,
    )
    model = architecture.randomly(lambda: Qwen2AudioForConditionalGeneration(config))
    folder = architecture.keep_files(model, processor)
    return Encoder(Config(weights=Weights(source=folder), layers=2, device="cpu"))

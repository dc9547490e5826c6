"""Speech models with a layer of letters (CTC), by their weights: HuBERT, WavLM, wav2vec 2.0 and its BERT, data2vec.

Words come from the likeliest letters, or from a beam search with a lexicon and an n-gram of words.

Shapes: T frames, V tokens.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn
from transformers import (
    AutoModelForCTC,
    HubertConfig,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
)

from mer_ray.errors import PluginError, ShapeError
from mer_ray.pretrained import architecture, tuning
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.ctc import DELIMITER, Beam, Greedy, Search, Vocabulary, Words
from mer_ray.pretrained.forward import Features, Item
from mer_ray.pretrained.waveforms import FAMILIES, LARGE, WaveformConfig, WaveformModel
from mer_ray.pretrained.weights import LocalPath, Weights, fetch_file
from mer_ray.recognisers import base
from mer_ray.recognisers.base import Segment, Transcript
from mer_ray.types import SAMPLE_RATE_HZ

FRAME_SAMPLES = 320
"""Of each frame, in all families."""
_SILENT = 1e-4  # largest deviation from the mean: nothing was recorded
_MIN_SPECTRAL = 800  # four frames of mel bands, of which two make one of the model's
UNREAD = tuple(
    f"{name}.masked_spec_embed" for name in ("wav2vec2", "wav2vec2_bert", "hubert", "wavlm", "data2vec_audio")
)
"""Beginnings of the names of tensors that recognition never reads."""
_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_LETTERS = "etaonihsrdlumwcfgypbvk'xjqz"
SPECTRAL = "wav2vec2-bert"
"""The family that reads mel bands."""
ARCHITECTURES = {
    "wav2vec2-base-960h": Architecture(
        Wav2Vec2Config,
        95e6,
        "wav2vec 2.0 (Baevski et al. 2020), section 4.2",
        "facebook/wav2vec2-base-960h",
        "Apache-2.0",
    ),
    "hubert-large-ls960-ft": Architecture(
        lambda: HubertConfig(**LARGE),
        317e6,
        "HuBERT (Hsu et al. 2021), table 1",
        "facebook/hubert-large-ls960-ft",
        "Apache-2.0",
    ),
}


class Config(WaveformConfig):
    """Which weights, and how words are found."""

    decoder: Literal["greedy", "beam"] = Field(
        "greedy", description="likeliest letters, or a search; the latter needs the extra speech"
    )
    lexicon: LocalPath | None = Field(None, description="file for the beam: a word and its tokens in each line")
    language_model: LocalPath | None = Field(None, description="ARPA file of an n-gram of the lexicon's words")
    beam_size: int = Field(50, ge=1, description="hypotheses that are kept")
    beam_threshold: float = Field(50.0, gt=0, description="log-probability below the best from which one is dropped")
    language_weight: float = Field(1.0, ge=0, description="of the n-gram's log10 beside the sounds' natural log")
    word_score: float = Field(0.0, description="added for each word")

    @model_validator(mode="after")
    def _searches(self) -> Self:
        if self.decoder == "greedy" and (self.lexicon or self.language_model):
            raise ValueError("lexicon and language_model are for decoder=beam")
        if self.language_model and not self.lexicon:
            raise ValueError("language_model is of words: give the lexicon that spells them")
        return self


class Recogniser(WaveformModel, base.Recogniser):
    """Letters, 50 a second, made into words.

    The score is the mean log-probability of the letters where the words lie in the frames, by the sounds alone; the
    confidence is its exponential. Text is in small letters where the model knows only capitals.
    """

    version: ClassVar[int] = 1
    hears: ClassVar[Literal["original", "chosen"]] = "chosen"
    families: ClassVar = (*FAMILIES, SPECTRAL)
    architectures: ClassVar = ARCHITECTURES
    file_options: ClassVar = ("lexicon", "language_model")
    config: Config

    @property
    def is_spectral(self) -> bool:
        """Whether the model reads mel bands and not the waveform."""
        return bool(self.model_config.model_type == SPECTRAL)

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """See the base class; mel bands are normed clip by clip, and what is padded is masked."""
        return not self.is_spectral and super().exact

    def network(self, tune: Callable[[nn.Module], None]) -> nn.Module:
        """The model to be trained: on the CPU, float32; ``log_probabilities`` runs it.

        Args:
            tune: sets what trains of it.
        """
        self._model = self._open("cpu", tune).float()
        tuning.run_whole(self._model)
        return self._model

    def __getstate__(self) -> dict[str, Any]:
        """Without the model: its normed weights do not pickle, and another process loads it again."""
        return self.__dict__ | {"_model": None, "_runner": None}

    def _build(self, model_config: Any) -> nn.Module:
        model: nn.Module = AutoModelForCTC.from_config(model_config)
        return model

    def _load(self, folder: Path) -> nn.Module:
        model: nn.Module = architecture.load(AutoModelForCTC, folder, self.config.weights, UNREAD)
        return model

    def _prepare(self, folder: Path) -> None:
        self._prepare_extractor(folder)
        if not (folder / "vocab.json").is_file():
            raise PluginError(f"weights {self.config.weights.source}: no vocab.json in {folder}, so no letters")
        self._set_tokenizer(Wav2Vec2CTCTokenizer.from_pretrained(folder, local_files_only=True))

    def _prepare_extractor(self, folder: Path) -> None:
        if self.is_spectral:
            self._extractor = SeamlessM4TFeatureExtractor.from_pretrained(folder, local_files_only=True)
        else:
            super()._prepare(folder)

    def _prepare_randomly(self) -> None:
        super()._prepare_randomly()
        names = ["<pad>", "<s>", "</s>", "<unk>", DELIMITER, *_LETTERS.upper()]
        self._set_tokenizer(tokenizer(names))

    def _set_tokenizer(self, made: Any) -> None:
        """What turns frames into words."""
        self._tokenizer = made
        vocabulary = Vocabulary.of(made, self.model_config.pad_token_id)
        if len(vocabulary.tokens) != self.model_config.vocab_size:
            raise PluginError(
                f"weights {self.config.weights.source}: {len(vocabulary.tokens)} tokens in vocab.json, "
                f"{self.model_config.vocab_size} in the model"
            )
        self._lower = not any(
            token.islower() for i, token in enumerate(vocabulary.tokens) if i not in vocabulary.silent
        )
        self._decoder = Greedy(vocabulary) if self.config.decoder == "greedy" else Beam(vocabulary, self._search())

    def _search(self) -> Search:
        config = self.config
        return Search(
            lexicon=fetch_file(config.lexicon, "lexicon") if config.lexicon else None,
            language_model=fetch_file(config.language_model, "language model") if config.language_model else None,
            size=config.beam_size,
            threshold=config.beam_threshold,
            language_weight=config.language_weight,
            word_score=config.word_score,
        )

    def _windows(self, index: int, samples: NDArray[np.float32]) -> list[Item]:
        if self.is_spectral and len(samples) < _MIN_SPECTRAL:
            samples = np.pad(samples, (0, _MIN_SPECTRAL - len(samples)))
        return super()._windows(index, samples)

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        if not self.is_spectral:
            return super()._collate(payloads)
        made = self._extractor(payloads, sampling_rate=SAMPLE_RATE_HZ, padding=True, return_tensors="pt")
        return {"input_features": made["input_features"], "attention_mask": made["attention_mask"]}

    def _spans(self, inputs: dict[str, Any]) -> list[tuple[int, int]]:
        if not self.is_spectral:
            return super()._spans(inputs)
        return [(0, int(own)) for own in inputs["attention_mask"].sum(dim=1)]

    def inputs(self, waveforms: Sequence[NDArray[np.float32]]) -> list[dict[str, Any]]:
        """What ``log_probabilities`` takes: one batch, or one for each where padding changes the result.

        Raises:
            ShapeError: a waveform is longer than one window.
        """
        cut = [self._windows(i, samples) for i, samples in enumerate(waveforms)]
        if long := [parts for parts in cut if len(parts) > 1]:
            raise ShapeError(f"it is longer than window_seconds, which makes {len(long[0])} parts of it")
        payloads = [parts[0].payload for parts in cut]
        return [self._collate([payload]) for payload in payloads] if self.exact else [self._collate(payloads)]

    def log_probabilities(self, inputs: dict[str, Any]) -> Features:
        """One of ``inputs`` through ``network``: (B, T, V) and each clip's own frames, with gradients."""
        return self._forward(dict(inputs))

    @property
    def vocabulary(self) -> Vocabulary:
        """What the columns stand for; known once the model is opened."""
        return self._decoder.vocabulary

    def _forward(self, inputs: dict[str, Any]) -> Features:
        spans = self._spans(inputs)
        assert self._model is not None
        return Features(self._model(**inputs).logits.float().log_softmax(dim=-1), spans)

    def _transcribe(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Transcript]:
        loud = [
            i
            for i, samples in enumerate(waveforms)
            if len(samples) and np.abs(samples - samples.mean()).max() > _SILENT
        ]
        items: list[Item] = [item for i in loud for item in self._windows(i, waveforms[i])]
        parts: dict[int, list[torch.Tensor]] = {i: [] for i in loud}
        runner = self.runner
        for item, logp_TV in zip(items, runner.map(items, self._collate, self._forward, exact=self.exact), strict=True):
            parts[item.clip].append(logp_TV)
        found = {
            i: self._transcript(self._decoder.decode(torch.cat(logp)), len(waveforms[i])) for i, logp in parts.items()
        }
        return [found.get(i, Transcript("", 1.0)) for i in range(len(waveforms))]

    def _transcript(self, found: Words, num_samples: int) -> Transcript:
        words = [word.lower() if self._lower else word for word in found.words]
        end, seconds = num_samples / SAMPLE_RATE_HZ, FRAME_SAMPLES / SAMPLE_RATE_HZ
        segments = tuple(
            Segment(min(start * seconds, end), min(stop * seconds, end), word)
            for word, (start, stop) in zip(words if found.spans else [], found.spans, strict=True)
        )
        confidence = 1.0 if not words else float(np.exp(found.score)) if found.score is not None else 0.0
        return Transcript(" ".join(words), confidence, found.score, segments=segments)


def tokenizer(names: Sequence[str]) -> Any:
    """A tokenizer of transformers whose tokens are numbered in their order, ``|`` between words."""
    numbers = {name: i for i, name in enumerate(names)}
    special = {role: name if name in numbers else None for role, name in _SPECIAL.items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "vocab.json")
        file.write_text(json.dumps(numbers), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(str(file), word_delimiter_token=DELIMITER, **special)


def tiny() -> Recogniser:
    """A HuBERT with group norm and letters, in everything but its size: 2 layers of width 32, saved and loaded."""
    names = ["<pad>", "<s>", "</s>", "<unk>", DELIMITER, *_LETTERS.upper()]
    config = HubertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=len(names),
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    model = architecture.randomly(lambda: AutoModelForCTC.from_config(config))
    folder = architecture.keep_files(model, Wav2Vec2FeatureExtractor(do_normalize=False), tokenizer(names))
    return Recogniser(Config(weights=Weights(source=folder), device="cpu"))

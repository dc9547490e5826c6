"""Whisper by transformers, in all its sizes, by its published weights: for GPUs, and where CTranslate2 is missing.

Weights are a folder with ``config.json``, ``generation_config.json``, ``preprocessor_config.json``, ``tokenizer.json``
and safetensors.

Shapes: B windows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import nn
from transformers import GenerationConfig, WhisperForConditionalGeneration
from transformers.generation import GenerationMixin, LogitsProcessorList
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
from transformers.modeling_outputs import BaseModelOutput

from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture, spectrogram
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.forward import Item
from mer_ray.pretrained.model import PretrainedConfig, PretrainedModel
from mer_ray.pretrained.weights import Weights
from mer_ray.pretrained.whisper_tokens import WINDOW_SECONDS, Heard, WhisperTokens, hear_windows, keep_tiny
from mer_ray.recognisers import base
from mer_ray.recognisers.base import Transcript
from mer_ray.types import SAMPLE_RATE_HZ

_NEVER_TWICE = 3  # tokens in a row, in a window that was taken for a loop


class Config(PretrainedConfig):
    """Which weights, and how words are searched for."""

    budget: int = Field(48, ge=1, description="windows of 30 s of one forward")
    language: str | None = Field(None, description="ISO 639-1 code, e.g. zh; unset: heard from each clip's beginning")
    beam: int = Field(4, ge=2, description="hypotheses that are kept")
    max_tokens: int = Field(224, ge=1, description="most tokens of a window of 30 s")


@dataclass(frozen=True)
class _Made:
    """Of each window its tokens, the prompt and the end left out, their mean log-probability, and its language."""

    tokens: list[list[int]]
    scores: list[float]
    languages: list[str]

    def apart(self) -> list[tuple[list[int], float, str]]:
        """Of each window."""
        return list(zip(self.tokens, self.scores, self.languages, strict=True))


class Recogniser(PretrainedModel, base.Recogniser):
    """Whisper's transcripts, with marks. Clips over 30 s are heard in equal windows, side by side.

    A window whose words go round in a loop, as Whisper's do at times, is heard again with no three tokens twice.
    """

    version: ClassVar[int] = 1
    punctuates: ClassVar[bool] = True
    architectures: ClassVar[dict[str, Architecture]] = {}
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.weights.is_random:
            raise ConfigError(
                "weights.source: a recogniser of random weights hears nothing; name a folder of Whisper's"
            )

    def _transcribe(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Transcript]:
        return [base.whispered(heard) for heard in hear_windows(waveforms, self._hear)]

    def _hear(self, parts: list[NDArray[np.float32]], languages: list[str | None]) -> list[Heard]:
        items = [Item(i, 1, given) for i, given in enumerate(zip(parts, languages, strict=True))]
        heard = []
        for part, (tokens, score, language) in zip(parts, self._made(items), strict=True):
            seconds, count = len(part) / SAMPLE_RATE_HZ, len(tokens) + 1  # and the end of the text
            heard.append(Heard(self._tokens.read(tokens, seconds), score * count, count, language, seconds))
        return heard

    def _made(self, items: Sequence[Item]) -> list[tuple[list[int], float, str]]:
        """What the model makes of the windows; where its words go round, without three tokens twice."""
        runner = self.runner
        made = runner.map(items, self._collate, self._forward)
        looping = [place for place, (tokens, _, _) in enumerate(made) if self._tokens.loops(tokens)]
        again = runner.map([items[place] for place in looping], self._collate, self._forward_again)
        for place, one in zip(looping, again, strict=True):
            made[place] = one
        return made

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        return {"input_features": self._log_mel([part for part, _ in payloads]), "known": [one for _, one in payloads]}

    def _forward(self, inputs: dict[str, Any]) -> _Made:
        return self._generate(inputs)

    def _forward_again(self, inputs: dict[str, Any]) -> _Made:
        return self._generate(inputs, no_repeat_ngram_size=_NEVER_TWICE)

    def _generate(self, inputs: dict[str, Any], **more: Any) -> _Made:
        """The library's beam search alone: its ``generate`` for Whisper tells no score of a transcript with times."""
        model: Any = self._model
        encoded = model.get_encoder()(inputs["input_features"])
        languages = self._languages(encoded, inputs["known"])
        asked = [[self._tokens.tokenizer.token_to_id(token) for token in self._tokens.prompt(one)] for one in languages]
        prompt = encoded.last_hidden_state.new_tensor(asked).long()
        told = self._told(prompt.shape[1], **more)
        times = WhisperTimeStampLogitsProcessor(told, begin_index=prompt.shape[1])
        made = GenerationMixin.generate(
            model,
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded.last_hidden_state),
            decoder_input_ids=prompt,
            generation_config=told,
            logits_processor=LogitsProcessorList([times]),
        )
        end = told.eos_token_id
        tokens = [[t for t in row if t != end] for row in made.sequences[:, prompt.shape[1] :].tolist()]
        return _Made(tokens, [min(0.0, float(score)) for score in made.sequences_scores], languages)

    def _told(self, prompt_length: int, **more: Any) -> GenerationConfig:
        """What the search is told: the weights' own tokens, one transcript of the best score."""
        model: Any = self._model
        published = model.generation_config
        return GenerationConfig(
            num_beams=self.config.beam, do_sample=False, max_new_tokens=self.config.max_tokens,
            return_dict_in_generate=True, output_scores=True, max_initial_timestamp_index=50,
            no_timestamps_token_id=published.no_timestamps_token_id, suppress_tokens=published.suppress_tokens,
            begin_suppress_tokens=published.begin_suppress_tokens, eos_token_id=_first(published.eos_token_id),
            pad_token_id=published.pad_token_id, bos_token_id=_first(published.eos_token_id), **more,
        )  # fmt: skip

    def _languages(self, encoded: Any, known: Sequence[str | None]) -> list[str]:
        count, told = len(known), [language for language in known if language]
        if not self._tokens.is_multilingual:
            return ["en"] * count
        if self.config.language:
            return [self.config.language] * count
        if len(told) == count:
            return told
        model: Any = self._model
        numbers = model.detect_language(encoder_outputs=encoded, generation_config=model.generation_config)
        return [str(self._tokens.tokenizer.id_to_token(number))[2:-2] for number in numbers.tolist()]

    def _read_config(self, folder: Path) -> Any:
        config = super()._read_config(folder)
        if config.model_type != "whisper":
            raise ConfigError(
                f"weights {self.config.weights.source}: a model of type {config.model_type!r}; whisper is wanted"
            )
        return config

    def _build(self, model_config: Any) -> nn.Module:
        return WhisperForConditionalGeneration(model_config)  # type: ignore[no-any-return]

    def _load(self, folder: Path) -> nn.Module:
        # the head is the embedding of the tokens, which files need not hold twice
        return architecture.load(  # type: ignore[no-any-return]
            WhisperForConditionalGeneration, folder, self.config.weights, ("proj_out.",)
        )

    def _prepare(self, folder: Path) -> None:
        extractor = spectrogram.load(folder, self.config.weights, self.model_config.num_mel_bins)
        self._log_mel = spectrogram.LogMel(extractor, WINDOW_SECONDS * SAMPLE_RATE_HZ)
        source = self.config.weights.source
        try:
            is_multilingual = bool(GenerationConfig.from_pretrained(folder).to_dict().get("is_multilingual", True))
        except OSError as error:
            raise PluginError(f"weights {source}: no generation_config.json in {folder}: {error}") from error
        self._tokens = WhisperTokens.load(folder, source, is_multilingual)
        if self.config.language and is_multilingual and self.config.language not in self._tokens.languages:
            raise ConfigError(f"language={self.config.language!r}: the model knows {', '.join(self._tokens.languages)}")

    def _prepare_randomly(self) -> None:
        raise AssertionError("there are no random weights of it")


def _first(number: int | list[int]) -> int:
    return number if isinstance(number, int) else number[0]


def tiny() -> Recogniser:
    """A Whisper in everything but its size, of two languages, saved and loaded as files."""
    return Recogniser(Config(weights=Weights(source=keep_tiny()), device="cpu", max_tokens=12))

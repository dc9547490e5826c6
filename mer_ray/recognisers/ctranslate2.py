"""Whisper by CTranslate2: the same networks as ``whisper``, several times as fast on CPUs, in 8 bits there by default.

Weights are a folder as ``ct2-transformers-converter`` writes it: ``model.bin``, which is CTranslate2's own format and
no pickle, ``config.json`` and ``tokenizer.json``. The package comes with the extra ``speech``.

Shapes: S samples, W windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import extras, plugin
from mer_ray.pretrained import weights as weights_
from mer_ray.pretrained.weights import Weights
from mer_ray.pretrained.whisper_tokens import WINDOW_SECONDS, Heard, WhisperTokens, hear_windows, is_speech
from mer_ray.recognisers import base
from mer_ray.recognisers.base import Transcript
from mer_ray.types import SAMPLE_RATE_HZ

_FILES = "model.bin"
_NEVER_TWICE = 3  # tokens in a row, in a window that was taken for a loop


class Config(plugin.Config):
    """Which weights, and how words are searched for."""

    weights: Weights = Field(description="folder of model.bin, config.json and tokenizer.json, or package:NAME")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if there is one")
    compute_type: Literal["auto", "int8", "float32", "float16", "bfloat16"] = Field(
        "auto", description="of the arithmetic; auto: int8 on a CPU, float16 on cuda"
    )
    language: str | None = Field(None, description="ISO 639-1 code, e.g. zh; unset: heard from each clip's beginning")
    beam: int = Field(4, ge=1, description="hypotheses that are kept")
    max_tokens: int = Field(224, ge=1, le=448, description="most tokens of a window of 30 s")
    windows: int = Field(8, ge=1, description="windows of 30 s of one call")
    threads: int = Field(1, ge=1, description="of a worker on CPUs")


class Recogniser(base.Recogniser):
    """Whisper's transcripts, with marks. Clips over 30 s are heard in equal windows, side by side.

    A window whose words go round in a loop, as Whisper's do at times, is heard again with no three tokens twice.
    """

    version: ClassVar[int] = 1
    licence: ClassVar[str] = "MIT"
    punctuates: ClassVar[bool] = True
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._model: Any = None
        self._tokens: Any = None
        self._log_mel: Any = None

    def __reduce__(self) -> tuple[type[Recogniser], tuple[Config]]:
        """As it was before it was loaded: the library's model stays in its process."""
        return type(self), (self.config,)

    @property
    def identity(self) -> str:
        """See the base class: the content of the files, and the library."""
        return f"{weights_.identity(self.config.weights, _FILES)}, ctranslate2 {extras.version('ctranslate2')}"

    @property
    def dtype(self) -> str:
        """The type of the arithmetic."""
        if self.config.compute_type != "auto":
            return self.config.compute_type
        return "float16" if self._device == "cuda" else "int8"

    @property
    def spec_options(self) -> dict[str, Any]:
        """See the base class."""
        elsewhere = {"weights", "device", "compute_type", "windows", "threads"}
        return self.config.model_dump(mode="json", exclude=elsewhere) | {"dtype": self.dtype}

    def load(self) -> None:
        """See the base class.

        Raises:
            PluginError: the package is not installed, or the folder holds no Whisper of it.
            ConfigError: the language is none of the model's.
        """
        extras.version("ctranslate2")
        import ctranslate2  # noqa: PLC0415 - of an extra
        from transformers import WhisperFeatureExtractor  # noqa: PLC0415

        from mer_ray.pretrained import spectrogram  # noqa: PLC0415 - torch and transformers

        weights = self.config.weights
        folder = weights_.fetch(weights, files=_FILES)
        try:
            model = ctranslate2.models.Whisper(
                str(folder), device=self._device, compute_type=self.dtype, intra_threads=self.config.threads
            )
        except (RuntimeError, ValueError) as error:
            raise PluginError(f"weights {weights.source}: CTranslate2 cannot load {folder}: {error}") from error
        self._tokens = WhisperTokens.load(folder, weights.source, model.is_multilingual)
        if self.config.language and model.is_multilingual and self.config.language not in self._tokens.languages:
            raise ConfigError(f"language={self.config.language!r}: the model knows {', '.join(self._tokens.languages)}")
        extractor = WhisperFeatureExtractor(feature_size=model.n_mels)
        self._log_mel = spectrogram.LogMel(extractor, WINDOW_SECONDS * SAMPLE_RATE_HZ)
        self._model = model

    def _transcribe(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Transcript]:
        if self._model is None:
            self.load()
        return [base.whispered(heard) for heard in hear_windows(waveforms, self._in_batches)]

    def _in_batches(self, parts: list[NDArray[np.float32]], languages: list[str | None]) -> list[Heard]:
        size = self.config.windows
        cut = (slice(start, start + size) for start in range(0, len(parts), size))
        return [heard for batch in cut for heard in self._hear(parts[batch], languages[batch])]

    def _hear(self, parts: Sequence[NDArray[np.float32]], languages: Sequence[str | None]) -> list[Heard]:
        """One call: W windows of at most 30 s, and the languages of those whose clip's is known."""
        import ctranslate2  # noqa: PLC0415 - of an extra

        features = self._log_mel(parts).numpy()
        encoded = self._model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(features)))
        spoken = self._languages(encoded, languages)
        made = self._generate(encoded, spoken)
        if looping := [i for i, one in enumerate(made) if self._tokens.loops(one.sequences_ids[0])]:
            some = ctranslate2.StorageView.from_array(np.ascontiguousarray(features[looping]))
            again = self._generate(some, [spoken[i] for i in looping], no_repeat_ngram_size=_NEVER_TWICE)
            made = [*made]
            for i, one in zip(looping, again, strict=True):
                made[i] = one
        return [
            self._heard(one, language, len(part) / SAMPLE_RATE_HZ)
            for one, language, part in zip(made, spoken, parts, strict=True)
        ]

    def _heard(self, result: Any, language: str, seconds: float) -> Heard:
        made = result.sequences_ids[0]
        num_tokens = len(made) + 1  # and the end of the text
        log_probability = float(result.scores[0]) * len(made)  # the library tells the mean without the end
        is_said = bool(made) and is_speech(log_probability / num_tokens, float(result.no_speech_prob))
        spoken = self._tokens.read(made, seconds) if is_said else []
        return Heard(spoken, log_probability, num_tokens, language, seconds)

    def _generate(self, features: Any, languages: Sequence[str], **more: Any) -> Sequence[Any]:
        made: Sequence[Any] = self._model.generate(
            features,
            [self._tokens.prompt(language) for language in languages],
            beam_size=self.config.beam,
            max_length=self.config.max_tokens,
            return_scores=True,
            return_no_speech_prob=True,
            **more,
        )
        return made

    def _languages(self, encoded: Any, known: Sequence[str | None]) -> list[str]:
        if not self._model.is_multilingual:
            return ["en"] * len(known)
        if self.config.language:
            return [self.config.language] * len(known)
        told = [language for language in known if language]
        if len(told) == len(known):
            return told
        return [ranked[0][0][2:-2] for ranked in self._model.detect_language(encoded)]

    @property
    def _device(self) -> str:
        if self.config.device != "auto":
            return self.config.device
        import ctranslate2  # noqa: PLC0415 - of an extra

        return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"


def tiny() -> Recogniser:
    """A Whisper in everything but its size, converted as its real ones are; the library takes it for an English one."""
    from ctranslate2.converters import TransformersConverter  # noqa: PLC0415 - of an extra

    from mer_ray.pretrained.whisper_tokens import keep_tiny  # noqa: PLC0415

    source = keep_tiny()
    folder = f"{source}/ctranslate2"
    TransformersConverter(source, copy_files=["tokenizer.json"]).convert(folder, force=True)
    return Recogniser(Config(weights=Weights(source=folder), device="cpu", compute_type="float32", max_tokens=12))

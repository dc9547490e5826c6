"""A recogniser that noise does not throw off: CTC on clips that are mixed with noise as they are heard (P1, 2.4.1).

Shapes: B clips, T frames, V tokens, L letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCTC, SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig

from mer_ray.encoders.base import ClipInput
from mer_ray.pretrained import architecture, saving, tuning
from mer_ray.pretrained import weights as weights_
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.ctc import DELIMITER, Vocabulary
from mer_ray.pretrained.tuning import Tuning, merged
from mer_ray.pretrained.weights import Weights
from mer_ray.recognisers import ctc
from mer_ray.speech.augment import Mixing, Sounds, masked, mixed
from mer_ray.speech.ngram import NGram, lexicon
from mer_ray.tasks import base
from mer_ray.tasks.base import MODEL, Batch, Outcome
from mer_ray.types import SAMPLE_RATE_HZ

LEXICON, ARPA = "lexicon.txt", "words.arpa"
_SMALL = "small"
_HEAD = "lm_head"


class Small(BaseModel):
    """A small conformer on mel bands, from scratch; its frames are 20 ms."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bands: int = Field(40, ge=8, description="mel bands")
    width: int = Field(96, ge=8, description="of its layers")
    layers: int = Field(3, ge=1, description="of the conformer")
    heads: int = Field(4, ge=1, description="of its attention; they divide the width")
    dropout: float = Field(0.05, ge=0, lt=1, description="in all of it")

    def architecture(self, vocab_size: int) -> Wav2Vec2BertConfig:
        """As transformers knows it."""
        drops = ("hidden", "attention", "activation", "final", "conformer_conv")
        return Wav2Vec2BertConfig(
            vocab_size=vocab_size,
            pad_token_id=0,
            feature_projection_input_dim=2 * self.bands,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=2 * self.width,
            conv_depthwise_kernel_size=15,
            left_max_position_embeddings=32,
            right_max_position_embeddings=8,
            feat_proj_dropout=0.0,
            layerdrop=0.0,
            initializer_range=self.width**-0.5,  # at the 0.02 of wide models a narrow one hardly hears its input
            **{f"{name}_dropout": self.dropout for name in drops},
        )


class Config(base.Config):
    """What is trained, on what noise, and what stands beside it when it is saved."""

    weights: Weights | None = Field(None, description="pretrained, with letters or without; unset: from scratch")
    small: Small = Field(Small(), description="what is trained from scratch")
    letters: str = Field("etaonihsrdlumwcfgypbvk'xjqz", min_length=1, description="of weights that have none")
    tuning: Tuning = Tuning()
    mixing: Mixing = Field(Mixing(), description="noise, rooms, other speakers, pace and masks")
    max_seconds: float = Field(20.0, gt=0, le=30, description="longer clips are left out")
    order: int = Field(2, ge=2, description="of the n-gram that is saved beside the weights")
    sentences: tuple[str, ...] = Field((), description="text of lexicon and n-gram; unset: the training clips'")

    @model_validator(mode="after")
    def _tunes(self) -> Self:
        if self.tuning.how not in ("full", "partial", "lora"):
            raise ValueError(f"tuning.how={self.tuning.how}: a recogniser takes full, partial or lora")
        return self


class Listener(ctc.Recogniser):
    """The recogniser that is trained: small and from scratch, or of weights, whose letters may be new."""

    def __init__(self, config: Config) -> None:
        weights = config.weights or Weights(source=f"random:{_SMALL}")
        super().__init__(ctc.Config(weights=weights, device="cpu", window_seconds=2 * config.max_seconds))
        self.names = ["<pad>", "<unk>", DELIMITER, *dict.fromkeys(config.letters)]
        self.small = config.small
        made = partial(config.small.architecture, len(self.names))
        if config.weights is None:
            self.architectures = {_SMALL: Architecture(made, 0, "", "", "")}  # type: ignore[misc]
        self.is_lettered = config.weights is not None and self._has_letters()

    def _has_letters(self) -> bool:
        source = self.config.weights
        return not source.is_random and (weights_.fetch(source, only_config=True) / "vocab.json").is_file()

    def lettered(self) -> Vocabulary:
        """Its letters; what stands before the model is made for them, and not the model."""
        if self.config.weights.is_random:
            self._prepare_randomly()
        else:
            self._prepare(weights_.fetch(self.config.weights, only_config=True))
        return self.vocabulary

    def save_before(self, folder: Path) -> None:
        """Write what stands before and behind the model: what makes its inputs, and its letters."""
        self._extractor.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def _read_config(self, folder: Path) -> Any:  # noqa: ANN401 - of transformers
        config = super()._read_config(folder)
        if not self.is_lettered:
            config.vocab_size, config.pad_token_id = len(self.names), 0
        return config

    def _load(self, folder: Path) -> nn.Module:
        if self.is_lettered:
            return super()._load(folder)
        unread = (*ctc.UNREAD, _HEAD)
        model: nn.Module = architecture.load(
            AutoModelForCTC, folder, self.config.weights, unread, config=self.model_config
        )
        return model

    def _prepare(self, folder: Path) -> None:
        if self.is_lettered:
            super()._prepare(folder)
        else:
            self._prepare_extractor(folder)
            self._set_tokenizer(ctc.tokenizer(self.names))

    def _prepare_randomly(self) -> None:
        if self.model_config.model_type != ctc.SPECTRAL:
            super()._prepare_randomly()
            return
        bands = self.small.bands
        self._extractor = SeamlessM4TFeatureExtractor(feature_size=bands, num_mel_bins=bands, stride=2)
        self._set_tokenizer(ctc.tokenizer(self.names))


class Task(base.Task):
    """Clips with transcripts in, letters out.

    Clips whose transcript has no letter, or more than their frames could hold, are left out. Held-out clips are mixed
    too, each time in the same way; they are judged by their loss.
    """

    needs_labels = False
    filters = True
    makes: ClassVar[str] = "recognisers"
    config: Config

    def __init__(self, config: Config, class_names: Sequence[str]) -> None:
        super().__init__(config, class_names)
        self.listener = Listener(config)
        self._letters: Vocabulary | None = None
        self._sounds: Sounds | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sounds": None}

    @property
    def reads(self) -> tuple[str, ...]:
        """See the base class."""
        return ("audio", "transcript")

    @property
    def identity(self) -> str:
        """See the base class."""
        return "" if self.config.weights is None else self.listener.identity

    @property
    def shareable(self) -> bool:
        """The norm of positional convolutions' weights is taken of whole tensors."""
        return False

    def taught(self, texts: Sequence[str]) -> Config:
        """See the base class."""
        return self.config if self.config.sentences else self.config.model_copy(update={"sentences": tuple(texts)})

    def build(self) -> nn.Module:
        """See the base class."""
        return Network(self.listener, self.config)

    def usable(self, clip: ClipInput) -> bool:
        """See the base class."""
        assert clip.audio is not None
        letters = self.spelled(clip.text or "")
        if not letters or len(clip.audio) > self.config.max_seconds * SAMPLE_RATE_HZ:
            return False
        repeats = sum(a == b for a, b in pairwise(letters))
        fastest = len(clip.audio) / max(self.config.mixing.speeds)
        return len(letters) + repeats < fastest / ctc.FRAME_SAMPLES - 2

    def spelled(self, text: str) -> list[int]:
        """The columns of a text's letters, words parted by the delimiter; what the vocabulary lacks is left out."""
        vocabulary = self.letters
        column = {token: i for i, token in enumerate(vocabulary.tokens) if i not in vocabulary.silent}
        wanted = text.lower() if any(token.islower() for token in column) else text.upper()
        words = [[column[c] for c in word if c in column] for word in wanted.split()]
        spelled: list[int] = []
        for word in filter(None, words):
            between = [vocabulary.delimiter] if spelled and vocabulary.delimiter is not None else []
            spelled += [*between, *word]
        return spelled

    @property
    def letters(self) -> Vocabulary:
        """Of the model, which is opened for it once."""
        if self._letters is None:
            self._letters = self.listener.lettered()
        return self._letters

    def collate(
        self, clips: Sequence[ClipInput], label: NDArray[np.int64], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        """See the base class: ``inputs`` of the model, and the letters of each clip."""
        if self._sounds is None:
            self._sounds = Sounds.of(self.config.mixing)
        said = [clip.audio for clip in clips if clip.audio is not None]
        heard = [
            mixed(samples, self.config.mixing, self._sounds, rng, [other for other in said if other is not samples])
            for samples, rng in zip(said, rngs, strict=True)
        ]
        self.letters  # noqa: B018 - the extractor comes with them
        inputs = self.listener.inputs(heard)
        for batch in inputs:
            if "input_features" in batch:
                bands_BFT = masked(batch["input_features"].transpose(1, 2), self.config.mixing, rngs[0])
                batch["input_features"] = bands_BFT.transpose(1, 2)
        spelled = [torch.tensor(self.spelled(clip.text or "")) for clip in clips]
        lengths = torch.tensor([len(letters) for letters in spelled])
        return {"inputs": inputs, "letters": torch.cat(spelled), "lengths": lengths}

    def save(self, weights: Iterable[tuple[str, Tensor]], folder: Path, place: str) -> Mapping[str, Any]:
        """See the base class: a folder of the ``ctc`` recogniser; with text, its lexicon and n-gram for the beam."""
        saving.write(saving.under(merged(weights, self.config.tuning), MODEL), self.listener.model_config, folder)
        self.listener.save_before(folder)
        options: dict[str, Any] = {"weights": {"source": place}}
        vocabulary = self.letters
        sentences = [self.words(text) for text in self.config.sentences]
        if any(sentences):
            words = {word for sentence in sentences for word in sentence}
            (folder / LEXICON).write_text(lexicon(words, DELIMITER if vocabulary.delimiter is not None else ""))
            (folder / ARPA).write_text(NGram(filter(None, sentences), self.config.order).arpa())
            options |= {"decoder": "beam", "lexicon": f"{place}/{LEXICON}", "language_model": f"{place}/{ARPA}"}
        return {"plugin": "ctc", "options": options}

    def words(self, text: str) -> list[str]:
        """A text as the model would write it."""
        return [self.letters.spell(word) for word in self.letters.words(self.spelled(text))]

    def section(self, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        """See the base class: what transcribes."""
        return {"transcribe": {"enabled": True, "recogniser": {"name": entry["plugin"], "options": entry["options"]}}}


class Network(nn.Module):
    """The listener's model under the CTC loss, the mean over a batch of each clip's loss per letter."""

    def __init__(self, listener: Listener, config: Config) -> None:
        super().__init__()
        self.listener = listener
        self.model = listener.network(partial(tuning.apply, tuning=config.tuning))

    def forward(self, batch: Batch) -> Outcome:
        """See ``Task.build``."""
        made = [self.listener.log_probabilities(inputs) for inputs in batch["inputs"]]
        parts = [part for one in made for part in one.values_BTD]
        frames = [stop for one in made for _, stop in one.spans or ()]
        logp_TBV = nn.utils.rnn.pad_sequence(parts)
        loss = functional.ctc_loss(
            logp_TBV,
            batch["letters"],
            torch.tensor(frames, device=logp_TBV.device),
            batch["lengths"],
            blank=self.listener.vocabulary.blank,
            zero_infinity=True,
        )
        return Outcome(loss, {}, logp_TBV.new_zeros(len(parts), 0))

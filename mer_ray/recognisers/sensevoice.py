"""SenseVoiceSmall: Mandarin, Cantonese, English, Japanese and Korean with marks, in one pass of a network.

Published as a pickle, ``model.pt``, with ``am.mvn`` and its tokens beside; ``jobs/weights.py convert`` makes a folder
of them that is loaded here. The network is this package's own, see ``pretrained.sense_voice``.

Shapes: B windows, T frames, V tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from tokenizers import decoders
from torch import Tensor, nn

from mer_ray.errors import PluginError
from mer_ray.pretrained import architecture, fbank, funasr, pieces
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.checkpoint import Checkpoint
from mer_ray.pretrained.fbank import Frontend
from mer_ray.pretrained.forward import Item
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.network import NetworkModel
from mer_ray.pretrained.sanm import pad
from mer_ray.pretrained.sense_voice import LANGUAGES, NO_SPEECH, NUM_TAGS, SenseVoice
from mer_ray.pretrained.weights import Weights
from mer_ray.pretrained.whisper_tokens import Heard, Spoken, hear_windows
from mer_ray.recognisers import base
from mer_ray.recognisers.base import Transcript
from mer_ray.types import SAMPLE_RATE_HZ

_BLANK = 0
_PUBLISHED = {
    "input_size": 560,
    "vocab_size": 25055,
    "output_size": 512,
    "attention_heads": 4,
    "linear_units": 2048,
    "num_blocks": 50,
    "tp_blocks": 20,
    "kernel_size": 11,
    "sanm_shfit": 0,
}
ARCHITECTURES = {
    "sensevoice-small": Architecture(
        lambda: dict(_PUBLISHED),
        234e6,
        "its model card",
        "FunAudioLLM/SenseVoiceSmall",
        "FunASR Model License 1.1",
    ),
}


class Config(PretrainedConfig):
    """Which weights, and which language is spoken."""

    budget: int = Field(240 * SAMPLE_RATE_HZ, ge=1, description="samples of one forward: windows x longest window")
    language: Literal["zh", "en", "yue", "ja", "ko"] | None = Field(
        None, description="the clips' language; unset: heard from each clip's beginning"
    )


@dataclass(frozen=True)
class _Made:
    """Of each frame the likeliest token and its log-probability, (B, T), the tags left out; of each window the rest."""

    tokens_BT: Tensor
    logp_BT: Tensor
    lengths: Sequence[int]
    languages: Sequence[str]

    def apart(self) -> list[tuple[list[int], list[float], str]]:
        """Of each window, its own frames' tokens and log-probabilities, and its language."""
        rows = zip(self.tokens_BT.tolist(), self.logp_BT.tolist(), self.lengths, self.languages, strict=True)
        return [(tokens[:length], logp[:length], language) for tokens, logp, length, language in rows]


class Recogniser(NetworkModel, base.Recogniser):
    """SenseVoice's transcripts. Clips over 30 s are heard in equal windows, side by side.

    The score is the mean over the tokens of the mean log-probability in a token's frames. Its tags of emotion and of
    sounds are dropped; where it says that nobody speaks, nothing is said.
    """

    version: ClassVar[int] = 1
    punctuates: ClassVar[bool] = True
    architectures: ClassVar = ARCHITECTURES
    beside: ClassVar = ((fbank.NORMS,), (pieces.TOKENS, "chn_jpn_yue_eng_ko_spectok.bpe.model"))
    config: Config

    def network(self, model_config: dict[str, Any]) -> nn.Module:
        """See the base class."""
        return SenseVoice(**model_config)

    def published(self, folder: Path) -> dict[str, Any]:
        """See the base class."""
        told = funasr.read(folder, ("SenseVoiceSmall",))
        if told is None:
            return super().published(folder)
        return {**self.model_config, **funasr.of_sound(told, folder)}

    def _prepare(self, folder: Path) -> None:
        source, sizes = self.config.weights.source, self.model_config
        self._frontend = Frontend.load(folder, source, sizes["input_size"])
        self._set_tokens(pieces.load(folder, source, sizes["vocab_size"]))

    def _prepare_randomly(self) -> None:
        self._frontend = Frontend.plain(self.model_config["input_size"] // fbank.STACKED)
        self._set_tokens(_made_up(self.model_config["vocab_size"]))

    def _set_tokens(self, tokens: list[str]) -> None:
        self._tokens = tokens
        found = {name: tokens.index(tag) for name in LANGUAGES if (tag := f"<|{name}|>") in tokens}
        if len(found) < len(LANGUAGES) - 1:
            raise PluginError(f"weights {self.config.weights.source}: the tokens lack tags of languages, as <|zh|>")
        self._tags = found
        self._silent = {_BLANK, *(i for i, token in enumerate(tokens) if pieces.NO_WORD.fullmatch(token))}

    def _transcribe(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Transcript]:
        return [base.whispered(heard) for heard in hear_windows(waveforms, self._hear)]

    def _hear(self, parts: list[NDArray[np.float32]], known: list[str | None]) -> list[Heard]:
        runner = self.runner
        asked = [self.config.language or (name if name != NO_SPEECH else None) or "auto" for name in known]
        items = [Item(i, len(part), (part, name)) for i, (part, name) in enumerate(zip(parts, asked, strict=True))]
        made = runner.map(items, self._collate, self._forward)
        return [self._heard(*one, len(part) / SAMPLE_RATE_HZ) for part, one in zip(parts, made, strict=True)]

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        frames = [self._frontend(samples) for samples, _ in payloads]
        frames_BTI, own_BT = pad(frames)
        asked = torch.tensor([LANGUAGES[name] for _, name in payloads])
        lengths = [len(one) for one in frames]
        return {"frames": frames_BTI, "languages": asked, "own": own_BT, "lengths": lengths}

    def _forward(self, inputs: dict[str, Any]) -> _Made:
        assert self._model is not None
        logp_BTV = self._model(inputs["frames"], inputs["languages"], inputs["own"])
        names, columns = list(self._tags), list(self._tags.values())
        told_B = logp_BTV[:, 0, columns].argmax(dim=-1)
        logp_BT, tokens_BT = logp_BTV[:, NUM_TAGS:].max(dim=-1)
        return _Made(tokens_BT, logp_BT, inputs["lengths"], [names[i] for i in told_B.tolist()])

    def _heard(self, tokens: list[int], logp: list[float], language: str, seconds: float) -> Heard:
        """What a window's frames say: runs of a token are one, and blanks and tags are none."""
        runs = [list(run) for _, run in groupby(range(len(tokens)), tokens.__getitem__)]
        said = [run for run in runs if tokens[run[0]] not in self._silent]
        text = _spell([self._tokens[tokens[run[0]]] for run in said])
        if not text or language == NO_SPEECH:
            return Heard([], 0.0, 0, language, seconds)
        start, end = (min(frame * fbank.FRAME_SECONDS, seconds) for frame in (said[0][0], said[-1][-1] + 1))
        score = sum(sum(logp[frame] for frame in run) / len(run) for run in said)
        return Heard([Spoken(start, end, text)], score, len(said), language, seconds)


def _spell(tokens: list[str]) -> str:
    """The text of SentencePiece's tokens.

    >>> _spell(["▁he", "llo", "▁", "你", "<0xE5>", "<0xA5>", "<0xBD>"])
    'hello 你好'
    """
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return str(decoder.decode(tokens)).strip()


def _made_up(count: int) -> list[str]:
    """Tokens for random weights: the blank, tags of languages, and pieces."""
    special = ["<unk>", "<s>", "</s>", *(f"<|{name}|>" for name in LANGUAGES if name != "auto")]
    return [*special, *(f"▁{i}" for i in range(count - len(special)))]


def tiny() -> Recogniser:
    """The published network in everything but its size, saved and loaded as files."""
    config = _PUBLISHED | {"vocab_size": 40, "output_size": 32, "attention_heads": 2, "linear_units": 64}
    config |= {"input_size": 70, "num_blocks": 3, "tp_blocks": 2}
    model = architecture.randomly(lambda: SenseVoice(**config))
    parts = (Checkpoint(config, model), Frontend.plain(10), pieces.Pieces(_made_up(40)))
    return Recogniser(Config(weights=Weights(source=architecture.keep_files(*parts)), device="cpu"))

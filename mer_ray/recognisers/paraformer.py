"""Paraformer: Mandarin with English words in it, without marks, in one pass of a network.

Published as a pickle, ``model.pt``, with ``am.mvn`` and ``tokens.json`` beside; ``jobs/weights.py convert`` makes a
folder of them that is loaded here. The network is this package's own, see ``pretrained.paraformer``. The published
models that also tell times or listen for given words (BiCif, SeACo) are read as plain ones.

Shapes: B windows, T frames, N tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mer_ray.pretrained import architecture, fbank, funasr, pieces
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.checkpoint import Checkpoint
from mer_ray.pretrained.fbank import Frontend
from mer_ray.pretrained.forward import Item
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.network import NetworkModel
from mer_ray.pretrained.paraformer import Paraformer
from mer_ray.pretrained.sanm import pad
from mer_ray.pretrained.weights import Weights
from mer_ray.pretrained.whisper_tokens import Heard, Spoken, hear_windows
from mer_ray.recognisers import base
from mer_ray.recognisers.base import Transcript
from mer_ray.types import SAMPLE_RATE_HZ

_PART = "@@"  # ends a token that is not the last of its word
_UNSPACED = re.compile(r"(?<=[^\x00-\x7f]) (?=[^\x00-\x7f])")
_SHARED = ("attention_heads", "linear_units", "kernel_size", "sanm_shfit")  # of encoder and decoder
_PREDICTOR = {"threshold": 1.0, "l_order": 1, "r_order": 1, "smooth_factor": 1.0, "noise_threshold": 0}
_PUBLISHED = {
    "input_size": 560,
    "vocab_size": 8404,
    "output_size": 512,
    "attention_heads": 4,
    "linear_units": 2048,
    "num_blocks": 50,
    "decoder_blocks": 16,
    "kernel_size": 11,
    "sanm_shfit": 0,
    "tail_threshold": 0.45,
}
ARCHITECTURES = {
    "paraformer-large": Architecture(
        lambda: dict(_PUBLISHED),
        220e6,
        "its model card; without the table of tokens that training alone reads, 2% less",
        "funasr/paraformer-zh",
        "FunASR Model License 1.1",
    ),
}


class Config(PretrainedConfig):
    """Which weights, and their language."""

    budget: int = Field(240 * SAMPLE_RATE_HZ, ge=1, description="samples of one forward: windows x longest window")
    language: str = Field("zh", description="ISO 639-1 code of what the weights were trained on; transcripts tell it")


@dataclass(frozen=True)
class _Made:
    """Of each token the likeliest, its log-probability and the frame in which it ends, (B, N); a window's own count."""

    tokens_BN: Tensor
    logp_BN: Tensor
    ends_BN: Tensor
    counts_B: Tensor

    def apart(self) -> list[list[tuple[int, float, int]]]:
        """Of each window, its own tokens."""
        rows = zip(self.tokens_BN.tolist(), self.logp_BN.tolist(), self.ends_BN.tolist(), strict=True)
        counts = self.counts_B.tolist()
        return [list(zip(*row, strict=True))[:count] for row, count in zip(rows, counts, strict=True)]


class Recogniser(NetworkModel, base.Recogniser):
    """Paraformer's transcripts. Clips over 30 s are heard in equal windows, side by side.

    The score is the mean log-probability of the tokens.
    """

    version: ClassVar[int] = 1
    architectures: ClassVar = ARCHITECTURES
    beside: ClassVar = ((fbank.NORMS,), (pieces.TOKENS,))
    unread: ClassVar = (
        "decoder.embed.", "predictor.upsample_cnn.", "predictor.blstm.", "predictor.cif_output2.", "bias_encoder.",
        "bias_embed.", "lstm_proj.", "seaco_decoder.", "hotword_output_layer.",
    )  # fmt: skip
    config: Config

    def network(self, model_config: dict[str, Any]) -> nn.Module:
        """See the base class."""
        return Paraformer(**model_config)

    def published(self, folder: Path) -> dict[str, Any]:
        """See the base class."""
        told = funasr.read(folder, ("Paraformer", "BiCifParaformer", "SeacoParaformer"))
        if told is None:
            return super().published(folder)
        sizes = self.model_config | funasr.of_sound(told, folder)
        funasr.hold(told, "decoder_conf", {name: sizes[name] for name in _SHARED})
        funasr.hold(told, "predictor_conf", _PREDICTOR)
        blocks = funasr.part(told, "decoder_conf").get("num_blocks", sizes["decoder_blocks"])
        tail = funasr.part(told, "predictor_conf").get("tail_threshold", sizes["tail_threshold"])
        return {**sizes, "decoder_blocks": blocks, "tail_threshold": tail}

    def _prepare(self, folder: Path) -> None:
        source, sizes = self.config.weights.source, self.model_config
        self._frontend = Frontend.load(folder, source, sizes["input_size"])
        self._tokens = pieces.load(folder, source, sizes["vocab_size"])

    def _prepare_randomly(self) -> None:
        self._frontend = Frontend.plain(self.model_config["input_size"] // fbank.STACKED)
        self._tokens = _made_up(self.model_config["vocab_size"])

    def _transcribe(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Transcript]:
        return [base.whispered(heard) for heard in hear_windows(waveforms, self._hear)]

    def _hear(self, parts: list[NDArray[np.float32]], known: list[str | None]) -> list[Heard]:
        runner = self.runner
        items = [Item(i, len(part), part) for i, part in enumerate(parts)]
        made = runner.map(items, self._collate, self._forward)
        return [self._heard(one, len(part) / SAMPLE_RATE_HZ) for part, one in zip(parts, made, strict=True)]

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        frames_BTI, own_BT = pad([self._frontend(samples) for samples in payloads])
        return {"frames": frames_BTI, "own": own_BT}

    def _forward(self, inputs: dict[str, Any]) -> _Made:
        assert self._model is not None
        told = self._model(inputs["frames"], inputs["own"])
        logp_BN, tokens_BN = told.logp_BNV.max(dim=-1)
        return _Made(tokens_BN, logp_BN, told.ends_BN, told.counts_B)

    def _heard(self, made: list[tuple[int, float, int]], seconds: float) -> Heard:
        said = [one for one in made if not pieces.NO_WORD.fullmatch(self._tokens[one[0]])]
        text = _spell([self._tokens[token] for token, _, _ in said])
        if not text:
            return Heard([], 0.0, 0, self.config.language, seconds)
        start, end = (min(frame * fbank.FRAME_SECONDS, seconds) for frame in (said[0][2], said[-1][2] + 1))
        score = sum(logp for _, logp, _ in said)
        return Heard([Spoken(start, end, text)], score, len(said), self.config.language, seconds)


def _spell(tokens: list[str]) -> str:
    """The text of tokens: Chinese signs side by side, other words apart.

    >>> _spell(["我", "们", "o@@", "k", "yes", "好"])
    '我们 ok yes 好'
    """
    words = " ".join(tokens).replace(f"{_PART} ", "").removesuffix(_PART)
    return _UNSPACED.sub("", words).strip()


def _made_up(count: int) -> list[str]:
    """Tokens for random weights: FunASR's special ones, and some signs."""
    special = ["<blank>", "<s>", "</s>"]
    return [*special, *(chr(ord("一") + i) for i in range(count - len(special) - 1)), "<unk>"]


def tiny() -> Recogniser:
    """The published network in everything but its size, saved and loaded as files."""
    config: dict[str, Any] = _PUBLISHED | {"vocab_size": 40, "output_size": 32, "attention_heads": 2}
    config |= {"input_size": 70, "linear_units": 64, "num_blocks": 3, "decoder_blocks": 2}
    model = architecture.randomly(lambda: Paraformer(**config))
    parts = (Checkpoint(config, model), Frontend.plain(10), pieces.Pieces(_made_up(40)))
    return Recogniser(Config(weights=Weights(source=architecture.keep_files(*parts)), device="cpu"))

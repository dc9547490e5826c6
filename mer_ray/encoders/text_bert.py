"""BERT and its kin: RoBERTa, XLM-RoBERTa, MacBERT and Chinese RoBERTa-wwm, MPNet, ELECTRA, ERNIE, by their weights.

Read out are hidden states of the transcript's tokens. The baseline toolbox of MER2024 (MERTools) drops the special
tokens, adds up the last four states and takes the mean over the tokens: ``combine: sum``, the rest is the default.

Shapes: T tokens, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn
from transformers import AutoModel, BertConfig, MPNetConfig, RobertaConfig, XLMRobertaConfig

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError
from mer_ray.pretrained import architecture, tokens
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.forward import Features, Item
from mer_ray.pretrained.layers import LayerReader, Readout, combine
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.tokens import Tokens
from mer_ray.pretrained.weights import Weights
from mer_ray.types import Modality

_SHIFTED = ("roberta", "xlm-roberta", "camembert", "mpnet")  # positions start behind the padding token's
_FAMILIES = (*_SHIFTED, "bert", "electra", "ernie")
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_CHINESE = {"vocab_size": 21128}
ARCHITECTURES = {
    "bert-base": Architecture(
        BertConfig, 110e6, "BERT (Devlin et al. 2019), section 3", "google-bert/bert-base-uncased", "Apache-2.0"
    ),
    "roberta-base": Architecture(
        lambda: RobertaConfig(**_ROBERTA), 125e6, "fairseq, examples/roberta", "FacebookAI/roberta-base", "MIT"
    ),
    "roberta-large": Architecture(
        lambda: RobertaConfig(**_LARGE, **_ROBERTA),
        355e6,
        "RoBERTa (Liu et al. 2019), section 5",
        "FacebookAI/roberta-large",
        "MIT",
    ),
    "xlm-roberta-large": Architecture(
        lambda: XLMRobertaConfig(**_LARGE, **{**_ROBERTA, "vocab_size": 250002}),
        550e6,
        "XLM-R (Conneau et al. 2020), section 3",
        "FacebookAI/xlm-roberta-large",
        "MIT",
    ),
    "chinese-roberta-wwm-ext-large": Architecture(
        lambda: BertConfig(**_LARGE, **_CHINESE),
        324e6,
        "MacBERT's README (Cui et al. 2020), table of CMRC 2018",
        "hfl/chinese-roberta-wwm-ext-large",
        "Apache-2.0",
    ),
    "chinese-macbert-large": Architecture(
        lambda: BertConfig(**_LARGE, **_CHINESE),
        324e6,
        "MacBERT's README (Cui et al. 2020), download",
        "hfl/chinese-macbert-large",
        "Apache-2.0",
    ),
    "mpnet-base": Architecture(
        lambda: MPNetConfig(vocab_size=30527, max_position_embeddings=514, layer_norm_eps=1e-5),
        110e6,
        "MPNet (Song et al. 2020), section 3.1",
        "microsoft/mpnet-base",
        "MIT",
    ),
}


class Config(PretrainedConfig, Readout):
    """Which weights, which tokens, and what is read out of them."""

    budget: int = Field(8192, ge=1, description="tokens of one forward: texts x longest text")
    tokens: Literal["content", "all", "cls"] = Field(
        "content", description="frames: the text's own tokens | with the special ones | the first special one alone"
    )
    window_tokens: int = Field(
        512, ge=3, description="a longer text is encoded in equal windows of at most this, side by side"
    )


class Encoder(base.PretrainedEncoder):
    """A frame for each token of the transcript.

    An empty transcript is the special tokens alone, and their states are its frames. A text that is longer than the
    window, or than the positions the model has, is encoded in windows of equal size, each with its own special tokens:
    no text is too long, and none is cut.
    Random weights read bytes, not words: three tokens for a Chinese character.
    """

    modality = Modality.TEXT
    reads = ("transcript",)
    version = 1
    architectures: ClassVar = ARCHITECTURES
    config: Config

    @property
    def dim(self) -> int:
        """The transformer's width, times the layers if they stand side by side."""
        return self.config.width(self.model_config.num_hidden_layers, self.model_config.hidden_size)

    def _read_config(self, folder: Path) -> Any:
        config = super()._read_config(folder)
        if config.model_type not in _FAMILIES:
            raise ConfigError(
                f"weights {self.config.weights.source}: a model of type {config.model_type!r}; the text_bert plug-in "
                f"takes {', '.join(sorted(_FAMILIES))}; text_llm takes causal language models"
            )
        return config

    def _build(self, model_config: Any) -> nn.Module:
        return _without_pooler(AutoModel.from_config(model_config))

    def _load(self, folder: Path) -> nn.Module:
        return _without_pooler(architecture.load(AutoModel, folder, self.config.weights, ("pooler.",)))

    def _prepare(self, folder: Path) -> None:
        self._set_tokenizer(tokens.load(folder, self.config.weights, self.model_config.vocab_size))

    def _prepare_randomly(self) -> None:
        names = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>"}
        if self.model_config.pad_token_id == 0:
            names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        self._set_tokenizer(architecture.byte_tokenizer(**names))

    def _set_tokenizer(self, tokenizer: Any) -> None:
        config = self.model_config
        positions = config.max_position_embeddings
        if config.model_type in _SHIFTED:
            positions -= config.pad_token_id + 1
        self._tokens = Tokens(tokenizer, min(self.config.window_tokens, positions))
        if self.config.tokens == "cls" and not self._tokens.before:
            raise ConfigError("tokens=cls: this tokenizer puts no token before a text")

    def _adapt(self, model: Any) -> nn.Module:
        num_layers = self.model_config.num_hidden_layers
        self._reader = LayerReader(model.encoder, "layer", self.config.indices(num_layers), normed=False)
        self._learnt = self.config.learnt(num_layers)
        return model  # type: ignore[no-any-return]

    def _items(self, index: int, clip: ClipInput) -> list[Item]:
        return [Item(index, len(window.ids), window) for window in self._tokens.windows(clip.text or "")]

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        return {**self._tokens.collate(payloads), "spans": [window.span(self.config.tokens) for window in payloads]}

    def _forward(self, inputs: dict[str, Any]) -> Features:
        spans = inputs.pop("spans")
        assert self._model is not None
        states = self._reader.states(self._model, **inputs)
        return Features(combine(states, self.config.combine, self._learnt), spans)


def _without_pooler(model: Any) -> nn.Module:
    model.pooler = None
    return model  # type: ignore[no-any-return]


def tiny() -> Encoder:
    """A RoBERTa in everything but its size: 3 layers of width 32, saved and loaded as files."""
    config = RobertaConfig(
        **{**_ROBERTA, "vocab_size": 300, "max_position_embeddings": 130},
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
    )
    model = architecture.randomly(lambda: AutoModel.from_config(config, add_pooling_layer=False))
    tokenizer = architecture.byte_tokenizer(cls_token="<s>", pad_token="<pad>", sep_token="</s>")
    folder = architecture.keep_files(model, tokenizer)
    return Encoder(Config(weights=Weights(source=folder), layers=2, device="cpu"))

"""Causal language models: Llama, Qwen, Mistral, Gemma, GPT-2 and the like, Baichuan by its own code, by their weights.

Read out is the mean of the last four hidden states of the decoder, over the transcript's tokens (P1 section 2.2.3, with
Baichuan-13B); the last state is the one behind the final norm. The vocabulary head is never run.

Shapes: T tokens, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

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

_TEXT = "{text}"
_SAY_SO_WRONGLY = "gpt_neox"  # decoders whose configuration says is_decoder=False
_STACKS = ("layers", "h", "blocks")  # what the classes of transformers call their list of decoder layers


def _rope(theta: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


ARCHITECTURES = {
    "qwen2.5-7b": Architecture(
        lambda: Qwen2Config(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            max_position_embeddings=131072,
            **_rope(1e6),
        ),
        7.61e9 - 152064 * 3584,
        "model card of Qwen2.5-7B: 7.61 G, less the head",
        "Qwen/Qwen2.5-7B",
        "Apache-2.0",
    ),
    "qwen3-8b": Architecture(
        lambda: Qwen3Config(
            vocab_size=151936,
            hidden_size=4096,
            intermediate_size=12288,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=40960,
            **_rope(1e6),
        ),
        8.2e9 - 151936 * 4096,
        "model card of Qwen3-8B: 8.2 G, less the head",
        "Qwen/Qwen3-8B",
        "Apache-2.0",
    ),
    "llama-2-7b": Architecture(
        lambda: LlamaConfig(max_position_embeddings=4096, rms_norm_eps=1e-5, **_rope(1e4)),
        6.7e9 - 32000 * 4096,
        "LLaMA (Touvron et al. 2023), table 2: 6.7 G, less the head; Llama 2 has the same sizes",
        "meta-llama/Llama-2-7b-hf",
        "Llama 2 Community License",
    ),
    "llama-2-13b": Architecture(
        lambda: LlamaConfig(
            hidden_size=5120,
            intermediate_size=13824,
            num_hidden_layers=40,
            num_attention_heads=40,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
            **_rope(1e4),
        ),
        13.0e9 - 32000 * 5120,
        "LLaMA (Touvron et al. 2023), table 2: 13.0 G, less the head; Llama 2 has the same sizes",
        "meta-llama/Llama-2-13b-hf",
        "Llama 2 Community License",
    ),
    "llama-3-8b": Architecture(
        lambda: LlamaConfig(
            vocab_size=128256,
            intermediate_size=14336,
            num_key_value_heads=8,
            max_position_embeddings=8192,
            rms_norm_eps=1e-5,
            **_rope(5e5),
        ),
        8.0e9 - 128256 * 4096,
        "The Llama 3 Herd of Models (2024), table 3: 8 G, less the head",
        "meta-llama/Meta-Llama-3-8B",
        "Llama 3 Community License",
    ),
}


class Config(PretrainedConfig, Readout):
    """Which weights, which tokens, and what is read out of them."""

    budget: int = Field(4096, ge=1, description="tokens of one forward: texts x longest text")
    tokens: Literal["content", "all", "last"] = Field(
        "content", description="frames: the text's own tokens | with the special ones | its last token, which saw all"
    )
    template: str | None = Field(
        None, description="put round the transcript, e.g. 'He said: {text}'; its tokens are frames too"
    )
    window_tokens: int = Field(
        2048, ge=2, description="a longer text is encoded in equal windows of at most this, side by side"
    )

    @field_validator("template")
    @classmethod
    def _has_a_place(cls, template: str | None) -> str | None:
        if template is not None and template.count(_TEXT) != 1:
            raise ValueError(f"the place of the transcript must be written once, as {_TEXT}")
        return template


class Encoder(base.PretrainedEncoder):
    """A frame for each token of the transcript, in the template if there is one.

    The token that some tokenizers begin a text with is left out by default, as the baseline toolbox of MER2024 does:
    its states are far larger than all others and would drown them in the mean. An empty transcript (without a template)
    is that token alone; where the tokenizer begins with none, its token for the beginning of a text, or else for the
    end. A text longer than the window, or than the model's positions, is encoded in windows of equal size: none is too
    long, and none is cut. What is padded lies behind the text, where a causal model does not look.

    Baichuan has no class in transformers: convert its weights to safetensors, and load them with the Python code of the
    model by ``weights.trust_remote_code`` and ``weights.revision``. Random weights read bytes: three tokens for a
    Chinese character.
    """

    modality = Modality.TEXT
    reads = ("transcript",)
    version = 1
    architectures: ClassVar = ARCHITECTURES
    config: Config

    @property
    def dim(self) -> int:
        """The decoder's width, times the layers if they stand side by side."""
        return self.config.width(self.model_config.num_hidden_layers, self.model_config.hidden_size)

    def _read_config(self, folder: Path) -> Any:
        config = super()._read_config(folder)
        known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or self.config.weights.trust_remote_code
        says_encoder = not getattr(config, "is_decoder", True) and not config.model_type.startswith(_SAY_SO_WRONGLY)
        if not known or says_encoder or config.is_encoder_decoder:
            raise ConfigError(
                f"weights {self.config.weights.source}: a model of type {config.model_type!r} is no causal language "
                "model of transformers; text_bert takes BERT and its kin"
            )
        projected = getattr(config, "word_embed_proj_dim", config.hidden_size)
        if projected != config.hidden_size:
            raise ConfigError(
                f"weights {self.config.weights.source}: its layers are {config.hidden_size} wide and its last state "
                f"{projected} (word_embed_proj_dim), which cannot be read out side by side; take an OPT of another size"
            )
        return config

    def _build(self, model_config: Any) -> nn.Module:
        model: nn.Module = AutoModel.from_config(model_config)
        return model

    def _load(self, folder: Path) -> nn.Module:
        weights = self.config.weights
        own_classes = getattr(self.model_config, "auto_map", {}) if weights.trust_remote_code else {}
        has_head = bool(own_classes) and "AutoModel" not in own_classes
        model = architecture.load(AutoModelForCausalLM if has_head else AutoModel, folder, weights)
        return model.base_model if has_head else model  # type: ignore[no-any-return]

    def _prepare(self, folder: Path) -> None:
        self._set_tokenizer(tokens.load(folder, self.config.weights, self.model_config.vocab_size))

    def _prepare_randomly(self) -> None:
        self._set_tokenizer(architecture.byte_tokenizer(eos_token="</s>"))

    def _set_tokenizer(self, tokenizer: Any) -> None:
        positions = getattr(self.model_config, "max_position_embeddings", self.config.window_tokens)
        self._tokens = Tokens(tokenizer, min(self.config.window_tokens, positions))

    def _adapt(self, model: Any) -> nn.Module:
        num_layers = self.model_config.num_hidden_layers
        owner, attribute = self._stack(model)
        self._reader = LayerReader(owner, attribute, self.config.indices(num_layers), normed=True)
        self._learnt = self.config.learnt(num_layers)
        return model  # type: ignore[no-any-return]

    def _stack(self, model: Any) -> tuple[Any, str]:
        """The module that holds the decoder layers, and their name in it."""
        for owner in (model, getattr(model, "decoder", None)):
            for attribute in _STACKS:
                if isinstance(getattr(owner, attribute, None), nn.ModuleList):
                    return owner, attribute
        raise ConfigError(
            f"weights {self.config.weights.source}: {type(model).__name__} holds its decoder layers under none of the "
            f"names {', '.join(_STACKS)}; text_llm cannot read it out"
        )

    def _items(self, index: int, clip: ClipInput) -> list[Item]:
        text = clip.text or ""
        if self.config.template is not None:
            text = self.config.template.replace(_TEXT, text)
        return [Item(index, len(window.ids), window) for window in self._tokens.windows(text)]

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        return {**self._tokens.collate(payloads), "spans": [window.span(self.config.tokens) for window in payloads]}

    def _forward(self, inputs: dict[str, Any]) -> Features:
        spans = inputs.pop("spans")
        assert self._model is not None
        states = self._reader.states(self._model, **inputs, use_cache=False)
        return Features(combine(states, self.config.combine, self._learnt), spans)


def tiny() -> Encoder:
    """A Qwen 2.5 in everything but its size: 3 layers of width 32, saved and loaded as files."""
    config = Qwen2Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        **_rope(1e6),
    )
    model = architecture.randomly(lambda: AutoModel.from_config(config))
    folder = architecture.keep_files(model, architecture.byte_tokenizer(eos_token="</s>"))
    return Encoder(Config(weights=Weights(source=folder), layers=2, device="cpu"))

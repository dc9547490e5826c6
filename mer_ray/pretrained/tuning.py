"""Which parameters of a pretrained model train (P0: full, partial, frozen, and the kinds of partial).

Shapes: D width, K bottleneck.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from mer_ray.errors import ConfigError
from mer_ray.pretrained.adapters import AdaptedLayer, Adapter
from mer_ray.pretrained.prompts import PromptedEncoder, fresh

_ATTENTION = "Attention"  # part of the name of the class in all models of transformers
_ADAPTER = "default"  # peft's name of the only one
_LEFT_TO_CHANCE = {"layerdrop": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "apply_spec_augment": False}


class Tuning(BaseModel):
    """What trains of an encoder; what is put behind it always does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    how: Literal["full", "partial", "frozen", "projector", "adapters", "lora", "prompts"] = Field(
        "full",
        description="all | by names or layers | nothing | an MLP behind it | P2's adapters behind layers | low-rank "
        "updates of matrices | P3's tokens in the first layers",
    )
    names: tuple[str, ...] = Field((), description="partial: shell patterns of parameters' names")
    layers: tuple[int, int] | None = Field(
        None, description="partial, adapters, lora, prompts: first and last layer, counted from 1; unset: all of them"
    )
    bottleneck: int = Field(128, ge=1, description="adapters: inner width (P2: 128)")
    rank: int = Field(8, ge=1, description="lora: rank of the updates")
    alpha: int = Field(16, ge=1, description="lora: updates are scaled by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="lora: dropout before the updates")
    prompts: int = Field(4, ge=1, description="prompts: tokens in each layer (P3: 4)")

    @model_validator(mode="after")
    def _says_what(self) -> Tuning:
        if self.how == "partial" and not self.names and self.layers is None:
            raise ValueError("how=partial needs names=[...] or layers=[first, last]")
        if self.how == "prompts" and self.layers is not None and self.layers[0] != 1:
            raise ValueError("how=prompts: they stand in the first layers; give layers=[1, last]")
        return self

    @property
    def rewrites(self) -> bool:
        """Whether the model's own tensors are others afterwards; else what was trained is kept beside them."""
        return self.how in ("full", "partial", "lora")


def apply(model: nn.Module, tuning: Tuning) -> None:
    """Set what trains of a model, in place; adapters and low-rank updates are put in.

    Raises:
        ConfigError: no parameter has such a name, there are no such layers, or nothing in them can be updated.
    """
    model.requires_grad_(tuning.how == "full")
    if tuning.how == "partial":
        _train_some(model, tuning)
    elif tuning.how == "adapters":
        _add_adapters(model, tuning)
    elif tuning.how == "lora":
        _add_updates(model, tuning)
    elif tuning.how == "prompts":
        _add_prompts(model, tuning)


def run_whole(model: nn.Module) -> None:
    """Turn off, in place, what skips layers or hides parts of the input at random in training.

    All states are read out, so all layers must be run, by all workers; and a short clip has nothing to be hidden.
    """
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            for name, off in _LEFT_TO_CHANCE.items():
                if hasattr(holder, name):
                    setattr(holder, name, off)


def recompute(network: nn.Module) -> None:
    """Have the layers of all pretrained models in it run again in the backward, in place, to save memory."""
    for module in network.modules():
        if isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing:
            module.gradient_checkpointing_enable({"use_reentrant": False})


def stack(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The model's layers and the name under which it holds them: its longest list of attending modules, the last such.

    Raises:
        ConfigError: it has none.
    """
    lists = [
        (name, module)
        for name, module in reversed(list(model.named_modules()))
        if isinstance(module, nn.ModuleList) and any(_ATTENTION in type(part).__name__ for part in module.modules())
    ]
    if not lists:
        raise ConfigError(f"tuning: {type(model).__name__} has no list of layers; name parameters by tuning.names")
    return max(lists, key=lambda named: len(named[1]))


def merged(weights: Iterable[tuple[str, Tensor]], tuning: Tuning) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tuned model by the names it had before: low-rank updates added to their matrices.

    Args:
        weights: its tensors, those of one module next to each other.
        tuning: what ``apply`` was told.
    """
    if tuning.how != "lora":
        yield from weights
        return
    matrix: tuple[str, Tensor] | None = None
    down: Tensor | None = None
    for name, tensor in weights:
        plain = name.replace(".base_layer.", ".")
        if name.endswith(".base_layer.weight"):
            matrix = plain, tensor
        elif f".lora_A.{_ADAPTER}." in name:
            down = tensor
        elif f".lora_B.{_ADAPTER}." in name:
            assert matrix is not None
            assert down is not None
            update = tuning.alpha / tuning.rank * (tensor.float() @ down.float())
            yield matrix[0], (matrix[1].float() + update).to(matrix[1].dtype)
        else:
            yield plain, tensor


def _wanted(tuning: Tuning, num_layers: int) -> range:
    first, last = tuning.layers or (1, num_layers)
    if not 1 <= first <= last <= num_layers:
        raise ConfigError(f"tuning.layers=[{first}, {last}]: the model has layers 1 to {num_layers}")
    return range(first, last + 1)


def _train_some(model: nn.Module, tuning: Tuning) -> None:
    found = [name for name, _ in model.named_parameters() if any(fnmatchcase(name, p) for p in tuning.names)]
    if tuning.names and not found:
        known = [name for name, _ in model.named_parameters()]
        raise ConfigError(f"tuning.names={list(tuning.names)}: no parameter is called so; there are {known[0]}, ...")
    if tuning.layers is not None:
        prefix, layers = stack(model)
        numbers = _wanted(tuning, len(layers))
        inside = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
        for name, _ in model.named_parameters():
            match = inside.match(name)
            if match and int(match[1]) + 1 in numbers:
                found.append(name)
    parameters = dict(model.named_parameters())
    for name in found:
        parameters[name].requires_grad_(True)


def _add_adapters(model: nn.Module, tuning: Tuning) -> None:
    _, layers = stack(model)
    for number in _wanted(tuning, len(layers)):
        layer = layers[number - 1]
        width = _width(layer)
        layers[number - 1] = AdaptedLayer(layer, Adapter(width, tuning.bottleneck))


def _add_prompts(model: Any, tuning: Tuning) -> None:
    towers = [getattr(model, name, None) for name in ("vision_model", "text_model")]
    if towers[0] is None or not hasattr(getattr(towers[0], "encoder", None), "layers"):
        raise ConfigError(f"tuning.how=prompts: {type(model).__name__} is no CLIP of transformers")
    for seed, tower in enumerate(tower for tower in towers if tower is not None):
        last = len(_wanted(tuning, len(tower.encoder.layers)))
        tokens = fresh(last, tuning.prompts, tower.encoder.config.hidden_size, seed=seed)
        tower.encoder = PromptedEncoder(tower.encoder, tokens)


def _width(layer: nn.Module) -> int:
    """Of a layer's hidden states: that of its first norm."""
    for module in layer.modules():
        if isinstance(module, nn.LayerNorm):
            return int(module.normalized_shape[0])
        if type(module).__name__.endswith("RMSNorm"):
            return next(module.parameters()).numel()
    raise ConfigError(f"tuning.how=adapters: {type(layer).__name__} has no norm that tells its width")


def _add_updates(model: nn.Module, tuning: Tuning) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - slow to import, and only for this

    prefix, layers = stack(model)
    names = [
        f"{prefix}.{number - 1}.{name}"
        for number in _wanted(tuning, len(layers))
        for name, module in layers[number - 1].named_modules()
        if isinstance(module, nn.Linear)
    ]
    if not names:
        raise ConfigError(f"tuning.how=lora: the layers of {type(model).__name__} hold no linear maps")
    settings = LoraConfig(r=tuning.rank, lora_alpha=tuning.alpha, lora_dropout=tuning.dropout, target_modules=names)
    inject_adapter_in_model(settings, model, adapter_name=_ADAPTER)

"""Which hidden states of a layered model are read out, and no layer run beyond the deepest of them.

Hidden state i is what layer i (counted from 1) gives; 0 is the input of the first layer.

Shapes: B items, T positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from safetensors import safe_open
from torch import Tensor, nn

from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained.weights import LocalPath, fetch_file

LAYER_WEIGHTS = "layer_weights"
"""Name of the tensor, float32 (number of layers read,), in the file of learnt layer weights (P2 section 2.1)."""


class Readout(BaseModel):
    """The fields that an encoder's ``Config`` takes over to say which hidden states become its features."""

    layers: int | tuple[int, ...] = Field(
        4, description="the last n hidden states, or a list of them; 0: before layer 1"
    )
    combine: Literal["mean", "sum", "weighted", "concat"] = Field(
        "mean", description="mean (P1) | sum (P3) | weighted: by layer_weights (P2) | concat: side by side"
    )
    layer_weights: LocalPath | None = Field(
        None, description="safetensors file with the learnt weight of each layer read"
    )

    def indices(self, num_layers: int) -> tuple[int, ...]:
        """The hidden states to read, of a model with ``num_layers``.

        Raises:
            ConfigError: there is no such layer.
        """
        if isinstance(self.layers, int):
            wanted = tuple(range(num_layers - self.layers + 1, num_layers + 1))
            if self.layers < 1 or wanted[0] < 0:
                raise ConfigError(f"layers={self.layers}: the model has hidden states 0 to {num_layers}")
            return wanted
        bad = [layer for layer in self.layers if not 0 <= layer <= num_layers]
        if bad or not self.layers:
            raise ConfigError(f"layers={list(self.layers)}: the model has hidden states 0 to {num_layers}")
        return self.layers

    def width(self, num_layers: int, hidden: int) -> int:
        """Width of the combined states."""
        read = len(self.indices(num_layers))
        return hidden * (read if self.combine == "concat" else 1)

    def learnt(self, num_layers: int) -> Tensor | None:
        """The learnt weights, float32, one for each layer read; None unless ``combine`` asks for them.

        Raises:
            PluginError: the file is missing or of another number of layers.
        """
        if self.combine != "weighted":
            return None
        count = len(self.indices(num_layers))
        if not self.layer_weights:
            raise PluginError("combine=weighted needs layer_weights=FILE.safetensors")
        with safe_open(fetch_file(self.layer_weights, "layer_weights"), "pt") as file:
            if LAYER_WEIGHTS not in file.keys():  # noqa: SIM118 - not a mapping
                raise PluginError(f"{self.layer_weights} holds no tensor {LAYER_WEIGHTS!r}")
            weights: Tensor = file.get_tensor(LAYER_WEIGHTS).float().flatten()
        if len(weights) != count:
            raise PluginError(f"{self.layer_weights} weighs {len(weights)} layers, but {count} are read")
        return weights


def combine(states: Sequence[Tensor], how: str, learnt: Tensor | None = None) -> Tensor:
    """Hidden states (..., D) as one, in float32: their mean, sum, weighted sum, or all side by side."""
    if how == "concat":
        return torch.cat([state.float() for state in states], dim=-1)
    if how == "weighted":
        assert learnt is not None
        shares: list[float] = learnt.tolist()
    else:
        shares = [1.0 / len(states) if how == "mean" else 1.0] * len(states)
    total = states[0].float() * shares[0]
    for state, share in zip(states[1:], shares[1:], strict=True):
        total = total + state.float() * share
    return total


class LayerReader:
    """Catches the wanted hidden states as the model runs, and cuts off the layers behind the deepest.

    Args:
        owner: the module that holds the layers.
        attribute: the name under which it holds them, an ``nn.ModuleList``.
        wanted: hidden states to keep.
        normed: take the last hidden state behind the stack's final norm (the model's own output), as the library gives
            it for this family.
    """

    def __init__(self, owner: nn.Module, attribute: str, wanted: Sequence[int], normed: bool) -> None:
        layers = getattr(owner, attribute)
        self.wanted = tuple(wanted)
        self.num_layers = len(layers)
        self.normed = normed and max(wanted) == self.num_layers
        self._states: dict[int, Tensor] = {}
        kept = nn.ModuleList(list(layers)[: max(1, *wanted)])
        setattr(owner, attribute, kept)
        if 0 in wanted:
            kept[0].register_forward_pre_hook(self._catch_input, with_kwargs=True)
        for index in set(wanted) - {0}:
            if not (self.normed and index == self.num_layers):
                kept[index - 1].register_forward_hook(self._catcher(index))

    @property
    def whole(self) -> bool:
        """Whether no layer was cut off."""
        return max(self.wanted) == self.num_layers

    def states(self, model: nn.Module, **inputs: Any) -> list[Tensor]:
        """The wanted states of one forward of ``model``, which holds the layers.

        None is kept here, also when the forward fails halfway: it may have failed for want of their memory.
        """
        try:
            final = model(**inputs).last_hidden_state
            caught = self._states | ({self.num_layers: final} if self.normed else {})
            return [caught[index] for index in self.wanted]
        finally:
            self._states = {}

    def _catch_input(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._states[0] = arguments[0] if arguments else named["hidden_states"]

    def _catcher(self, index: int) -> Any:
        def catch(module: nn.Module, arguments: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
            self._states[index] = output if isinstance(output, Tensor) else output[0]

        return catch

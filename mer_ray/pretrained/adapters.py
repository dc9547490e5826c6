"""P2's bottleneck adapters inside the layers of a frozen transformer: y = x + ReLU(W_up ReLU(W_down x + b) + b).

P2 section 2.1: in layers 16 to 21 of HuBERT-large, bottleneck 128. The file is safetensors with, for each adapted layer
i (counted from 1), ``layers.<i>.down.weight`` (K, D), ``layers.<i>.down.bias`` (K,), ``layers.<i>.up.weight`` (D, K),
``layers.<i>.up.bias`` (D,).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mer_ray.errors import PluginError
from mer_ray.pretrained.weights import fetch_file


class Adapter(nn.Module):
    """One adapter.

    Shapes:
        x: float (..., D).
        returns: the same.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x + torch.relu(self.up(torch.relu(self.down(x))))


class AdaptedLayer(nn.Module):
    """A transformer layer followed by an adapter on its hidden states."""

    def __init__(self, layer: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.layer = layer
        self.adapter = adapter

    def forward(self, *arguments: object, **options: object) -> Tensor | tuple[Tensor, ...]:
        """What the layer gives, its hidden states adapted."""
        made = self.layer(*arguments, **options)
        return self.adapter(made) if isinstance(made, Tensor) else (self.adapter(made[0]), *made[1:])


def adapters_of(weights: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The file's tensors, out of those of a model whose layers were adapted."""
    found = {}
    for name, tensor in weights:
        layer, inside, part = name.partition(".adapter.")
        if inside:
            found[f"layers.{int(layer.rpartition('.')[2]) + 1}.{part}"] = tensor.contiguous()
    return found


def add_adapters(layers: nn.ModuleList, file: str) -> None:
    """Put the adapters of a file behind their layers, in place.

    Raises:
        PluginError: no such file, or it is made for another model.
    """
    try:
        tensors = load_file(fetch_file(file, "adapters"))
    except (OSError, SafetensorError) as error:
        raise PluginError(f"adapters {file}: cannot be read as safetensors: {error}") from error
    numbers = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("layers.")})
    if not numbers or numbers[-1] > len(layers):
        raise PluginError(f"adapters {file}: for layers {numbers}, but the model has {len(layers)}")
    for number in numbers:
        prefix = f"layers.{number}."
        part = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        try:
            bottleneck, width = part["down.weight"].shape
            adapter = Adapter(width, bottleneck)
            adapter.load_state_dict(part)
        except (KeyError, RuntimeError, ValueError) as error:
            raise PluginError(f"adapters {file}: layer {number} is incomplete: {error}") from error
        layers[number - 1] = AdaptedLayer(layers[number - 1], adapter)

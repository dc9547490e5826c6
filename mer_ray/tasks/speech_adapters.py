"""Adapters in the middle layers of a frozen speech model, and learnt weights of these layers (P2 section 2.1).

Shapes: B clips, L layers, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from mer_ray.encoders.base import PretrainedEncoder
from mer_ray.errors import ConfigError
from mer_ray.pretrained import saving, tuning
from mer_ray.pretrained.adapters import adapters_of
from mer_ray.pretrained.layers import LAYER_WEIGHTS
from mer_ray.pretrained.tuning import Tuning
from mer_ray.tasks import base
from mer_ray.tasks.base import Batch, Outcome

WEIGHTS_FILE = "layer_weights.safetensors"


class Config(base.FinetuneConfig):
    """Which layers are adapted and read."""

    tuning: Tuning = Tuning(how="adapters", layers=(16, 21))
    best_layer: int = Field(18, ge=1, description="the layer whose weight is 1 at the start, the others 0 (P2: 18)")
    mask: float = Field(0.15, ge=0, lt=1, description="share of a feature's values hidden from what restores them")

    @field_validator("tuning")
    @classmethod
    def _adapts(cls, chosen: Tuning) -> Tuning:
        if chosen.how != "adapters" or chosen.layers is None:
            raise ValueError("this task is how=adapters with layers=[first, last]")
        return chosen


class Task(base.Finetune):
    """The adapted layers' states, pooled over time and weighted; restored from a part of themselves, and classified."""

    config: Config

    def __init__(self, config: Config, class_names: tuple[str, ...]) -> None:
        super().__init__(config, class_names)
        if self.config.encoder.plugin != "hubert":
            raise ConfigError(f"encoder.plugin={self.config.encoder.plugin}: adapters are loaded by hubert alone")
        if self.config.best_layer not in self.layers:
            raise ConfigError(f"best_layer={self.config.best_layer} is none of the layers {self.layers}")
        options = self.config.encoder.options | {"layers": list(self.layers), "combine": "concat"}
        self.encoder = base.Choice(plugin="hubert", options=options).build()

    @property
    def layers(self) -> tuple[int, ...]:
        """Those that are adapted, counted from 1."""
        first, last = self.config.tuning.layers or (1, 1)
        return tuple(range(first, last + 1))

    def network(self) -> nn.Module:
        """See the base class."""
        return Adapted(self.encoder, self.config, self.layers, len(self.class_names))

    def save(self, weights: Iterable[tuple[str, Tensor]], folder: Path, place: str) -> Mapping[str, Any]:
        """See the base class: the adapters and the weights of the layers; the model itself is as it was."""
        rest: dict[str, Tensor] = {}
        save_file(adapters_of(saving.under(weights, base.MODEL, rest)), folder / base.ADAPTERS)
        save_file({LAYER_WEIGHTS: rest[LAYER_WEIGHTS]}, folder / WEIGHTS_FILE)
        options = self.config.encoder.options | {
            "layers": list(self.layers),
            "combine": "weighted",
            "adapters": f"{place}/{base.ADAPTERS}",
            "layer_weights": f"{place}/{WEIGHTS_FILE}",
        }
        return {"plugin": "hubert", "options": options}


class Adapted(nn.Module):
    """P2's first stage."""

    def __init__(self, encoder: PretrainedEncoder, config: Config, layers: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.encoder, self.mask = encoder, config.mask
        self.model = encoder.network(partial(tuning.apply, tuning=config.tuning))
        width = encoder.dim // len(layers)
        self.layer_weights = nn.Parameter(torch.tensor([float(layer == config.best_layer) for layer in layers]))
        self.restore = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, batch: Batch) -> Outcome:
        """See ``Task.build``."""
        pooled_BX = torch.cat([self.encoder.features(inputs).pooled() for inputs in batch["inputs"]])
        states_BLD = pooled_BX.reshape(len(pooled_BX), len(self.layer_weights), -1)
        fused_BD = torch.einsum("l,bld->bd", self.layer_weights.to(states_BLD.dtype), states_BLD)
        restored_BD = self.restore(functional.dropout(fused_BD, self.mask, self.training))
        logits_BC = self.head(restored_BD).float()
        parts = {
            "classes": functional.cross_entropy(logits_BC, batch["label"]),
            "restored": functional.mse_loss(restored_BD.float(), fused_BD.float()),
        }
        return Outcome(parts["classes"] + parts["restored"], parts, logits_BC)

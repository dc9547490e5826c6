"""The image tower of an open_clip model, from its files as published; without its text tower.

The files are ``open_clip_config.json`` and ``open_clip_model.safetensors``, as in the repositories of LAION on the hub.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPImageProcessor
from transformers.image_utils import PILImageResampling

from mer_ray.errors import ConfigError, PluginError

_LEAST_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
_PREFIX = "visual."
_RESAMPLE = {"bilinear": PILImageResampling.BILINEAR}


@dataclass(frozen=True)
class TowerConfig:
    """What ``open_clip_config.json`` says.

    Attributes:
        model: open_clip's ``model_cfg``.
        preprocess: its ``preprocess_cfg``.
    """

    model: dict[str, Any]
    preprocess: dict[str, Any]

    @property
    def projection_dim(self) -> int:
        """Width of the embedding shared with text."""
        return int(self.model["embed_dim"])

    @property
    def hidden_size(self) -> int:
        """Width of the transformer."""
        return int(self.vision["width"])

    @property
    def vision(self) -> dict[str, Any]:
        """The part on the image tower."""
        part: dict[str, Any] = self.model["vision_cfg"]
        return part


def published(name: str) -> TowerConfig:
    """The configuration that open_clip carries under this name."""
    return TowerConfig(open_clip.get_model_config(name), {})


def read_config(folder: Path) -> TowerConfig:
    """The configuration in a folder.

    Raises:
        ConfigError: there is none, or it is of a tower that is no vision transformer.
    """
    path = folder / HF_CONFIG_NAME
    if not path.is_file():
        raise ConfigError(f"library=open_clip, but there is no {HF_CONFIG_NAME} in {folder}; try library=transformers")
    try:
        parts = json.loads(path.read_text("utf-8"))
        config = TowerConfig(parts["model_cfg"], parts.get("preprocess_cfg", {}))
        whole = {"width", "layers", "patch_size", "image_size"} <= config.vision.keys() and config.projection_dim
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a configuration of open_clip: {error!r}") from error
    if not whole or "timm_model_name" in config.vision or not isinstance(config.vision["layers"], int):
        raise ConfigError(f"{path}: its image tower is no vision transformer of open_clip's own; only those are taken")
    return config


def build(config: TowerConfig) -> nn.Module:
    """The image tower, its weights not loaded."""
    made = open_clip.CLIP(
        embed_dim=config.projection_dim,
        vision_cfg={**config.vision, "output_tokens": False},
        text_cfg=_LEAST_TEXT,
        quick_gelu=config.model.get("quick_gelu", False),
    )
    tower: nn.Module = made.visual
    return tower


def load(config: TowerConfig, folder: Path) -> nn.Module:
    """The image tower with its weights; those of the text tower are not read.

    Raises:
        PluginError: the file is missing, incomplete or of another model.
    """
    path = folder / HF_SAFE_WEIGHTS_NAME
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(_PREFIX)]  # noqa: SIM118 - not a mapping
            tensors = {name.removeprefix(_PREFIX): file.get_tensor(name) for name in names}
        with torch.device("meta"):
            tower = build(config)
        tower.load_state_dict(tensors, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise PluginError(f"weights {path}: cannot be loaded as open_clip's image tower: {error}") from error
    return tower


def processor(config: TowerConfig) -> CLIPImageProcessor:
    """What stands before the model: the published size, interpolation, mean and deviation.

    Images are square, so that open_clip's ways to fit others into a square are one. It resizes tensors where open_clip
    resizes Pillow images: the same filter, at most two of 255 grey levels apart.
    """
    size = config.vision["image_size"]
    options = {"image_mean": config.preprocess.get("mean"), "image_std": config.preprocess.get("std")}
    return CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        resample=_RESAMPLE.get(config.preprocess.get("interpolation", ""), PILImageResampling.BICUBIC),
        **{name: value for name, value in options.items() if value},
    )

"""ViT on face frames, pre-trained as a masked autoencoder and tuned on emotions: P1's EmotionViT (section 2.2.1).

Weights are those of transformers' ``ViTMAE...`` or ``ViT...`` classes; of them the encoder is loaded, never a decoder,
a pooler or a classification head. P1's own are not published: take public ones or tune them.

Shapes: N images, P patches, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn
from transformers import AutoImageProcessor, ViTConfig, ViTImageProcessor, ViTModel

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.forward import Features, Item
from mer_ray.pretrained.images import Images, evenly, frame_items
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.weights import Weights
from mer_ray.types import Modality

_FAMILIES = ("vit", "vit_mae")
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
ARCHITECTURES = {
    "vit-mae-base": Architecture(
        ViTConfig, 86e6, "ViT (Dosovitskiy et al. 2021), table 1: ViT-Base", "facebook/vit-mae-base", "Apache-2.0"
    ),
    "vit-mae-large": Architecture(
        lambda: ViTConfig(**_LARGE),
        307e6,
        "ViT (Dosovitskiy et al. 2021), table 1: ViT-Large",
        "facebook/vit-mae-large",
        "Apache-2.0",
    ),
}


class Config(PretrainedConfig):
    """Which weights, which frames, and what is read out."""

    budget: int = Field(64, ge=1, description="images of one forward")
    pool: Literal["cls", "mean"] = Field("cls", description="the class token | the mean of the patches")
    num_frames: int | None = Field(None, ge=1, description="at most so many frames of a clip, evenly; unset: all")
    grid: int | None = Field(
        None, ge=1, le=8, description="n: n x n evenly spaced frames as one image, one vector a clip (P1 figure 2b)"
    )

    @model_validator(mode="after")
    def _one_choice_of_frames(self) -> Self:
        if self.grid and self.num_frames:
            raise ValueError("grid picks its own n x n frames; leave out num_frames")
        return self


class Encoder(base.PretrainedEncoder):
    """The last hidden state behind the final norm, pooled over each image: T frames, or T = 1 with ``grid``.

    A clip of one face frame gives one vector; with ``grid`` that frame fills every cell, as fewer frames than cells are
    repeated in order. Cells lie row by row in time. Black frames give the model's features of black; five minutes at 5
    frames a second are 1,500 vectors without ``num_frames`` or ``grid``.
    """

    modality = Modality.VIDEO
    reads = ("faces",)
    version = 1
    architectures: ClassVar = ARCHITECTURES
    config: Config

    @property
    def dim(self) -> int:
        """The transformer's width."""
        return int(self.model_config.hidden_size)

    def _read_config(self, folder: Path) -> Any:
        config = super()._read_config(folder)
        if config.model_type not in _FAMILIES:
            raise ConfigError(
                f"weights {self.config.weights.source}: a model of type {config.model_type!r}; the emotion_vit plug-in "
                f"takes {', '.join(_FAMILIES)}"
            )
        if config.model_type == "vit":
            return config
        # the masked autoencoder's encoder without its masking is a plain ViT
        return ViTConfig(**{name: value for name, value in config.to_dict().items() if name != "model_type"})

    def _build(self, model_config: Any) -> nn.Module:
        model: nn.Module = ViTModel(model_config, add_pooling_layer=False)
        return model

    def _load(self, folder: Path) -> nn.Module:
        model: nn.Module = architecture.load(
            ViTModel, folder, self.config.weights, config=self.model_config, add_pooling_layer=False
        )
        return model

    def _prepare(self, folder: Path) -> None:
        self._images = Images.load(AutoImageProcessor, folder, trust_remote_code=False)

    def _prepare_randomly(self) -> None:
        side = self.model_config.image_size
        self._images = Images(ViTImageProcessor(size={"height": side, "width": side}))

    def _items(self, index: int, clip: ClipInput) -> list[Item]:
        assert clip.faces is not None
        if self.config.grid:
            return [Item(index, 1, tiled(clip.faces, self.config.grid))]
        return frame_items(index, clip.faces, self.config.num_frames)

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        return {"pixels": self._images.resized(payloads)}

    def _forward(self, inputs: dict[str, Any]) -> Features:
        assert self._model is not None
        states_NPD = self._model(self._images.normalised(inputs["pixels"])).last_hidden_state
        pooled_ND = states_NPD[:, 0] if self.config.pool == "cls" else states_NPD[:, 1:].mean(dim=1)
        return Features(pooled_ND.unsqueeze(1))


def tiled(frames: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """``side`` x ``side`` evenly spaced frames as one image, row by row in time (P1 figure 2b).

    Args:
        frames: uint8 (F, H, W, 3), F at least 1.
        side: cells in a row, and rows.

    Returns:
        uint8 (side * H, side * W, 3).
    """
    cells = evenly(frames, side * side)
    _, height, width, channels = cells.shape
    rows = cells.reshape(side, side, height, width, channels).swapaxes(1, 2)
    return rows.reshape(side * height, side * width, channels)


def tiny() -> Encoder:
    """A ViT in everything but its size: 2 layers of width 32 on 32 x 32 pixels, saved and loaded as files."""
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        initializer_range=0.2,
    )
    model = architecture.randomly(lambda: ViTModel(config, add_pooling_layer=False))
    folder = architecture.keep_files(model, ViTImageProcessor(size={"height": 32, "width": 32}))
    return Encoder(Config(weights=Weights(source=folder), device="cpu"))

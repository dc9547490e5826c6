"""DINOv2, one vector per face frame: the class token, or the mean over the patches.

Shapes: F face frames, P patches, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.forward import Features, Item
from mer_ray.pretrained.images import Images, frame_items
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.weights import Weights
from mer_ray.types import Modality

_SOURCE = "timm's model card of the same weights, vit_{}_patch14_dinov2.lvd142m"


def _published(num_parameters: float, name: str, heads: int, layers: int, **options: Any) -> Architecture:
    def config() -> Dinov2Config:
        return Dinov2Config(
            hidden_size=64 * heads,
            num_attention_heads=heads,
            num_hidden_layers=layers,
            image_size=518,  # of the last steps of training; the published processor gives 224
            **options,
        )

    return Architecture(config, num_parameters, _SOURCE.format(name), f"facebook/dinov2-{name}", "Apache-2.0")


ARCHITECTURES = {
    "dinov2-small": _published(22.1e6, "small", heads=6, layers=12),
    "dinov2-base": _published(86.6e6, "base", heads=12, layers=12),
    "dinov2-large": _published(304.4e6, "large", heads=16, layers=24),
    "dinov2-giant": _published(1136.5e6, "giant", heads=24, layers=40, use_swiglu_ffn=True),
}


class Config(PretrainedConfig):
    """Which weights, and what is read out of them."""

    budget: int = Field(64, ge=1, description="frames of one forward")
    output: Literal["cls", "patches"] = Field(
        "cls", description="cls: the class token | patches: the mean of the others; behind the final norm"
    )
    num_frames: int | None = Field(None, ge=1, description="at most so many frames of a clip, evenly; unset: all")


class Encoder(base.PretrainedEncoder):
    """One vector for each face frame; frames of all clips share batches.

    A single frame gives a single vector. Crops of any size are resized as the publisher does it, which also cuts off an
    eighth of the picture's width and height (256 to 224 pixels); black ones give the model's features of black. Five
    minutes at 5 frames a second are 1,500 vectors without ``num_frames``.
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
        if config.model_type != "dinov2":
            source = self.config.weights.source
            raise ConfigError(f"weights {source}: a model of type {config.model_type!r}; this encoder takes dinov2")
        return config

    def _build(self, model_config: Any) -> nn.Module:
        return Dinov2Model(model_config)  # type: ignore[no-any-return]

    def _load(self, folder: Path) -> nn.Module:
        model: nn.Module = architecture.load(Dinov2Model, folder, self.config.weights, ("embeddings.mask_token",))
        return model

    def _prepare(self, folder: Path) -> None:
        self._images = Images.load(BitImageProcessor, folder)

    def _prepare_randomly(self) -> None:
        self._images = Images(
            BitImageProcessor(
                size={"shortest_edge": 256},
                crop_size={"height": 224, "width": 224},
                image_mean=IMAGENET_DEFAULT_MEAN,
                image_std=IMAGENET_DEFAULT_STD,
            )
        )

    def _items(self, index: int, clip: ClipInput) -> list[Item]:
        assert clip.faces is not None
        return frame_items(index, clip.faces, self.config.num_frames)

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        return {"pixels": self._images.resized(payloads)}

    def _forward(self, inputs: dict[str, Any]) -> Features:
        assert self._model is not None
        states_BPD = self._model(self._images.normalised(inputs["pixels"])).last_hidden_state
        made = states_BPD[:, 0] if self.config.output == "cls" else states_BPD[:, 1:].float().mean(dim=1)
        return Features(made.unsqueeze(1))


def tiny() -> Encoder:
    """A DINOv2 in everything but its size: 2 layers of width 32, 3 x 3 patches of 5 x 5, saved and loaded as files."""
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=70, initializer_range=0.2
    )
    model = architecture.randomly(lambda: Dinov2Model(config))
    processor = BitImageProcessor(
        size={"shortest_edge": 48},
        crop_size={"height": 42, "width": 42},
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )
    return Encoder(Config(weights=Weights(source=architecture.keep_files(model, processor)), device="cpu"))

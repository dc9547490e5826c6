"""CLIP's image tower, one vector per face frame, by transformers or by open_clip.

Read out is the embedding shared with text (P1, P3: 768 wide for ViT-L/14), or the class token before that projection.

Shapes: F face frames, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError
from mer_ray.pretrained import architecture, open_clip_tower
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.forward import Features, Item
from mer_ray.pretrained.images import Images, frame_items
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.open_clip_tower import TowerConfig
from mer_ray.pretrained.weights import Weights
from mer_ray.types import Modality

_SOURCE = "open_clip, docs/model_profile.csv, column image_mparams"
_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}
ARCHITECTURES = {
    "clip-vit-base-patch32": Architecture(CLIPVisionConfig, 87.85e6, _SOURCE, "openai/clip-vit-base-patch32", "MIT"),
    "clip-vit-base-patch16": Architecture(
        lambda: CLIPVisionConfig(patch_size=16), 86.19e6, _SOURCE, "openai/clip-vit-base-patch16", "MIT"
    ),
    "clip-vit-large-patch14": Architecture(
        lambda: CLIPVisionConfig(**_LARGE), 303.97e6, _SOURCE, "openai/clip-vit-large-patch14", "MIT"
    ),
    "clip-vit-large-patch14-336": Architecture(
        lambda: CLIPVisionConfig(**_LARGE, image_size=336),
        304.29e6,
        _SOURCE,
        "openai/clip-vit-large-patch14-336",
        "MIT",
    ),
    "ViT-H-14": Architecture(
        lambda: open_clip_tower.published("ViT-H-14"),
        632.08e6,
        _SOURCE,
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        "MIT",
    ),
    "ViT-bigG-14": Architecture(
        lambda: open_clip_tower.published("ViT-bigG-14"),
        1844.91e6,
        _SOURCE,
        "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
        "MIT",
    ),
}


class Config(PretrainedConfig):
    """Which weights, and what is read out of them."""

    budget: int = Field(64, ge=1, description="frames of one forward")
    library: Literal["transformers", "open_clip"] = Field(
        "transformers",
        description="whose code, and whose files: open_clip_config.json, open_clip_model.safetensors",
    )
    output: Literal["projected", "pooled"] = Field(
        "projected", description="projected: the embedding shared with text | pooled: the class token before it"
    )
    num_frames: int | None = Field(None, ge=1, description="at most so many frames of a clip, evenly; unset: all")


class Encoder(base.PretrainedEncoder):
    """One vector for each face frame; frames of all clips share batches.

    A single frame gives a single vector. Crops of any size are resized as the model's publisher does it; black ones
    give the model's features of black. Without ``num_frames`` five minutes at 5 frames a second are 1,500 vectors.
    """

    modality = Modality.VIDEO
    reads = ("faces",)
    version = 1
    architectures: ClassVar = ARCHITECTURES
    config: Config

    @property
    def dim(self) -> int:
        """Width of the shared embedding, or of the transformer."""
        config = self.model_config
        return int(config.projection_dim if self.config.output == "projected" else config.hidden_size)

    @property
    def model_config(self) -> CLIPVisionConfig | TowerConfig:
        """See the base class.

        Raises:
            ConfigError: ``random:NAME`` is an architecture of the other library.
        """
        config = super().model_config
        theirs = "open_clip" if isinstance(config, TowerConfig) else "transformers"
        if theirs != self.config.library:
            raise ConfigError(
                f"weights {self.config.weights.source}: an architecture of {theirs}; set library={theirs}"
            )
        return config

    def _read_config(self, folder: Path) -> Any:
        if self.config.library == "open_clip":
            return open_clip_tower.read_config(folder)
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"weights {self.config.weights.source}: there is no config.json for transformers in {folder}; if there "
                "are open_clip's files, set library=open_clip"
            )
        config = super()._read_config(folder)
        if config.model_type not in ("clip", "clip_vision_model"):
            raise ConfigError(
                f"weights {self.config.weights.source}: a model of type {config.model_type!r}; this encoder takes clip"
            )
        return config.vision_config if config.model_type == "clip" else config

    def _build(self, model_config: Any) -> nn.Module:
        if isinstance(model_config, TowerConfig):
            return open_clip_tower.build(model_config)
        return CLIPVisionModelWithProjection(model_config)  # type: ignore[no-any-return]

    def _load(self, folder: Path) -> nn.Module:
        config = self.model_config
        if isinstance(config, TowerConfig):
            return open_clip_tower.load(config, folder)
        model: nn.Module = architecture.load(CLIPVisionModelWithProjection, folder, self.config.weights)
        return model

    def _prepare(self, folder: Path) -> None:
        if self.config.library == "open_clip":
            self._prepare_randomly()
        else:
            self._images = Images.load(CLIPImageProcessor, folder)

    def _prepare_randomly(self) -> None:
        config = self.model_config
        if isinstance(config, TowerConfig):
            self._images = Images(open_clip_tower.processor(config))
        else:
            side = config.image_size
            self._images = Images(
                CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
            )

    def _adapt(self, model: Any) -> nn.Module:
        if self.config.output == "pooled":
            if self.config.library == "transformers":
                model = model.vision_model
            else:
                model.proj = None
        return model  # type: ignore[no-any-return]

    def _items(self, index: int, clip: ClipInput) -> list[Item]:
        assert clip.faces is not None
        return frame_items(index, clip.faces, self.config.num_frames)

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        return {"pixels": self._images.resized(payloads)}

    def _forward(self, inputs: dict[str, Any]) -> Features:
        assert self._model is not None
        made = self._model(self._images.normalised(inputs["pixels"]))
        if self.config.library == "transformers":
            made = made.image_embeds if self.config.output == "projected" else made.pooler_output
        return Features(made.unsqueeze(1))


def tiny() -> Encoder:
    """A CLIP in everything but its size: 2 layers of width 32 on images of 32 pixels, saved and loaded as files."""
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=24,
        initializer_factor=4.0,  # at 1.0 so narrow a tower hardly looks at its image
    )
    model = architecture.randomly(lambda: CLIPVisionModelWithProjection(config))
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return Encoder(Config(weights=Weights(source=architecture.keep_files(model, processor)), device="cpu"))

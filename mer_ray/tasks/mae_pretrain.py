"""A vision transformer trained from scratch on face crops by masked autoencoding (P1 section 2.2.1; He et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from transformers import ViTImageProcessor, ViTMAEConfig, ViTMAEForPreTraining

from mer_ray.encoders.base import ClipInput
from mer_ray.pretrained import saving
from mer_ray.pretrained.images import Images
from mer_ray.tasks import base
from mer_ray.tasks.base import Batch, Outcome

_ENCODER = "model.vit."


class Config(base.Config):
    """The size of the network; the defaults are ViT-Base and MAE's decoder."""

    image_size: int = Field(224, ge=8, description="pixels a side (P1: 224)")
    patch_size: int = Field(16, ge=1, description="pixels a side of a patch")
    width: int = Field(768, ge=1, description="of the encoder")
    layers: int = Field(12, ge=1, description="of the encoder")
    heads: int = Field(12, ge=1, description="of the encoder")
    decoder_width: int = Field(512, ge=1, description="of the decoder")
    decoder_layers: int = Field(8, ge=1, description="of the decoder")
    decoder_heads: int = Field(16, ge=1, description="of the decoder")
    mask: float = Field(0.75, gt=0, lt=1, description="share of the patches that are hidden")
    frames: int = Field(4, ge=1, description="face frames of a clip, drawn anew each epoch")

    def network(self) -> ViTMAEConfig:
        """The library's configuration."""
        return ViTMAEConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.width,
            decoder_hidden_size=self.decoder_width,
            decoder_num_hidden_layers=self.decoder_layers,
            decoder_num_attention_heads=self.decoder_heads,
            decoder_intermediate_size=4 * self.decoder_width,
            mask_ratio=self.mask,
            norm_pix_loss=True,
        )


class Task(base.Task):
    """Hidden patches of drawn face frames, restored from those that are seen."""

    needs_labels = False
    config: Config

    def __init__(self, config: Config, class_names: Sequence[str] = ()) -> None:
        super().__init__(config, class_names)
        square = {"height": config.image_size, "width": config.image_size}
        self.processor = ViTImageProcessor(size=square)
        self.images = Images(self.processor)

    @property
    def reads(self) -> tuple[str, ...]:
        """Face crops."""
        return ("faces",)

    def build(self) -> nn.Module:
        """See the base class."""
        return Autoencoder(self.config)

    def collate(
        self, clips: Sequence[ClipInput], label: NDArray[np.int64], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        """See the base class: ``pixels`` float32 (I, 3, S, S), and ``noise`` (I, patches), whose largest are hidden."""
        drawn = [
            part.faces[0]
            for clip, rng in zip(clips, rngs, strict=True)
            for part in base.frames(clip, self.config.frames, rng)
            if part.faces is not None
        ]
        patches = (self.config.image_size // self.config.patch_size) ** 2
        noise = np.concatenate([rng.random((self.config.frames, patches), dtype=np.float32) for rng in rngs])
        return {"pixels": self.images.normalised(self.images.resized(drawn)), "noise": torch.from_numpy(noise)}

    def save(self, weights: Iterable[tuple[str, Tensor]], folder: Path, place: str) -> Mapping[str, Any]:
        """See the base class: the encoder, which emotion_vit and vit_finetune load."""
        own = ((f"vit.{name.removeprefix(_ENCODER)}", t) for name, t in weights if name.startswith(_ENCODER))
        saving.write(own, self.config.network(), folder)
        self.processor.save_pretrained(folder)
        return {"plugin": "emotion_vit", "options": {"weights": {"source": place}}}


class Autoencoder(nn.Module):
    """The library's network, told which patches to hide."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.frames = config.frames
        self.model = ViTMAEForPreTraining(config.network())

    def forward(self, batch: Batch) -> Outcome:
        """See ``Task.build``."""
        dtype = next(self.model.parameters()).dtype
        made = self.model(pixel_values=batch["pixels"].to(dtype), noise=batch["noise"])
        return Outcome(made.loss.float(), {}, made.loss.new_zeros(len(batch["pixels"]) // self.frames, 0))

"""EmoVCLIP: CLIP with learnt prompt tokens in its first layers, one vector per video (P3 section 3.2).

The tower is frozen; a file holds the prompts that training on emotional videos gave it (``pretrained/prompts.py`` says
in which form). The frames' embeddings are averaged over time, as in training before they meet the texts. P3 gives it
whole frames; here, as everywhere, it is given face crops.

Shapes: F face frames, N prompts of a layer, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn

from mer_ray.encoders import clip
from mer_ray.encoders.base import ClipInput
from mer_ray.pretrained import architecture
from mer_ray.pretrained.prompts import Prompts, add_prompts, fingerprint, fresh
from mer_ray.pretrained.weights import LocalPath

ARCHITECTURES = {name: found for name, found in clip.ARCHITECTURES.items() if name.startswith("clip-")}
_DEPTH, _COUNT = 12, 4  # P3, section 4.2: 4 prompts in each of the first 12 layers


class Config(clip.Config):
    """Which weights and prompts, and how many frames."""

    library: Literal["transformers"] = Field("transformers", description="the prompts are for transformers' layers")
    output: Literal["projected"] = Field("projected", description="the embedding that training compares with texts")
    prompts: LocalPath | None = Field(None, description="safetensors file of the prompts, trained in these weights")

    @model_validator(mode="after")
    def _prompted(self) -> Config:
        if self.prompts is None and not self.weights.is_random:
            raise ValueError(
                "prompts=FILE.safetensors is needed: EmoVCLIP is CLIP with prompts that were trained on emotional "
                "videos. For CLIP as it is, take the clip encoder"
            )
        return self


class Encoder(clip.Encoder):
    """One vector for each video: the mean over its frames; frames of all clips share batches.

    A single frame gives its own vector; black ones give the model's features of black; five minutes are the mean over
    all their frames. With random weights and no file the prompts are random, too.
    """

    version = 1
    architectures = ARCHITECTURES
    file_options: ClassVar = ("prompts",)
    config: Config

    def encode(self, clips: Sequence[ClipInput]) -> list[NDArray[np.float32]]:
        """See the base class."""
        return [
            frames_FD.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
            for frames_FD in super().encode(clips)
        ]

    def _adapt(self, model: Any) -> nn.Module:
        if self.config.prompts is None:
            config = model.config
            tokens = fresh(min(_DEPTH, config.num_hidden_layers), _COUNT, config.hidden_size)
            prompts = Prompts(tokens, [], fingerprint(model.vision_model), (), 1.0)
        else:
            prompts = Prompts.load(self.config.prompts)
        add_prompts(model, prompts, str(self.config.prompts))
        return super()._adapt(model)


def tiny() -> Encoder:
    """The tiny clip encoder with untrained prompts in its 2 layers, saved and loaded as files."""
    plain = clip.tiny()
    config = plain.model_config
    tokens = fresh(2, _COUNT, config.hidden_size, std=0.5)
    tower = plain._load(Path(plain.config.weights.source)).vision_model
    file = Path(architecture.keep_files()) / "prompts.safetensors"
    Prompts(tokens, fresh(2, _COUNT, 16), fingerprint(tower), ("happy", "sad"), 100.0).save(file)
    return Encoder(Config(weights=plain.config.weights, prompts=str(file), device="cpu"))

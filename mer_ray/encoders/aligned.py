"""Any visual encoder followed by an MLP that was trained to align it with speech features (P2 section 2.2).

The frames of the inner encoder are averaged, then projected: one vector a clip, as wide as the audio feature. For
example, with P2's own choice, CLIP-large and HuBERT-large::

    plugin: aligned
    options:
      weights: {source: DIR}
      encoder: {plugin: clip, options: {weights: {source: CLIP}}}

``DIR`` holds ``projection.safetensors``, see ``mer_ray.pretrained.projection``. ``random:p2`` makes an MLP of P2's
audio width with random weights for whatever encoder it follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mer_ray import registry
from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained import weights as weights_
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.projection import Projection
from mer_ray.pretrained.weights import Weights
from mer_ray.types import Modality

SHARED = ("device", "dtype", "compile", "budget")
"""Options that are set for both parts at once, beside ``encoder`` and not in it."""
_CLIP_LARGE_WIDTH, _HUBERT_LARGE_WIDTH = 768, 1024
ARCHITECTURES = {
    "p2": Architecture(
        lambda: _HUBERT_LARGE_WIDTH,
        (_CLIP_LARGE_WIDTH + 1) * _HUBERT_LARGE_WIDTH + (_HUBERT_LARGE_WIDTH + 1) * _HUBERT_LARGE_WIDTH,
        "P2, equation 5, from CLIP-large's width to HuBERT-large's: the paper gives shapes, no count",
        "not published",
        "not published",
    ),
}


class Inner(BaseModel):
    """The visual encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plugin: str = Field(description="a visual encoder plug-in")
    options: dict[str, Any] = Field(default_factory=dict, description="fields of its Config")


class Config(PretrainedConfig):
    """The visual encoder and the MLP behind it."""

    encoder: Inner = Field(description="the visual encoder whose features were aligned")
    weights: Weights = Field(description="where the MLP comes from; the encoder's own stand in its options")
    budget: int | None = Field(None, ge=1, description="of one forward of the encoder; unset: its own default")  # type: ignore[assignment]

    @model_validator(mode="after")
    def _shared_beside_the_encoder(self) -> Self:
        if inside := sorted(set(SHARED) & set(self.encoder.options)):
            raise ValueError(f"set {', '.join(inside)} beside encoder, not in encoder.options")
        return self


class Encoder(base.Encoder):
    """One projected vector for each clip, nowhere below 0.

    Of one face frame, black ones and five minutes it is the projection of the mean of what the inner encoder gives.
    """

    modality = Modality.VIDEO
    version = 1
    architectures: ClassVar = ARCHITECTURES
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        known = registry.find("encoders", config.encoder.plugin).Config.model_fields
        shared = {name: getattr(config, name) for name in SHARED if name in known}
        if config.budget is None:
            shared.pop("budget", None)
        self._inner: base.Encoder = registry.build("encoders", config.encoder.plugin, config.encoder.options | shared)
        if self._inner.modality is not Modality.VIDEO:
            raise ConfigError(
                f"encoder.plugin={config.encoder.plugin}: an encoder of {self._inner.modality}, and aligned takes video"
            )

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the inner encoder reads."""
        return self._inner.reads

    @property
    def dim(self) -> int:
        """The audio width that the MLP was trained for."""
        return self._projection.out.out_features

    @property
    def identity(self) -> str:
        """See the base class: of both parts."""
        return f"{self._inner.identity}; projection {weights_.identity(self.config.weights)}"

    @property
    def dtype(self) -> str:
        """That of the inner encoder; the MLP is float32."""
        return self._inner.dtype

    @property
    def spec_options(self) -> dict[str, Any]:
        """See the base class: what the inner encoder's numbers depend on."""
        inner = self._inner
        return {
            "encoder": {
                "plugin": self.config.encoder.plugin,
                "version": inner.version,
                "options": inner.spec_options,
            }
        }

    def load(self) -> None:
        """See the base class.

        Raises:
            PluginError: the MLP was trained for features of another width.
        """
        width = self._projection.hidden.in_features
        if width != self._inner.dim:
            raise PluginError(
                f"weights {self.config.weights.source}: a projection of features {width} wide, but "
                f"{self.config.encoder.plugin} gives {self._inner.dim}"
            )
        self._inner.load()

    def encode(self, clips: Sequence[ClipInput]) -> list[NDArray[np.float32]]:
        """See the base class."""
        if not clips:
            return []
        means = np.stack([frames.mean(axis=0, dtype=np.float64) for frames in self._inner.encode(clips)])
        with torch.inference_mode():
            projected = self._projection(torch.from_numpy(means.astype(np.float32)))
        return [np.asarray(row.numpy()) for row in projected.split(1)]

    @cached_property
    def _projection(self) -> Projection:
        """The MLP; so small that it stays on the CPU."""
        weights = self.config.weights
        if not weights.is_random:
            return Projection.load(weights_.fetch(weights))
        audio_width = architecture.pick(self.architectures, weights).config()
        made = architecture.randomly(lambda: Projection(self._inner.dim, audio_width))
        return made.eval().requires_grad_(False)  # type: ignore[return-value]


def tiny() -> Encoder:
    """The tiny ViT with a random projection from its width to 24."""
    inner = registry.find("encoders", "emotion_vit").tiny()
    options = inner.config.model_dump(mode="json", exclude=set(SHARED))
    folder = architecture.keep_files()
    projection = architecture.randomly(lambda: Projection(inner.dim, 24))
    assert isinstance(projection, Projection)
    projection.save(Path(folder))
    return Encoder(
        Config(encoder=Inner(plugin="emotion_vit", options=options), weights=Weights(source=folder), device="cpu")
    )

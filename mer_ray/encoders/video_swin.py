"""Video Swin Transformer on the face track, by torchvision's class: windows of frames, a vector for every second frame.

P4 section 3.2: weights of Kinetics, 128 x 128 pixels, 10 frames a second (``faces.fps``), averaged over space. A folder
of weights holds

- ``model.safetensors``: the tensors under torchvision's names; those of the classification head may be there or not;
- ``config.json``: ``{"variant": "swin3d_t"}`` (``_s``, ``_b``), or the arguments of another size, ``{"variant":
  "custom", "patch_size": [2, 4, 4], "embed_dim": 96, "depths": [...], "num_heads": [...], "window_size": [...]}``.

Where there is a network, once: ``save_file(swin3d_t(weights="DEFAULT").state_dict(), "DIR/model.safetensors")``, with
``save_file`` of ``safetensors.torch`` and ``swin3d_t`` of ``torchvision.models.video``.

Shapes: N windows, K frames of a window, t time steps of it, S pixels of a side, D width.
"""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.video import Swin3D_T_Weights
from torchvision.models.video.swin_transformer import SwinTransformer3d

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.forward import Features, Item
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.weights import Weights
from mer_ray.pretrained.windows import windows
from mer_ray.types import Modality

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_HEAD = "head."
_LICENCE = "Apache-2.0 (Video-Swin-Transformer; ported by torchvision, BSD-3-Clause)"


class Variant(BaseModel):
    """Which Video Swin: a name that torchvision knows, or ``custom`` with the arguments of its class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Literal["swin3d_t", "swin3d_s", "swin3d_b", "custom"]
    patch_size: tuple[int, int, int] | None = None
    embed_dim: int | None = None
    depths: tuple[int, ...] | None = None
    num_heads: tuple[int, ...] | None = None
    window_size: tuple[int, int, int] | None = None

    @model_validator(mode="after")
    def _arguments_of_custom(self) -> Self:
        given = [value is not None for name, value in self if name != "variant"]
        if not all(given) if self.variant == "custom" else any(given):
            raise ValueError("custom needs patch_size, embed_dim, depths, num_heads and window_size, others take none")
        return self

    def build(self) -> SwinTransformer3d:
        """The network with random weights, without its head and pooled over space alone: float32 (N, D * t)."""
        if self.variant == "custom":
            lists = ("patch_size", "depths", "num_heads", "window_size")
            model = SwinTransformer3d(
                embed_dim=self.embed_dim, **{name: list(getattr(self, name)) for name in lists}, num_classes=1
            )
        else:
            model = get_model(self.variant, weights=None)
        model.avgpool = nn.AdaptiveAvgPool3d((None, 1, 1))
        model.head = nn.Identity()
        return model


ARCHITECTURES = {
    name: Architecture(
        partial(Variant, variant=name),
        size,
        f"torchvision, {name}: num_params with the head, at most 1.1% of it",
        f"torchvision {name}, KINETICS400_V1",
        _LICENCE,
    )
    for name, size in (("swin3d_t", 28_158_070), ("swin3d_s", 49_816_678), ("swin3d_b", 88_048_984))
}


class Config(PretrainedConfig):
    """Which weights, and the frames' size and windows."""

    budget: int = Field(128, ge=1, description="frames of one forward: windows x longest window")
    size: int = Field(128, ge=16, description="pixels a side of a frame (P4: 128; the published weights saw 224)")
    window: int = Field(32, ge=1, description="most frames that the model sees together; the published weights saw 32")


class Encoder(base.PretrainedEncoder):
    """Features behind the final norm, averaged over space: a vector per temporal patch, two frames.

    Their mean over one window is what stands before torchvision's head. A clip is cut into as few windows as cover it,
    which overlap where need be; a clip of fewer frames is one shorter window. An odd number of frames has its last one
    twice, where torchvision itself would add grey: one face frame gives one vector of a still. Black frames give the
    model's features of black; five minutes at 5 frames a second are 47 windows, 752 vectors.
    """

    modality = Modality.VIDEO
    reads = ("faces",)
    version = 1
    architectures: ClassVar = ARCHITECTURES
    exact = True  # a window padded with frames is another video
    config: Config

    @cached_property
    def dim(self) -> int:
        """Channels of the last stage."""
        with torch.device("meta"):
            return int(self.model_config.build().num_features)

    def _read_config(self, folder: Path) -> Variant:
        path = folder / _CONFIG
        try:
            return Variant.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise ConfigError(
                f'weights {self.config.weights.source}: {_CONFIG} must be like {{"variant": "swin3d_t"}} for the '
                f"video_swin plug-in: {error}"
            ) from error

    def _build(self, model_config: Variant) -> nn.Module:
        model: nn.Module = model_config.build()
        return model

    def _load(self, folder: Path) -> nn.Module:
        with torch.device("meta"):
            model = self._build(self.model_config)
        try:
            tensors = load_file(folder / _WEIGHTS)
            body = {name: tensor for name, tensor in tensors.items() if not name.startswith(_HEAD)}
            model.load_state_dict(body, assign=True)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise PluginError(
                f"weights {self.config.weights.source}: {_WEIGHTS} is not of {self.model_config.variant}: "
                f"{str(error)[:500]}"
            ) from error
        return model

    def _prepare(self, folder: Path) -> None:
        self._prepare_randomly()

    def _prepare_randomly(self) -> None:
        side = self.config.size
        self._pixels = Swin3D_T_Weights.KINETICS400_V1.transforms(crop_size=(side, side), resize_size=(side,))

    def _items(self, index: int, clip: ClipInput) -> list[Item]:
        assert clip.faces is not None
        cut = windows(clip.faces, min(self.config.window, len(clip.faces)))
        return [Item(index, len(window), window) for window in cut]

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        return {"x": torch.stack([self._pixels(self._whole_patches(window)) for window in payloads])}

    def _whole_patches(self, window: NDArray[np.uint8]) -> Tensor:
        """Frames as a multiple of the temporal patch, channels first."""
        lacking = -len(window) % self._patch
        filled = np.concatenate([window, *[window[-1:]] * lacking])
        return torch.from_numpy(np.ascontiguousarray(filled.transpose(0, 3, 1, 2)))

    def _adapt(self, model: Any) -> nn.Module:
        self._patch = int(model.patch_embed.tuple_patch_size[0])
        return model  # type: ignore[no-any-return]

    def _forward(self, inputs: dict[str, Any]) -> Features:
        assert self._model is not None
        made_NDt = self._model(**inputs).float().unflatten(1, (self.dim, -1))
        return Features(made_NDt.transpose(1, 2))


def tiny() -> Encoder:
    """A Video Swin in everything but its size: two stages of widths 16 and 32 on 32 x 32 pixels, saved and loaded."""
    variant = Variant(
        variant="custom",
        patch_size=(2, 4, 4),
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=(8, 7, 7),
    )
    folder = Path(architecture.keep_files())
    (folder / _CONFIG).write_text(variant.model_dump_json(), encoding="utf-8")
    save_file(architecture.randomly(variant.build).state_dict(), folder / _WEIGHTS)
    return Encoder(Config(weights=Weights(source=str(folder)), size=32, window=16, device="cpu"))

"""VideoMAE on the face track: windows of as many frames as the model takes (16), a vector for each.

Weights are those of transformers' ``VideoMAE...`` classes, pre-trained or tuned; a decoder or a classification head is
not loaded. The published ones saw every fourth or second frame of 25 to 30 a second, so that a window spans 1 to 3
seconds: ``faces.fps`` of 5 to 10 is nearest to that.

Shapes: N windows, K frames of a window, P patches, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import nn
from transformers import VideoMAEConfig, VideoMAEImageProcessor, VideoMAEModel

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.forward import Features, Item
from mer_ray.pretrained.images import Images
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.weights import Weights
from mer_ray.pretrained.windows import windows
from mer_ray.types import Modality

_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
ARCHITECTURES = {
    "videomae-base": Architecture(
        lambda: VideoMAEConfig(use_mean_pooling=False),
        87e6,
        "VideoMAE (Tong et al. 2022), comparison with the state of the art on Kinetics-400: ViT-B",
        "MCG-NJU/videomae-base",
        "CC-BY-NC-4.0",
    ),
    "videomae-large": Architecture(
        lambda: VideoMAEConfig(**_LARGE, use_mean_pooling=False),
        305e6,
        "VideoMAE (Tong et al. 2022), comparison with the state of the art on Kinetics-400: ViT-L",
        "MCG-NJU/videomae-large",
        "CC-BY-NC-4.0",
    ),
}


class Config(PretrainedConfig):
    """Which weights."""

    budget: int = Field(4, ge=1, description="windows of one forward")


class Encoder(base.PretrainedEncoder):
    """The mean of the model's last hidden state over each window of 16 frames, as few windows as cover the clip.

    Windows overlap where the number of frames is no multiple of 16. Of a shorter clip the frames are repeated in order
    until they fill one window: one face frame gives one vector of a still. Black frames give the model's features of
    black; five minutes at 5 frames a second are 94 windows.
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
        if config.model_type != "videomae":
            raise ConfigError(
                f"weights {self.config.weights.source}: a model of type {config.model_type!r}; the videomae plug-in "
                "takes videomae"
            )
        return config

    def _build(self, model_config: Any) -> nn.Module:
        model: nn.Module = VideoMAEModel(model_config)
        return model

    def _load(self, folder: Path) -> nn.Module:
        model: nn.Module = architecture.load(VideoMAEModel, folder, self.config.weights)
        return model

    def _prepare(self, folder: Path) -> None:
        self._images = Images.load(VideoMAEImageProcessor, folder)

    def _prepare_randomly(self) -> None:
        self._images = Images(_processor(self.model_config.image_size))

    def _items(self, index: int, clip: ClipInput) -> list[Item]:
        assert clip.faces is not None
        return [Item(index, 1, window) for window in windows(clip.faces, self.model_config.num_frames)]

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        # a flat list of frames is one video to the processor, whatever clips and windows they come from
        (pixels,) = self._images([frame for window in payloads for frame in window])
        return {"pixel_values": pixels.unflatten(0, (len(payloads), -1))}

    def _forward(self, inputs: dict[str, Any]) -> Features:
        assert self._model is not None
        states_NPD = self._model(**inputs).last_hidden_state
        return Features(states_NPD.float().mean(dim=1, keepdim=True))


def _processor(side: int) -> Any:
    return VideoMAEImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def tiny() -> Encoder:
    """A VideoMAE in everything but its size: 2 layers of width 32 on 16 frames of 32 pixels, saved and loaded."""
    config = VideoMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        use_mean_pooling=False,
        initializer_range=0.2,
    )
    model = architecture.randomly(lambda: VideoMAEModel(config))
    return Encoder(Config(weights=Weights(source=architecture.keep_files(model, _processor(32))), device="cpu"))

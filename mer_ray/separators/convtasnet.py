"""Conv-TasNet (Luo and Mesgarani 2019) as torchaudio builds it: two voices apart, at 8 kHz.

Weights are laid out as torchaudio's pipeline ``CONVTASNET_BASE_LIBRI2MIX`` publishes them. The network is small and
hears nothing above 4 kHz, which features of the voice made at 16 kHz miss (P1 section 2.4); ``mossformer2`` does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from mer_ray.pretrained import architecture
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.checkpoint import Checkpoint
from mer_ray.pretrained.weights import Weights
from mer_ray.separators import base

if TYPE_CHECKING:
    from torch import Tensor, nn

_BASE = {
    "num_sources": 2,
    "enc_kernel_size": 16,
    "enc_num_feats": 512,
    "msk_kernel_size": 3,
    "msk_num_feats": 128,
    "msk_num_hidden_feats": 512,
    "msk_num_layers": 8,
    "msk_num_stacks": 3,
    "msk_activate": "relu",
}
ARCHITECTURES = {
    "convtasnet-base-libri2mix": Architecture(
        lambda: dict(_BASE),
        5.0e6,
        "torchaudio's pipeline: 19.1 MiB of float32",
        "torchaudio's CONVTASNET_BASE_LIBRI2MIX",
        "CC-BY-4.0 (trained on LibriMix)",
    ),
}


class Config(base.WindowedConfig):
    """Which weights, and how a clip is cut."""

    window_seconds: float = Field(4.0, gt=0.1, description="a longer clip is separated in windows of this")
    stride_seconds: float = Field(3.0, gt=0, description="from a window to the next; where they overlap they fade")
    rate_hz: int = Field(8000, ge=4000, le=48_000, description="of the sound that the weights were trained on")


class Separator(base.WindowedSeparator):
    """Two streams by Conv-TasNet."""

    version: ClassVar[int] = 1
    architectures: ClassVar = ARCHITECTURES
    config: Config

    @property
    def rate_hz(self) -> int:
        """See the base class."""
        return self.config.rate_hz

    def network(self, model_config: dict[str, Any]) -> nn.Module:
        """See the base class."""
        from torchaudio.models import ConvTasNet  # noqa: PLC0415 - a second of imports, when a model is built

        model: nn.Module = ConvTasNet(**model_config)
        if model_config.get("num_sources", 2) != 2:
            raise ValueError(f"it parts {model_config['num_sources']} sources, and a separator gives two streams")
        return model

    def _forward(self, inputs: dict[str, Any]) -> base.Parted:
        assert self._model is not None
        streams: Tensor = self._model(inputs["samples"].unsqueeze(1))
        return base.Parted(streams)


def tiny() -> Separator:
    """The published network in everything but its size, saved and loaded as files."""
    config = _BASE | {"enc_num_feats": 16, "msk_num_feats": 8, "msk_num_hidden_feats": 16, "msk_num_layers": 2}
    shape = Separator(Config(weights=Weights(source="random:convtasnet-base-libri2mix")))
    model = architecture.randomly(lambda: shape.network(config))
    folder = architecture.keep_files(Checkpoint(config, model))
    return Separator(Config(weights=Weights(source=folder), device="cpu"))

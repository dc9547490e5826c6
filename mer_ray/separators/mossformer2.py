"""MossFormer2_SS_16K: two voices apart at 16 kHz, the separator of P1 section 2.4.

The published checkpoint is a pickle, ``last_best_checkpoint.pt``; ``jobs/weights.py convert`` makes a folder of it that
is loaded here. 442 GFLOP for a second of sound: a matter of GPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mer_ray.pretrained import architecture
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.checkpoint import Checkpoint
from mer_ray.pretrained.weights import Weights
from mer_ray.separators import base

if TYPE_CHECKING:
    from torch import nn

_PUBLISHED = {
    "encoder_embedding_dim": 512,
    "mossformer_sequence_dim": 512,
    "num_mossformer_layer": 24,
    "encoder_kernel_size": 16,
    "num_spks": 2,
}
ARCHITECTURES = {
    "mossformer2-ss-16k": Architecture(
        lambda: dict(_PUBLISHED),
        55.7e6,
        "MossFormer2 (Zhao et al. 2024), table 1",
        "alibabasglab/MossFormer2_SS_16K",
        "Apache-2.0",
    ),
}


class Config(base.WindowedConfig):
    """Which weights, and how a clip is cut; the package's own windows by default."""


class Separator(base.WindowedSeparator):
    """Two streams by MossFormer2."""

    version: ClassVar[int] = 1
    architectures: ClassVar = ARCHITECTURES
    config: Config

    def network(self, model_config: dict[str, Any]) -> nn.Module:
        """See the base class."""
        from mer_ray.pretrained.mossformer2 import MossFormer2  # noqa: PLC0415 - torch, when a model is built

        if model_config.get("num_spks", 2) != 2:
            raise ValueError(f"it parts {model_config['num_spks']} voices, and a separator gives two streams")
        return MossFormer2(**model_config)


def tiny() -> Separator:
    """The published network in everything but its size, saved and loaded as files."""
    config = _PUBLISHED | {"encoder_embedding_dim": 16, "mossformer_sequence_dim": 16, "num_mossformer_layer": 2}
    config |= {"memory_channels": 8, "query_key_dim": 8, "group_size": 32, "encoder_kernel_size": 64}
    shape = Separator(Config(weights=Weights(source="random:mossformer2-ss-16k")))
    model = architecture.randomly(lambda: shape.network(config))
    folder = architecture.keep_files(Checkpoint(config, model))
    return Separator(Config(weights=Weights(source=folder), device="cpu"))

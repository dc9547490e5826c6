"""An MLP that takes visual features into the space of a speech model, by unlabelled clips (P2 section 2.2).

Both encoders are frozen; of each clip of a batch the other clips' sounds are the wrong answers, on all workers.

Shapes: B clips, V width of the visual feature, A of the audio feature.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional

from mer_ray.encoders.base import ClipInput, PretrainedEncoder
from mer_ray.errors import ConfigError
from mer_ray.pretrained import saving, tuning
from mer_ray.pretrained.projection import FILE, Projection
from mer_ray.pretrained.tuning import Tuning
from mer_ray.tasks import base
from mer_ray.tasks.base import Batch, Choice, Outcome
from mer_ray.types import Modality

_MLP = "projection."
_FROZEN = Tuning(how="frozen")
_LARGEST_SCALE = 100.0


class Config(base.Config):
    """Which encoders are aligned."""

    visual: Choice = Field(description="the visual encoder, e.g. clip")
    speech: Choice = Field(description="the speech encoder, e.g. hubert with the adapters of speech_adapters")
    temperature: float = Field(0.07, gt=0, description="at the start; it is learnt")
    max_seconds: float = Field(10.0, gt=0, description="a longer recording is cut to so much, another part each epoch")
    frames: int = Field(4, ge=1, description="face frames of a clip, drawn anew each epoch")

    def placed(self, folder: Path | None) -> Self:
        """See the base class."""
        return self.model_copy(update={"visual": self.visual.placed(folder), "speech": self.speech.placed(folder)})


class Task(base.Task):
    """Symmetric InfoNCE between the projected mean of a clip's frames and the mean of its sound's."""

    needs_labels = False
    config: Config

    def __init__(self, config: Config, class_names: Sequence[str] = ()) -> None:
        super().__init__(config, class_names)
        self.visual, self.speech = config.visual.build(), config.speech.build()
        for name, encoder, wanted in (("visual", self.visual, Modality.VIDEO), ("speech", self.speech, Modality.AUDIO)):
            if encoder.modality is not wanted:
                raise ConfigError(f"{name}.plugin: an encoder of {encoder.modality}, not of {wanted}")

    @property
    def reads(self) -> tuple[str, ...]:
        """What both encoders read."""
        return tuple(dict.fromkeys([*self.visual.reads, *self.speech.reads]))

    @property
    def identity(self) -> str:
        """See the base class."""
        return f"{self.visual.identity}; {self.speech.identity}"

    @property
    def shareable(self) -> bool:
        """See the base class."""
        return self.visual.shareable and self.speech.shareable

    def build(self) -> nn.Module:
        """See the base class."""
        return Aligned(self.visual, self.speech, self.config.temperature)

    def collate(
        self, clips: Sequence[ClipInput], label: NDArray[np.int64], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        """See the base class."""
        count = self.config.frames
        seen = [part for clip, rng in zip(clips, rngs, strict=True) for part in base.frames(clip, count, rng)]
        sounds = [base.cropped(clip, self.config.max_seconds, rng) for clip, rng in zip(clips, rngs, strict=True)]
        return {"visual": self.visual.inputs(seen), "speech": self.speech.inputs(sounds), "each": count}

    def save(self, weights: Iterable[tuple[str, Tensor]], folder: Path, place: str) -> Mapping[str, Any]:
        """See the base class: the MLP alone."""
        save_file(dict(saving.under(weights, _MLP)), folder / FILE)
        return base.projected(self.config.visual, place)


class Aligned(nn.Module):
    """Two frozen encoders, the MLP, and the learnt temperature."""

    def __init__(self, visual: PretrainedEncoder, speech: PretrainedEncoder, temperature: float) -> None:
        super().__init__()
        self.visual, self.speech = visual, speech
        freeze = partial(tuning.apply, tuning=_FROZEN)
        self.seeing, self.hearing = visual.network(freeze), speech.network(freeze)
        self.projection = Projection(visual.dim, speech.dim)
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / temperature)]))

    def forward(self, batch: Batch) -> Outcome:
        """See ``Task.build``."""
        with torch.no_grad():
            seen = torch.cat([self.visual.features(inputs).pooled() for inputs in batch["visual"]])
            heard_BA = torch.cat([self.speech.features(inputs).pooled() for inputs in batch["speech"]])
        seen_BV = seen.reshape(-1, batch["each"], seen.shape[1]).mean(dim=1)
        ours = functional.normalize(self.projection(seen_BV.to(self.projection.hidden.weight.dtype)).float(), dim=1)
        theirs = functional.normalize(heard_BA.float(), dim=1)
        loss = contrast(ours, theirs, self.log_scale.float().exp().clamp(max=_LARGEST_SCALE))
        return Outcome(loss, {}, ours.new_zeros(len(ours), 0))


def contrast(ours_BA: Tensor, theirs_BA: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE (P2 equations 6 and 7), the answers of all workers being the candidates."""
    every_ours, every_theirs, first = _everyone(ours_BA), _everyone(theirs_BA), 0
    if dist.is_initialized():
        first = dist.get_rank() * len(ours_BA)
    right = torch.arange(first, first + len(ours_BA), device=ours_BA.device)
    there = functional.cross_entropy(scale * ours_BA @ every_theirs.T, right)
    back = functional.cross_entropy(scale * theirs_BA @ every_ours.T, right)
    return (there + back) / 2


def _everyone(values_BA: Tensor) -> Tensor:
    """The rows of all workers, in their order, with gradients to each."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values_BA
    return torch.cat(all_gather(values_BA.contiguous()))  # type: ignore[no-untyped-call]

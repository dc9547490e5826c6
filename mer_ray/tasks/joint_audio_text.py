"""Qwen2-Audio tuned to answer a prompt with sound and transcript by the emotion's name, whole or by low-rank updates.

P1 section 2.3. Silent clips are left out, as in the paper. An answer's probability is that of all its tokens, so that a
clip is scored by one forward for each class.

Shapes: B clips, T tokens, D width, V vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mer_ray.encoders.base import ClipInput
from mer_ray.encoders.joint_audio_text import Encoder
from mer_ray.errors import ConfigError
from mer_ray.pretrained import saving, tuning
from mer_ray.pretrained.tuning import merged
from mer_ray.tasks import base
from mer_ray.tasks.base import Batch, Outcome

_LAST_STATE = {"layers": 1, "combine": "mean"}


class Config(base.FinetuneConfig):
    """Which model, what trains of it, and what counts as silent."""

    silence: float = Field(1e-3, ge=0, description="root mean square below which a recording counts as silent")


class Task(base.Finetune):
    """The loss is that of the right answer's tokens."""

    filters = True
    config: Config

    def __init__(self, config: Config, class_names: Sequence[str]) -> None:
        super().__init__(config, class_names)
        if config.encoder.plugin != "joint_audio_text":
            raise ConfigError(f"encoder.plugin={config.encoder.plugin}: this task trains joint_audio_text")
        options = config.encoder.options | _LAST_STATE
        self.encoder = base.Choice(plugin=config.encoder.plugin, options=options).build()

    def network(self) -> nn.Module:
        """See the base class."""
        assert isinstance(self.encoder, Encoder)
        return Answering(self.encoder, self.config, self.class_names)

    def usable(self, clip: ClipInput) -> bool:
        """Whether anything is heard."""
        return clip.audio is not None and float((clip.audio**2).mean()) ** 0.5 > self.config.silence

    def save(self, weights: Iterable[tuple[str, Tensor]], folder: Path, place: str) -> Mapping[str, Any]:
        """See the base class; the vocabulary's head is left out, as no encoder reads it."""
        return self.write(saving.under(merged(weights, self.config.tuning), base.MODEL), folder, place)


class Answering(nn.Module):
    """The model with its vocabulary's head."""

    def __init__(self, encoder: Encoder, config: Config, class_names: Sequence[str]) -> None:
        super().__init__()
        self.encoder = encoder
        self.model, self.head = encoder.answering(partial(tuning.apply, tuning=config.tuning))
        self.head.requires_grad_(config.tuning.how == "full")
        self.answers = [encoder.answer(name) for name in class_names]

    def forward(self, batch: Batch) -> Outcome:
        """See ``Task.build``; in training nothing is scored."""
        label_B = batch["label"]
        if self.training:
            loss = -self._told(batch, label_B).mean()
            return Outcome(loss, {}, loss.new_zeros(len(label_B), 0))
        scores = [self._told(batch, torch.full_like(label_B, c)) for c in range(len(self.answers))]
        scores_BC = torch.stack(scores, dim=1)
        return Outcome(functional.cross_entropy(scores_BC, label_B), {}, scores_BC)

    def _told(self, batch: Batch, class_B: Tensor) -> Tensor:
        """Mean log-probability of the tokens of each clip's answer, float32 (B,)."""
        sizes = [len(inputs["input_ids"]) for inputs in batch["inputs"]]
        parts = zip(batch["inputs"], torch.split(class_B, sizes), strict=True)
        return torch.cat([self._log_probability(inputs, classes.tolist()) for inputs, classes in parts])

    def _log_probability(self, inputs: dict[str, Any], classes: list[int]) -> Tensor:
        """The same of one of the encoder's batches: the answers are put behind its sequences."""
        places = [(stop, self.answers[c]) for (_, stop), c in zip(inputs["spans"], classes, strict=True)]
        width = max(end + len(answer) for end, answer in places)
        ids_BT = functional.pad(inputs["input_ids"], (0, width - inputs["input_ids"].shape[1]))
        for row, (end, answer) in zip(ids_BT, places, strict=True):
            row[end : end + len(answer)] = torch.tensor(answer, device=row.device)
        states_BTD = self.encoder.features(inputs | {"input_ids": ids_BT}).values_BTD
        before = [x[end - 1 : end - 1 + len(answer)] for x, (end, answer) in zip(states_BTD, places, strict=True)]
        logits_NV = self.head(torch.cat(before).to(self.head.weight.dtype)).float()
        right_N = torch.tensor([token for _, answer in places for token in answer], device=logits_NV.device)
        told_N = -functional.cross_entropy(logits_NV, right_N, reduction="none")
        return torch.stack([part.mean() for part in torch.split(told_N, [len(answer) for _, answer in places])])

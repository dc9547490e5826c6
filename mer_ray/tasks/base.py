"""What a training task is: clips in, a loss out, and files for an encoder at the end. Plain PyTorch.

Where it runs, in how many processes and how the model is shared out is the business of ``train``.

Shapes: B clips, C classes.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from mer_ray import registry
from mer_ray.encoders.aligned import SHARED
from mer_ray.encoders.base import ClipInput, PretrainedEncoder
from mer_ray.errors import ConfigError
from mer_ray.pretrained import projection, saving, tuning
from mer_ray.pretrained import weights as weights_
from mer_ray.pretrained.adapters import adapters_of
from mer_ray.pretrained.projection import Projection
from mer_ray.pretrained.tuning import Tuning, merged
from mer_ray.types import SAMPLE_RATE_HZ, Modality

ADAPTERS = "adapters.safetensors"
MODEL, PROJECTOR, HEAD = "model.", "projector.", "head."
"""Beginnings of the names of a ``Classifier``'s tensors."""


class Config(BaseModel):
    """Base of every task's ``Config``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def placed(self, folder: Path | None) -> Self:
        """With the tiny models that it asks for made in a folder, and named by their files; as it is where it does not.

        Args:
            folder: of their own, made where it is missing; None where there is no local one.

        Raises:
            ConfigError: it asks for some, and there is no folder.
        """
        return self


class Outcome(NamedTuple):
    """What a network makes of a batch.

    Attributes:
        loss: mean over the batch, a single number.
        parts: what it is the sum of, for the log.
        scores: logits (B, C) where the task tells classes apart, else (B, 0).
    """

    loss: Tensor
    parts: dict[str, Tensor]
    scores: Tensor


Batch = dict[str, Any]


class Task(ABC):
    """One way of training one encoder, or one recogniser.

    Class attributes:
        makes: the kind of plug-in that loads what it saves.
        needs_labels: whether only labelled clips are of use.
        filters: whether ``usable`` refuses some clips.

    Args:
        config: the task's options, tiny models placed.
        class_names: of the labels; empty where there are none.
    """

    makes: ClassVar[str] = "encoders"
    needs_labels: ClassVar[bool]
    filters: ClassVar[bool] = False

    def __init__(self, config: Config, class_names: Sequence[str]) -> None:
        self.config = config
        self.class_names = tuple(class_names)

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """The tables it needs, of ``audio``, ``faces`` and ``transcript``; all must be present in a clip."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, what trains of it set; its ``forward`` takes a batch of ``collate`` and gives an ``Outcome``."""

    @abstractmethod
    def collate(
        self, clips: Sequence[ClipInput], label: NDArray[np.int64], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        """The batch of some clips, on the CPU.

        Args:
            clips: at least one.
            label: (B,), -1 where unknown.
            rngs: of each clip, for what is drawn anew in each epoch.

        Raises:
            ShapeError: a clip is longer than the model takes.
        """

    @abstractmethod
    def save(self, weights: Iterable[tuple[str, Tensor]], folder: Path, place: str) -> Mapping[str, Any]:
        """Write what a plug-in of the kind loads, and say how: its name under ``plugin``, and its ``options``.

        Args:
            weights: every tensor of the network, in the order of its modules.
            folder: there and empty.
            place: where the folder's files will lie, for the entry.
        """

    @property
    def identity(self) -> str:
        """What its pretrained models are, wherever their files lie; empty where there are none."""
        return ""

    @property
    def shareable(self) -> bool:
        """Whether its pretrained models may be shared out over the workers as they are loaded."""
        return True

    def usable(self, clip: ClipInput) -> bool:
        """Whether a clip can be learnt from; silent ones cannot, for some."""
        return True

    def taught(self, texts: Sequence[str]) -> Config:
        """Its config with what it takes of the training clips' transcripts; most take nothing."""
        return self.config

    def section(self, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        """What a job's config is given to use what ``save`` wrote.

        Args:
            name: of the new encoder.
            entry: what ``save`` returned.
        """
        return {"encoders": {name: dict(entry)}}


def to(batch: Any, device: torch.device) -> Any:  # noqa: ANN401 - tensors inside dictionaries and lists
    """A batch on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {name: to(value, device) for name, value in batch.items()}
    return [to(value, device) for value in batch] if isinstance(batch, list) else batch


class Choice(BaseModel):
    """An encoder plug-in with its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plugin: str = Field(description="an encoder with weights")
    options: dict[str, Any] = Field(default_factory=dict, description="fields of its Config")
    tiny: bool = Field(False, description="its own tiny random model under the options, to try things out")

    def placed(self, folder: Path | None) -> Choice:
        """See ``Config``; the files lie under the plug-in's name."""
        if not self.tiny:
            return self
        config = registry.find("encoders", self.plugin).tiny().config
        place = kept(folder, self.plugin, lambda beside: shutil.copytree(config.weights.source, beside))
        own = config.model_dump(mode="json", exclude_unset=True) | {"weights": {"source": str(place)}}
        return Choice(plugin=self.plugin, options=own | self.options)

    def build(self) -> PretrainedEncoder:
        """The encoder.

        Raises:
            ConfigError, PluginError: there is none of this name, it has no weights, or an option is wrong.
        """
        encoder = registry.build("encoders", self.plugin, self.options)
        if not isinstance(encoder, PretrainedEncoder):
            raise ConfigError(f"encoder.plugin={self.plugin}: it has no model of its own that could be trained")
        return encoder


def kept(folder: Path | None, name: str, make: Callable[[Path], object]) -> Path:
    """The place of a tiny model's files, made where they are not there yet, by a name in the folder of all.

    Raises:
        ConfigError: there is no such folder.
    """
    if folder is None:
        raise ConfigError("tiny models are made on a local disk: set run.dir to a folder of this machine")
    place, beside = folder / name, folder / f"{name}.part"
    if not place.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        make(beside)
        beside.rename(place)
    return place


def cropped(clip: ClipInput, seconds: float, rng: np.random.Generator) -> ClipInput:
    """The clip with a part of its sound, drawn where it is longer than so many seconds."""
    assert clip.audio is not None
    most = int(seconds * SAMPLE_RATE_HZ)
    if len(clip.audio) <= most:
        return clip
    start = int(rng.integers(len(clip.audio) - most + 1))
    return replace(clip, audio=clip.audio[start : start + most])


def frames(clip: ClipInput, count: int, rng: np.random.Generator) -> list[ClipInput]:
    """The clip with one of its face frames, so many times; drawn, in their order."""
    assert clip.faces is not None
    drawn = np.sort(rng.integers(len(clip.faces), size=count))
    return [replace(clip, faces=clip.faces[[i]], face_times=None) for i in drawn]


class FinetuneConfig(Config):
    """Which encoder, what trains of it, and what stands behind it."""

    encoder: Choice = Field(description="the encoder that is trained")
    tuning: Tuning = Tuning()
    dropout: float = Field(0.1, ge=0, lt=1, description="before the classes' layer")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label spread over all classes")
    max_seconds: float = Field(10.0, gt=0, description="a longer recording is cut to so much, another part each epoch")
    frames: int = Field(4, ge=1, description="face frames of a clip, drawn anew each epoch; with a grid all of them")

    def placed(self, folder: Path | None) -> Self:
        """See the base class."""
        return self.model_copy(update={"encoder": self.encoder.placed(folder)})


class Finetune(Task):
    """An encoder plug-in with a layer for the classes behind it.

    The encoder is run as ``encode`` runs it, so that what is trained is what is extracted.
    """

    needs_labels = True
    config: FinetuneConfig

    def __init__(self, config: FinetuneConfig, class_names: Sequence[str]) -> None:
        super().__init__(config, class_names)
        self.encoder = config.encoder.build()
        if config.tuning.how == "adapters" and "adapters" not in self.encoder.file_options:
            raise ConfigError(f"tuning.how=adapters: {config.encoder.plugin} loads none, hubert does. Take how=lora")
        if config.tuning.how == "projector" and self.encoder.modality is not Modality.VIDEO:
            raise ConfigError(f"tuning.how=projector is for images; {config.encoder.plugin} reads none")

    @property
    def reads(self) -> tuple[str, ...]:
        """What the encoder reads."""
        return self.encoder.reads

    def build(self) -> nn.Module:
        """See the base class.

        Raises:
            ConfigError: what the encoder does not read of the model would be lost.
        """
        network = self.network()
        if self.config.tuning.rewrites and not self.encoder.is_whole:
            raise ConfigError("encoder.options.layers: the last layer must be read, or it would be lost on saving")
        return network

    @property
    def identity(self) -> str:
        """See the base class."""
        return self.encoder.identity

    @property
    def shareable(self) -> bool:
        """See the base class."""
        return self.encoder.shareable

    def network(self) -> nn.Module:
        """What ``build`` makes."""
        return Classifier(self.encoder, self.config, len(self.class_names))

    def collate(
        self, clips: Sequence[ClipInput], label: NDArray[np.int64], rngs: Sequence[np.random.Generator]
    ) -> Batch:
        """See the base class: ``inputs`` of the encoder, ``label``, and how many items a clip has."""
        cut = [part for clip, rng in zip(clips, rngs, strict=True) for part in self._cut(clip, rng)]
        return {"inputs": self.encoder.inputs(cut), "label": torch.from_numpy(label), "each": len(cut) // len(clips)}

    def save(self, weights: Iterable[tuple[str, Tensor]], folder: Path, place: str) -> Mapping[str, Any]:
        """See the base class: what was trained of the model as its encoder loads it, the rest under ``classifier``."""
        rest: dict[str, Tensor] = {}
        entry = self.write(saving.under(merged(weights, self.config.tuning), MODEL, rest), folder, place)
        if self.config.tuning.how == "projector":
            projector = {name.removeprefix(PROJECTOR): t for name, t in rest.items() if name.startswith(PROJECTOR)}
            save_file(projector, folder / projection.FILE)
            entry = projected(self.config.encoder, place)
        (folder / "classifier").mkdir()
        head = {name: tensor for name, tensor in rest.items() if name.startswith(HEAD)}
        save_file(head, folder / "classifier" / "head.safetensors", metadata={"classes": json.dumps(self.class_names)})
        return entry

    def write(self, model: Iterable[tuple[str, Tensor]], folder: Path, place: str) -> dict[str, Any]:
        """Write what is new of the model, in the library's own form or as adapters; the entry that reads it.

        Args:
            model: its tensors.
            folder: as for ``save``.
            place: as for ``save``.
        """
        options, source = self.config.encoder.options, self.encoder.config.weights
        if self.config.tuning.rewrites:
            saving.write(model, self.encoder.model_config, folder)
            if not source.is_random:
                saving.copy_processor(weights_.fetch(source, only_config=True), folder)
            options = options | {"weights": {"source": place}}
        elif adapters := adapters_of(model):
            save_file(adapters, folder / ADAPTERS)
            options = options | {"adapters": f"{place}/{ADAPTERS}"}
        return {"plugin": self.config.encoder.plugin, "options": options}

    def _cut(self, clip: ClipInput, rng: np.random.Generator) -> list[ClipInput]:
        """The parts of a clip that are one item each; of every clip as many."""
        heard = cropped(clip, self.config.max_seconds, rng) if "audio" in self.reads else clip
        if "faces" not in self.reads or getattr(self.encoder.config, "grid", None):
            return [heard]
        return frames(heard, self.config.frames, rng)


class Classifier(nn.Module):
    """An encoder's model, its features pooled over each item and averaged over a clip's items, and a linear layer.

    With ``tuning.how=projector`` P2's MLP stands between the features and the layer.
    """

    def __init__(self, encoder: PretrainedEncoder, config: FinetuneConfig, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.model = encoder.network(partial(tuning.apply, tuning=config.tuning))
        wanted = config.tuning.how == "projector"
        self.projector = Projection(encoder.dim, encoder.dim) if wanted else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(encoder.dim, num_classes)
        self.smoothing = config.label_smoothing

    def forward(self, batch: Batch) -> Outcome:
        """See ``Task.build``."""
        pooled = torch.cat([self.encoder.features(inputs).pooled() for inputs in batch["inputs"]])
        clips_BD = pooled.reshape(-1, batch["each"], pooled.shape[1]).mean(dim=1)
        between_BD = self.projector(clips_BD.to(self.head.weight.dtype))
        logits_BC = self.head(self.dropout(between_BD)).float()
        loss = functional.cross_entropy(logits_BC, batch["label"], label_smoothing=self.smoothing)
        return Outcome(loss, {}, logits_BC)


def projected(encoder: Choice, place: str) -> dict[str, Any]:
    """The entry of a visual encoder with an MLP behind it, whose file lies at a place."""
    beside = {name: value for name, value in encoder.options.items() if name in SHARED}
    inside = {name: value for name, value in encoder.options.items() if name not in SHARED}
    inner = {"plugin": encoder.plugin, "options": inside}
    return {"plugin": "aligned", "options": {"weights": {"source": place}, "encoder": inner} | beside}

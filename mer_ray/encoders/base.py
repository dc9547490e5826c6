"""What a feature encoder is: clips in, one sequence of frame features per clip out.

An encoder owns its model and nothing else: tables, batching over Ray, pooling and quarantine are the business of
``stages.encode`` and ``runtime``. Plain Python, usable without Ray.

Shapes: T frames, D width, S samples, F face frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from mer_ray.errors import PluginError, ShapeError
from mer_ray.pretrained import weights as weights_
from mer_ray.pretrained.weights import Weights
from mer_ray.types import Modality

if TYPE_CHECKING:  # light encoders run without the seconds and the memory that torch takes
    from collections.abc import Mapping

    from torch import Tensor, nn

    from mer_ray.pretrained.architecture import Architecture
    from mer_ray.pretrained.forward import Features, Item, Runner


class Config(BaseModel):
    """Base of every encoder's ``Config``."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class ClipInput:
    """What an encoder may read of one clip. A field is set when the encoder names its table in ``reads``.

    Attributes:
        audio: float32 (S,), mono, 16 kHz, in [-1, 1].
        faces: uint8 (F, H, W, 3), RGB square crops of one face track, in time order.
        face_times: float32 (F,), seconds.
        text: the transcript.
    """

    audio: NDArray[np.float32] | None = None
    faces: NDArray[np.uint8] | None = None
    face_times: NDArray[np.float32] | None = None
    text: str | None = None


class Encoder(ABC):
    """One model that turns clips into features.

    Class attributes:
        modality: what the features listen to.
        reads: the tables it needs, of ``audio``, ``faces`` and ``transcript``; all must be present in a clip.
        version: raised when the same input would give other numbers.
        licence: of the code and data inside, for ``jobs/extract.py --list``; weights have their own.
        batch_size: clips that are worth one call, and so one Parquet part, by default.
    """

    modality: ClassVar[Modality]
    reads: ClassVar[tuple[str, ...]]
    version: ClassVar[int]
    licence: ClassVar[str] = "Apache-2.0"
    batch_size: ClassVar[int] = 16

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    @abstractmethod
    def dim(self) -> int:
        """D, the width of a frame's features."""

    @property
    def identity(self) -> str:
        """What the numbers depend on beside config and version: model id, revision, digest of the weights."""
        return "no weights"

    @property
    def dtype(self) -> str:
        """The precision of its arithmetic: ``float32`` or ``bfloat16``."""
        return "float32"

    @property
    def spec_options(self) -> dict[str, Any]:
        """The options that the numbers depend on, JSON-able: part of a table's digest."""
        return self.config.model_dump(mode="json")

    def load(self) -> None:  # noqa: B027 - optional: most light encoders have nothing to load
        """Load the model, once per process, before the first ``encode``."""

    @abstractmethod
    def encode(self, clips: Sequence[ClipInput]) -> list[NDArray[np.float32]]:
        """One float32 (T, D) array per clip, in order; T is 1 for utterance-level features.

        The result of a clip does not depend on the clips beside it.

        Raises:
            ClipError: a clip cannot be encoded. The caller tries the clips of the batch one by one, so that only
                the clip at fault is quarantined.
        """


class Pooling(StrEnum):
    """How frames become one vector: mean (P1), or mean and standard deviation side by side (P3)."""

    MEAN = "mean"
    MEAN_STD = "mean_std"


def pool(frames_TD: NDArray[np.float32], how: Pooling) -> NDArray[np.float32]:
    """Pool (T, D) frames over time to (D,) or, with the standard deviation, (2 D,).

    >>> pool(np.array([[1.0, 2.0], [3.0, 2.0]], np.float32), Pooling.MEAN_STD).tolist()
    [2.0, 2.0, 1.0, 0.0]
    """
    moments = [frames_TD.mean(axis=0, dtype=np.float64)]
    if how is Pooling.MEAN_STD:
        moments.append(frames_TD.std(axis=0, dtype=np.float64))
    return np.concatenate(moments).astype(np.float32)


def pooled_dim(dim: int, how: Pooling) -> int:
    """The width of ``pool``'s result for frames of width ``dim``."""
    return dim if how is Pooling.MEAN else 2 * dim


_CPU_BUDGET_PART = 6  # large batches only spill a CPU's caches: HuBERT-large took 1.3 times as long with all of it


class PretrainedConfig(Config):
    """Base of the ``Config`` of encoders with weights. Each sets its own default ``budget``."""

    weights: Weights = Field(description="where the weights come from")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on cuda, else float32")
    compile: bool = Field(False, description="torch.compile the model: slow to start, then faster")
    budget: int = Field(ge=1, description="count x longest of one forward; unset, a CPU takes a sixth of the default")


class PretrainedEncoder(Encoder):
    """An encoder that runs a library's model on items (clips, windows, frames, texts) in length-bucketed batches.

    A family says how to make its model, how a clip becomes items, items a batch, and a batch features; weights, device,
    precision, batches and running out of memory are handled here. In a batch an item gives what it gives alone, within
    1e-4 (float32) or 2e-2 (bfloat16), relative to the largest value.

    Class attributes:
        architectures: what ``random:NAME`` may name.
        file_options: options that name files of further weights; their content is part of the identity.
        exact: only items of the very same size share a batch; a property where it depends on the weights.
        shareable: whether its model can be loaded with its parameters shared out over processes; else it is whole.
    """

    architectures: ClassVar[Mapping[str, Architecture]]
    batch_size: ClassVar[int] = 64
    file_options: ClassVar[tuple[str, ...]] = ("layer_weights",)
    exact: bool = False
    shareable: ClassVar[bool] = True
    config: PretrainedConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self._runner: Runner | None = None
        self._model: nn.Module | None = None
        self._reader: Any = None  # a LayerReader, in families that read several layers out

    @property
    def identity(self) -> str:
        """See the base class."""
        given = {option: getattr(self.config, option, None) for option in self.file_options}
        files = [f"{option} {weights_.file_identity(file)}" for option, file in given.items() if file]
        return ", ".join([weights_.identity(self.config.weights), *files])

    @property
    def dtype(self) -> str:
        """See the base class."""
        if self.config.dtype != "auto":
            return self.config.dtype
        return "bfloat16" if self._device == "cuda" else "float32"

    @property
    def spec_options(self) -> dict[str, Any]:
        """See the base class: neither where the weights lie nor what only changes the speed."""
        elsewhere = {"weights", "device", "compile", "budget", *self.file_options}
        return self.config.model_dump(mode="json", exclude=elsewhere) | {"dtype": self.dtype}

    @cached_property
    def model_config(self) -> Any:
        """The library's configuration of the model, read without its weights."""
        from mer_ray.pretrained import architecture  # noqa: PLC0415

        if self.config.weights.is_random:
            return architecture.pick(self.architectures, self.config.weights).config()
        return self._read_config(weights_.fetch(self.config.weights, only_config=True))

    def load(self) -> None:
        """See the base class."""
        import torch  # noqa: PLC0415

        from mer_ray.pretrained import forward  # noqa: PLC0415

        device = forward.pick_device(self._device)
        budget = self.config.budget
        if device == "cpu" and "budget" not in self.config.model_fields_set:
            budget = max(1, budget // _CPU_BUDGET_PART)
        runner = forward.Runner(device, getattr(torch, self.dtype), budget, compile_model=self.config.compile)
        self._model = runner.place(self._open(runner.device))
        self._runner = runner

    def network(self, tune: Callable[[nn.Module], None]) -> nn.Module:
        """The model to be trained: on the CPU, float32, read out as ``encode`` reads it; ``features`` runs it.

        Args:
            tune: sets what trains of the library's whole model, and puts in what is new.
        """
        from mer_ray.pretrained import tuning  # noqa: PLC0415

        self._model = self._open("cpu", tune).float()
        tuning.run_whole(self._model)
        return self._model

    def empty(self) -> nn.Module:
        """The model of the configuration, its weights not loaded."""
        return self._build(self.model_config)

    @property
    def is_whole(self) -> bool:
        """Whether ``network`` holds all of the library's model: layers behind the deepest that is read are cut off."""
        return self._reader is None or bool(self._reader.whole)

    def inputs(self, clips: Sequence[ClipInput]) -> list[dict[str, Any]]:
        """What ``features`` takes of clips of one item each: a batch, or a batch for each where padding changes them.

        Raises:
            ShapeError: a clip is longer than one item.
        """
        items = [self._items(i, clip) for i, clip in enumerate(clips)]
        if long := [parts for parts in items if len(parts) > 1]:
            raise ShapeError(f"it is longer than the model takes at once, which makes {len(long[0])} parts of it")
        payloads = [parts[0].payload for parts in items]
        return [self._collate([payload]) for payload in payloads] if self.exact else [self._collate(payloads)]

    def features(self, inputs: dict[str, Any]) -> Features:
        """One of ``inputs`` through ``network``, with gradients; on the network's device."""
        return self._forward(dict(inputs))

    def _open(self, device: str, tune: Callable[[nn.Module], None] = lambda model: None) -> nn.Module:
        """The model with its weights and what stands before it, ready to be read out."""
        from mer_ray.pretrained import architecture  # noqa: PLC0415

        if self.config.weights.is_random:
            model = architecture.randomly(lambda: self._build(self.model_config), device)
            self._prepare_randomly()
            tune(model)
            return self._adapt(model)
        folder = weights_.fetch(self.config.weights)
        model = self._load(folder)
        try:
            self._prepare(folder)
        except OSError as error:
            source = self.config.weights.source
            raise PluginError(f"weights {source}: {folder} lacks what stands before the model: {error}") from error
        tune(model)
        return self._adapt(model)

    def encode(self, clips: Sequence[ClipInput]) -> list[NDArray[np.float32]]:
        """See the base class."""
        runner = self.runner
        items = [item for i, clip in enumerate(clips) for item in self._items(i, clip)]
        made = runner.map(items, self._collate, self._forward, exact=self.exact)
        parts: list[list[NDArray[np.float32]]] = [[] for _ in clips]
        for item, result in zip(items, made, strict=True):
            parts[item.clip].append(result.numpy())
        return [np.concatenate(part) for part in parts]

    def batches(self, clips: Sequence[ClipInput]) -> list[dict[str, Any]]:
        """The inputs of every forward that ``encode`` would run, in memory: to time the model alone."""
        runner = self.runner
        items = [item for i, clip in enumerate(clips) for item in self._items(i, clip)]
        cut = runner.cut(items, self.exact)
        return [self._collate([items[i].payload for i in bucket]) for bucket in cut]

    def run_batch(self, inputs: dict[str, Any]) -> list[Tensor]:
        """One forward on one of ``batches``: (t, D) float32 per item, on the CPU."""
        return self.runner.forward(dict(inputs), self._forward)

    @property
    def runner(self) -> Runner:
        """What runs the model; loads it if that is not done."""
        if self._runner is None:
            self.load()
        assert self._runner is not None
        return self._runner

    @property
    def _device(self) -> Literal["cpu", "cuda"]:
        if self.config.device != "auto":
            return self.config.device
        from mer_ray.pretrained import forward  # noqa: PLC0415

        return forward.pick_device("auto")

    def _read_config(self, folder: Any) -> Any:
        """The library's configuration from a folder of ``weights.fetch``; transformers' by default."""
        from transformers import AutoConfig  # noqa: PLC0415

        weights = self.config.weights
        try:
            return AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=weights.trust_remote_code
            )
        except (OSError, ValueError, KeyError) as error:
            raise PluginError(
                f"weights {weights.source}: no config.json of transformers in {folder}: {error}"
            ) from error

    @abstractmethod
    def _build(self, model_config: Any) -> nn.Module:
        """The model of a configuration, its weights not loaded."""

    @abstractmethod
    def _load(self, folder: Any) -> nn.Module:
        """The model with its weights."""

    @abstractmethod
    def _prepare(self, folder: Any) -> None:
        """Load what stands before the model: feature extractor, image processor, tokenizer."""

    @abstractmethod
    def _prepare_randomly(self) -> None:
        """Make the same for random weights."""

    def _adapt(self, model: nn.Module) -> nn.Module:
        """Cut off what is not read out, add adapters, catch layers; before the model is placed."""
        return model

    @abstractmethod
    def _items(self, index: int, clip: ClipInput) -> list[Item]:
        """The items of the clip at ``index``, at least one; their results follow each other in time."""

    @abstractmethod
    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        """Inputs of one forward, on the CPU. Called from another thread on CUDA."""

    @abstractmethod
    def _forward(self, inputs: dict[str, Any]) -> Features:
        """What the model makes of the payloads; ``inputs`` are on the device."""

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
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mer_ray.errors import ShapeError
from mer_ray.pretrained import plugin
from mer_ray.pretrained.model import PretrainedConfig, PretrainedModel
from mer_ray.pretrained.plugin import Plugin
from mer_ray.types import Modality

if TYPE_CHECKING:  # light encoders run without the seconds and the memory that torch takes
    from torch import Tensor, nn

    from mer_ray.pretrained.forward import Features, Item

Config = plugin.Config
"""Base of every encoder's ``Config``."""


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


class Encoder(Plugin, ABC):
    """One model that turns clips into features.

    Class attributes:
        modality: what the features listen to.
        reads: the tables it needs, of ``audio``, ``faces`` and ``transcript``; all must be present in a clip.
    """

    modality: ClassVar[Modality]
    reads: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def dim(self) -> int:
        """D, the width of a frame's features."""

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


class PretrainedEncoder(PretrainedModel, Encoder):
    """An encoder that runs a library's model: a family says how a clip becomes items, and a batch features.

    Class attributes:
        shareable: whether its model can be loaded with its parameters shared out over processes; else it is whole.
    """

    file_options: ClassVar[tuple[str, ...]] = ("layer_weights",)
    shareable: ClassVar[bool] = True

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self._reader: Any = None  # a LayerReader, in families that read several layers out

    def network(self, tune: Callable[[nn.Module], None]) -> nn.Module:
        """The model to be trained: on the CPU, float32, read out as ``encode`` reads it; ``features`` runs it.

        Args:
            tune: sets what trains of the library's whole model, and puts in what is new.
        """
        from mer_ray.pretrained import tuning  # noqa: PLC0415

        self._model = self._open("cpu", tune).float()
        tuning.run_whole(self._model)
        return self._model

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

    @abstractmethod
    def _items(self, index: int, clip: ClipInput) -> list[Item]:
        """The items of the clip at ``index``, at least one; their results follow each other in time."""

    @abstractmethod
    def _forward(self, inputs: dict[str, Any]) -> Features:
        """See the base class."""

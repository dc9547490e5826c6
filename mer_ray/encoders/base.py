"""What a feature encoder is: clips in, one sequence of frame features per clip out.

An encoder owns its model and nothing else: tables, batching over Ray, pooling and quarantine are the business of
``stages.encode`` and ``runtime``. Plain Python, usable without Ray.

Shapes: T frames, D width, S samples, F face frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from mer_ray.types import Modality


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
    """

    modality: ClassVar[Modality]
    reads: ClassVar[tuple[str, ...]]
    version: ClassVar[int]

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

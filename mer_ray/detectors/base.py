"""What a face detector is: frames in, boxes out. Tracking and cropping are the business of ``stages.faces``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every detector's ``Config``."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Box:
    """A face in pixels: left, top, width, height, and the detector's score (higher is surer)."""

    left: float
    top: float
    width: float
    height: float
    score: float


class Detector(ABC):
    """Finds faces in still frames."""

    version: ClassVar[int]

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def identity(self) -> str:
        """What the result depends on beside config and version: model id, revision, digest of the weights."""
        return "no weights"

    def load(self) -> None:  # noqa: B027 - optional
        """Load the model, once per process."""

    @abstractmethod
    def detect(self, frames_FHWC: NDArray[np.uint8]) -> list[list[Box]]:
        """Per frame of uint8 (F, H, W, 3) RGB, its faces, best first; an empty list where there is none."""

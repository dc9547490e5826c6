"""What a face detector is: frames in, boxes out. Tracking and cropping are the business of ``stages.faces``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mer_ray.pretrained import plugin
from mer_ray.pretrained.plugin import Plugin

Config = plugin.Config
"""Base of every detector's ``Config``."""


@dataclass(frozen=True, slots=True)
class Box:
    """A face in pixels: left, top, width, height, and the detector's score (higher is surer)."""

    left: float
    top: float
    width: float
    height: float
    score: float


class Detector(Plugin, ABC):
    """Finds faces in still frames."""

    @abstractmethod
    def detect(self, frames_FHWC: NDArray[np.uint8]) -> list[list[Box]]:
        """Per frame of uint8 (F, H, W, 3) RGB, its faces, best first; an empty list where there is none."""

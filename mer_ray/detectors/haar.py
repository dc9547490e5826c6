"""OpenCV's boosted cascade of Haar features (Viola and Jones 2001): frontal faces, no download, a few ms per frame."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import cv2.data
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.detectors import base
from mer_ray.detectors.base import Box

_LEAST_SIDE = 20  # pixels of the smallest window, larger than the cascades of OpenCV are
_GROWTH = 1.35  # how much larger or smaller a face may get between two full searches


class Config(base.Config):
    """How the cascade is swept over a frame."""

    cascade: Literal["default", "alt", "alt2"] = Field("default", description="which of OpenCV's frontal cascades")
    max_side: int = Field(160, ge=64, description="frames are scaled down to this longest side before the search")
    min_face: float = Field(0.15, gt=0, le=1, description="smallest face, as a share of the frame's shorter side")
    scale_factor: float = Field(1.1, gt=1, description="step between the sizes searched")
    full_every: int = Field(4, ge=1, description="frames after which faces of all sizes are searched again")
    min_neighbors: int = Field(3, ge=1, description="overlapping hits that make a face; higher is stricter")


class Detector(base.Detector):
    """Frontal faces by Haar cascade; the score is the cascade's last stage sum."""

    version = 1
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._cascade: Any = None

    @property
    def identity(self) -> str:
        """The cascade comes with OpenCV, so its version stands for it."""
        return f"haarcascade_frontalface_{self.config.cascade} of OpenCV {cv2.__version__}"

    def load(self) -> None:
        """Read the cascade. OpenCV is held to one thread: the workers share the cores among themselves."""
        cv2.setNumThreads(1)
        self._cascade = cv2.CascadeClassifier(
            f"{cv2.data.haarcascades}haarcascade_frontalface_{self.config.cascade}.xml"
        )

    def detect(self, frames_FHWC: NDArray[np.uint8]) -> list[list[Box]]:
        """See the base class. Small sizes cost most of the time, so only every few frames all sizes are searched."""
        if self._cascade is None:
            self.load()
        shorter = min(frames_FHWC.shape[1:3])
        found: list[list[Box]] = []
        sizes = (0.0, 0.0)
        for index, frame in enumerate(frames_FHWC):
            if index % self.config.full_every == 0 or not sizes[1]:
                boxes = self._search(frame, self.config.min_face * shorter, float(shorter))
                widths = [box.width for box in boxes]
                sizes = (min(widths) / _GROWTH, max(widths) * _GROWTH) if widths else (0.0, 0.0)
            else:
                boxes = self._search(frame, *sizes)
            found.append(boxes)
        return found

    def _search(self, frame_HWC: NDArray[np.uint8], smallest: float, largest: float) -> list[Box]:
        """The faces whose side is between two numbers of pixels."""
        grey = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY)
        scale = min(1.0, self.config.max_side / max(grey.shape))
        if min(grey.shape) * scale < _LEAST_SIDE:
            return []
        if scale < 1.0:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        least, most = max(_LEAST_SIDE, round(smallest * scale)), round(largest * scale)
        hits, _, scores = self._cascade.detectMultiScale3(
            grey,
            scaleFactor=self.config.scale_factor,
            minNeighbors=self.config.min_neighbors,
            minSize=(least, least),
            maxSize=(most, most),
            outputRejectLevels=True,
        )
        boxes = [
            Box(left / scale, top / scale, width / scale, height / scale, score)
            for (left, top, width, height), score in zip(
                np.asarray(hits).tolist(), np.ravel(scores).tolist(), strict=True
            )
        ]
        return sorted(boxes, key=lambda box: (-box.score, box.left, box.top))

"""Histograms of oriented gradients of each face crop (Dalal and Triggs 2005): the shape of brows, eyes and mouth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.types import Modality

_SIDE = 64
_ORIENTATIONS = 9


class Config(base.Config):
    """How fine the grid is."""

    cell: Literal[8, 16] = Field(8, description="side of a cell in pixels of the 64 x 64 face; blocks are 2 x 2 cells")


class Encoder(base.Encoder):
    """One row per face frame: nine orientations in each cell, normalised over blocks that do not overlap.

    One face frame is one row, five minutes at 5 frames a second are 1,500; black frames, without an edge, are zeros.
    """

    modality = Modality.VIDEO
    reads = ("faces",)
    version = 1
    config: Config

    @property
    def dim(self) -> int:
        """Cells times orientations."""
        return (_SIDE // self.config.cell) ** 2 * _ORIENTATIONS

    @property
    def identity(self) -> str:
        """The descriptor is OpenCV's."""
        return f"OpenCV {cv2.__version__}"

    def encode(self, clips: Sequence[ClipInput]) -> list[NDArray[np.float32]]:
        """See the base class."""
        cv2.setNumThreads(1)
        cell, block = self.config.cell, 2 * self.config.cell
        descriptor = cv2.HOGDescriptor((_SIDE, _SIDE), (block, block), (block, block), (cell, cell), _ORIENTATIONS)
        return [
            np.stack([np.asarray(descriptor.compute(grey), np.float32).ravel() for grey in grey_faces(clip.faces)])
            for clip in clips
            if clip.faces is not None
        ]


def grey_faces(faces_FHWC: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Face crops as grey 64 x 64 pictures of equalised contrast."""
    small = [cv2.resize(face, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for face in faces_FHWC]
    return [np.asarray(cv2.equalizeHist(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)), np.uint8) for face in small]

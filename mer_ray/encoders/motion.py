"""How a face moves: dense optical flow between crops, and what brows, eyes and mouth do over time (P0: action cues).

Shapes: F face frames, G cells of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.types import Modality

_SIDE = 64
_MIN_GAP_SECONDS = 1e-3
_REGIONS = {
    "brows": np.s_[10:24, 10:54],
    "eyes": np.s_[20:34, 10:54],
    "nose": np.s_[30:44, 20:44],
    "mouth": np.s_[42:60, 14:50],
}
"""Rows and columns: where the parts lie in a 64 x 64 crop with a frontal face in its middle."""


class Config(base.Config):
    """How fine the flow is averaged."""

    grid: int = Field(4, ge=1, le=16, description="cells per side")


class Encoder(base.Encoder):
    """One row per clip, however long. A single frame has no motion, nor have black ones: flow and changes are zero.

    Per cell of the grid: mean of the horizontal and vertical flow, mean and standard deviation of its length, in face
    widths per second (Farneback 2003). Per region: mean and standard deviation over time of brightness, contrast and
    height of the dark parts, and mean and maximum of the change per second.
    """

    modality = Modality.VIDEO
    reads = ("faces",)
    version = 1
    config: Config

    @property
    def dim(self) -> int:
        """Four numbers of each cell, eight of each region."""
        return 4 * self.config.grid**2 + 8 * len(_REGIONS)

    @property
    def identity(self) -> str:
        """The flow is OpenCV's."""
        return f"OpenCV {cv2.__version__}"

    def encode(self, clips: Sequence[ClipInput]) -> list[NDArray[np.float32]]:
        """See the base class. Frames without times are taken to be 0.2 s apart."""
        cv2.setNumThreads(1)
        return [self._describe(clip.faces, clip.face_times) for clip in clips if clip.faces is not None]

    def _describe(self, faces_FHWC: NDArray[np.uint8], times_F: NDArray[np.float32] | None) -> NDArray[np.float32]:
        greys = [_grey(face) for face in faces_FHWC]
        times = np.arange(len(greys)) * 0.2 if times_F is None else times_F
        gaps = np.maximum(np.diff(times), _MIN_GAP_SECONDS)
        parts = [self._flow(greys, gaps), *(_region(greys, gaps, place) for place in _REGIONS.values())]
        return np.concatenate(parts).astype(np.float32)[None]

    def _flow(self, greys: list[NDArray[np.uint8]], gaps: NDArray[np.floating]) -> NDArray[np.float64]:
        grid = self.config.grid
        if len(greys) < 2:
            return np.zeros(4 * grid**2)
        cells = []
        for before, after, gap in zip(greys[:-1], greys[1:], gaps, strict=True):
            flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 9, 3, 5, 1.1, 0)
            cells.append(cv2.resize(flow, (grid, grid), interpolation=cv2.INTER_AREA).reshape(-1, 2) / (_SIDE * gap))
        flow_FG2 = np.stack(cells).astype(np.float64)
        length_FG = np.linalg.norm(flow_FG2, axis=2)
        return np.concatenate([*flow_FG2.mean(axis=0).T, length_FG.mean(axis=0), length_FG.std(axis=0)])


def _grey(face: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(cv2.resize(face, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return np.asarray(grey, np.uint8)


def _region(
    greys: list[NDArray[np.uint8]], gaps: NDArray[np.floating], place: tuple[slice, slice]
) -> NDArray[np.float64]:
    patches_FHW = np.stack([grey[place] for grey in greys]).astype(np.float64) / 255.0
    mean_F = patches_FHW.mean(axis=(1, 2))
    dark_FHW = np.maximum(mean_F[:, None, None] - patches_FHW, 0.0) + 1e-6
    rows = np.linspace(0.0, 1.0, patches_FHW.shape[1])
    height_F = (dark_FHW.sum(axis=2) * rows).sum(axis=1) / dark_FHW.sum(axis=(1, 2))
    signals = [mean_F, patches_FHW.std(axis=(1, 2)), height_F]
    moments = [moment for signal in signals for moment in (signal.mean(), signal.std())]
    change = np.abs(np.diff(patches_FHW, axis=0)).mean(axis=(1, 2)) / gaps if len(greys) > 1 else np.zeros(1)
    return np.array([*moments, change.mean(), change.max()])

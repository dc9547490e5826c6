"""One face track from the boxes of a clip's frames.

Shapes: F frames of the track; a box is left, top, width, height in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from mer_ray.detectors.base import Box

_MIN_OVERLAP = 0.2  # intersection over union that links a box to a track
_MAX_SHIFT = 0.6  # or: distance of the centres, in widths of the face
_MIN_SHARE = 0.1  # a face seen in fewer of the frames is a slip of the detector
_SMOOTHING = np.array([0.25, 0.5, 0.25])


@dataclass(frozen=True)
class Track:
    """One face over consecutive frames: ``frames`` int64 (F,), their indices, and ``boxes`` float32 (F, 4)."""

    frames: NDArray[np.int64]
    boxes: NDArray[np.float32]


@dataclass
class _Open:
    frames: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)

    @property
    def score(self) -> float:
        return sum(box.score for box in self.boxes)


def main_track(found: Sequence[Sequence[Box]], max_gap: int) -> Track | None:
    """The face that is seen longest and surest (highest sum of scores); None when none is in a tenth of the frames.

    Boxes are linked greedily, surest first, by overlap or nearness. Frames in which the face was missed, up to
    ``max_gap`` in a row, get interpolated boxes; then the boxes are smoothed over three frames.

    Args:
        found: per frame its boxes.
        max_gap: frames after which a lost face is another one.
    """
    tracks: list[_Open] = []
    for index, boxes in enumerate(found):
        free = [t for t in tracks if index - t.frames[-1] <= max_gap + 1]
        for box in sorted(boxes, key=lambda b: -b.score):
            near = [t for t in free if _linked(t.boxes[-1], box)]
            track = max(near, key=lambda t: _overlap(t.boxes[-1], box), default=None)
            if track is None:
                track = _Open()
                tracks.append(track)
            else:
                free.remove(track)
            track.frames.append(index)
            track.boxes.append(box)
    best = max(tracks, key=lambda t: (t.score, len(t.frames)), default=None)
    return _filled(best) if best and len(best.frames) >= _MIN_SHARE * len(found) else None


def crop(frame_HWC: NDArray[np.uint8], box: NDArray[np.float32], margin: float, size: int) -> NDArray[np.uint8]:
    """The square round a box, ``margin`` of its side wider, (size, size, 3), the frame's edge repeated beyond it."""
    left, top, width, height = (float(value) for value in box)
    side = max(2, round(max(width, height) * (1 + margin)))
    x, y = round(left + width / 2 - side / 2), round(top + height / 2 - side / 2)
    rows = np.clip(np.arange(y, y + side), 0, frame_HWC.shape[0] - 1)
    columns = np.clip(np.arange(x, x + side), 0, frame_HWC.shape[1] - 1)
    return resized(frame_HWC[rows[:, None], columns[None, :]], size)


def resized(image_HWC: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """An image as (size, size, 3), averaged when it shrinks."""
    shrinks = max(image_HWC.shape[:2]) > size
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image_HWC, (size, size), interpolation=interpolation), np.uint8)


def _linked(a: Box, b: Box) -> bool:
    shift = np.hypot(a.left + a.width / 2 - b.left - b.width / 2, a.top + a.height / 2 - b.top - b.height / 2)
    alike = 0.5 < b.width / a.width < 2.0
    return alike and (_overlap(a, b) >= _MIN_OVERLAP or bool(shift < _MAX_SHIFT * max(a.width, b.width)))


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
    height = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a.width * a.height + b.width * b.height - shared)


def _filled(track: _Open) -> Track:
    seen = np.array([[b.left, b.top, b.width, b.height] for b in track.boxes])
    frames = np.arange(track.frames[0], track.frames[-1] + 1)
    boxes = np.stack([np.interp(frames, track.frames, column) for column in seen.T], axis=1)
    padded = np.pad(boxes, ((1, 1), (0, 0)), mode="edge")
    smooth = sum(weight * padded[i : i + len(boxes)] for i, weight in enumerate(_SMOOTHING))
    return Track(frames.astype(np.int64), np.asarray(smooth, np.float32))

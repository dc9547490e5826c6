"""From a clip to the crops of one face: decode, detect, track, cut out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mer_ray import registry
from mer_ray.config import FacesConfig, MediaConfig
from mer_ray.data import arrays
from mer_ray.data.media import Frames, encode_jpeg, local_copy
from mer_ray.data.opening import open_beneath
from mer_ray.detectors.base import Detector
from mer_ray.errors import ClipError, Reason, machine_fault
from mer_ray.stages.base import Resources, Stage, absent, failed
from mer_ray.stages.decode import decoder, reading
from mer_ray.stages.isolate import attempt
from mer_ray.stages.limit import one_by_one
from mer_ray.stages.plugins import plugin_spec
from mer_ray.stages.tracks import crop, main_track, resized

READY_FPS = 25.0
"""Ready face arrays carry no times; the challenge's videos, from which MERTools cuts them, have this rate."""

_MARGIN = 0.2  # of the box's side, so that brows and chin are in the crop
_MAX_GAP_SECONDS = 1.0
_MAX_READY_SIDE = 1024


@dataclass(frozen=True)
class Faces:
    """The crops of one face, RGB uint8 (size, size, 3) each, their times, float32 (F,), and boxes, float32 (F, 4)."""

    crops: list[NDArray[np.uint8]]
    times: NDArray[np.float32]
    boxes: NDArray[np.float32] | None


class FacesStage(Stage):
    """Makes the ``faces`` table: square crops of the clip's main face at ``faces.fps``.

    A clip with no video stream, or no face in it, is absent. A clip with ready face arrays is not searched.

    Args:
        media: limits of decoding.
        faces: detector, rate and size.
        clip_seconds: time limit per clip.
    """

    name = "faces"
    version = 3
    reads = ("clip",)
    opens_media = True

    def __init__(self, media: MediaConfig, faces: FacesConfig, clip_seconds: float) -> None:
        self.media = media
        self.faces = faces
        self.resources = Resources.of(faces, batch_size=16, clip_seconds=clip_seconds)
        self._detector: Detector = registry.build("detectors", faces.detector.name, faces.detector.options)

    @property
    def columns(self) -> tuple[pa.Field, ...]:
        """JPEG crops of ``size`` x ``size``, their times in seconds, and their boxes in decoded pixels, four each."""
        return (
            pa.field("crops", pa.list_(pa.binary())),
            pa.field("times", pa.list_(pa.float32())),
            pa.field("boxes", pa.list_(pa.float32())),
            pa.field("size", pa.int32()),
        )

    @property
    def spec(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "version": self.version,
            "media": self.media.model_dump(mode="json"),
            "detector": plugin_spec(self.faces.detector.name, self._detector),
            "fps": self.faces.fps,
            "size": self.faces.size,
            "max_frames": self.faces.max_frames,
        }

    def setup(self) -> None:
        """Load the detector."""
        self._detector.load()

    def process(self, batch: pa.Table) -> pa.Table:
        """See the base class."""
        clips = one_by_one(batch.column("clip").to_pylist())
        return self.rows_to_table([self.row(clip["clip_id"], attempt(self.find, clip)) for clip in clips])

    def find(self, clip: Mapping[str, Any]) -> Faces | None:
        """The main face of a clip, or its ready one; None where it has neither.

        Raises:
            ClipError: the file cannot be read or decoded.
            MachineFault: see ``decode.reading``.
        """
        uri, root = clip["faces"] or clip["video"], clip.get("media_root")
        if not uri:
            return None
        with reading(clip, uri):
            if clip["faces"]:
                return self._ready(uri, root)
            frames = decoder(self.media).frames(uri, self.faces.fps, self.faces.max_frames, root)
        return self.search(frames)

    def search(self, frames: Frames | None) -> Faces | None:
        """The main face of a clip's frames; None where there are none, or no face in them."""
        if frames is None:
            return None
        gap = round(_MAX_GAP_SECONDS * self.faces.fps)
        track = main_track(self._detector.detect(frames.images), gap)
        if track is None:
            return None
        crops = [
            crop(frames.images[i], box, _MARGIN, self.faces.size)
            for i, box in zip(track.frames, track.boxes, strict=True)
        ]
        return Faces(crops, frames.times[track.frames], track.boxes)

    def _ready(self, uri: str, root: str | None) -> Faces:
        """Face arrays as MERTools writes them, as they are but for size and colour order."""
        with local_copy(uri, self.media.max_bytes) as path, open_beneath(path, root if path == uri else None) as file:
            faces_THWC = _load_array(file)
        chosen = np.unique(
            np.linspace(0, len(faces_THWC) - 1, min(len(faces_THWC), self.faces.max_frames)).round().astype(int)
        )
        crops = [resized(np.ascontiguousarray(faces_THWC[i][..., ::-1]), self.faces.size) for i in chosen]
        return Faces(crops, (chosen / READY_FPS).astype(np.float32), None)

    def row(self, clip_id: str, found: Faces | ClipError | None) -> dict[str, Any]:
        """The row of a clip, from what was found of it, or why nothing could be."""
        if isinstance(found, ClipError):
            return failed(clip_id, found)
        if found is None:
            return absent(clip_id)
        return {
            "clip_id": clip_id,
            "present": True,
            "crops": [encode_jpeg(image) for image in found.crops],
            "times": found.times,
            "boxes": None if found.boxes is None else found.boxes.ravel(),
            "size": self.faces.size,
        }


def _load_array(file: BinaryIO) -> NDArray[np.uint8]:
    """A uint8 (T, H, W, 3) array, mapped and not read, so that a header which lies about its size costs nothing.

    The file is not opened again by its name, which may mean another one by then; ``np.load`` would.

    Raises:
        ClipError: ``unreadable``, ``too_short`` or ``too_large``.
    """
    try:
        shape, is_fortran, dtype = arrays.read_header(file)
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise ClipError(Reason.UNREADABLE, f"face array {shape} of {dtype}: need uint8 (T, H, W, 3)")
        if 0 in shape:
            raise ClipError(Reason.TOO_SHORT, f"face array {shape} is empty")
        if max(shape[1:3]) > _MAX_READY_SIDE:
            raise ClipError(Reason.TOO_LARGE, f"faces of {shape[1:3]} pixels, the limit is {_MAX_READY_SIDE} a side")
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")
    except (OSError, ValueError, OverflowError) as error:
        if fault := machine_fault(error):
            raise fault from error
        raise ClipError(Reason.UNREADABLE, f"face array: {error}"[:500]) from error

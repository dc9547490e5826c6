"""What the stages that open media share: the decoder of this process, the clip's sound, and whom a lost file blames."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_ray.config import MediaConfig
from mer_ray.data.media import Decoder
from mer_ray.errors import ClipError, MachineFault, Reason
from mer_ray.types import SAMPLE_RATE_HZ

MIN_AUDIO_SECONDS = 0.1
"""Less sound than this holds no voice: the clip counts as one without audio."""

_SILENCE = 1.0 / 32768  # below the smallest step of 16-bit audio


@functools.cache
def decoder(media: MediaConfig) -> Decoder:
    """This process's decoder for these limits; its child ends with the process."""
    made = Decoder(media)
    atexit.register(made.close)
    return made


def clip_audio(clip: Mapping[str, Any], media: MediaConfig) -> NDArray[np.float32] | None:
    """The sound of a clip, from its audio file or else its video: float32 (S,), mono 16 kHz.

    None when it has neither, the file has no audio track, or there is nothing to hear.

    Raises:
        ClipError: the file cannot be decoded.
        MachineFault: see ``reading``.
    """
    uri = clip["audio"] or clip["video"]
    if not uri:
        return None
    with reading(clip, uri):
        return audible(decoder(media).audio(uri, clip.get("media_root")))


@contextmanager
def reading(clip: Mapping[str, Any], uri: str) -> Iterator[None]:
    """Read the file at ``uri`` in this.

    Raises:
        MachineFault: it is missing here, and the driver saw it.
    """
    try:
        yield
    except ClipError as error:
        if error.reason is Reason.MISSING_FILE and uri in (clip.get("seen") or ()):
            raise MachineFault(
                f"{uri} was there when the job began and is not on this node; its folder must be the same on every "
                "node (if it was deleted since, the next start counts it as missing)"
            ) from error
        raise


def audible(samples: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """A waveform, float32 (S,), or None where it is too short, digital silence, or not there."""
    if samples is None or len(samples) < MIN_AUDIO_SECONDS * SAMPLE_RATE_HZ or np.abs(samples).max() < _SILENCE:
        return None
    return samples

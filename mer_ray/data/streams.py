"""The sound of an opened media file, and how any of its streams is decoded: see ``data.frames`` for its pictures.

Imports numpy and PyAV alone, so that the sandbox's child starts quickly.

Shapes: S samples.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from mer_ray.data.containers import Limits, first_decodable, video_stream
from mer_ray.errors import ClipError, Reason
from mer_ray.types import SAMPLE_RATE_HZ

F = TypeVar("F", AudioFrame, VideoFrame)

MIN_SECONDS = 0.2
"""A damaged file is kept as far as it goes if that is at least this long."""

SLACK_SECONDS = 1.0
"""By how much a stream may outlast its limit while it is decoded."""

_MAX_SAMPLE_RATE_HZ = 1_000_000  # no recorder comes near; to resample from a rate that a header made up takes minutes
_MIX = {"rematrix_maxval": "1.0"}  # the mean of the channels: for float samples FFmpeg would amplify them by 1.4


class Tracks:
    """The audio track and the video stream of an opened container, which is read through once for both.

    What comes before the other is asked for waits for it in memory, undecoded: ask for the video, then for the sound,
    which takes less.

    Args:
        container: nothing has been read from it.
        audio, video: whether they are wanted.
    """

    def __init__(self, container: InputContainer, *, audio: bool = False, video: bool = False) -> None:
        self.audio: AudioStream | None = first_decodable(container.streams.audio) if audio else None
        self.video: VideoStream | None = video_stream(container) if video else None
        streams = [stream for stream in (self.audio, self.video) if stream and stream.codec_context]
        self._packets = container.demux(streams)
        self._waiting: dict[int, deque[Packet[Any]]] = {stream.index: deque() for stream in streams}
        self._error: av.FFmpegError | None = None

    def packets(self, stream: Stream) -> Iterator[Packet[Any]]:
        """The packets of one of the two; those that are not asked for before this is closed are not kept.

        Raises:
            av.FFmpegError: the container cannot be read on, for neither of the two.
        """
        index = stream.index
        waiting = self._waiting[index]
        try:
            while True:
                while waiting:
                    yield waiting.popleft()
                if self._error:
                    raise self._error
                if (packet := self._next()) is None:
                    return
                if packet.stream.index in self._waiting:
                    self._waiting[packet.stream.index].append(packet)
        finally:
            del self._waiting[index]

    def _next(self) -> Packet[Any] | None:
        try:
            return next(self._packets, None)
        except av.FFmpegError as error:
            self._error = error
            raise


def decode_audio(tracks: Tracks, limits: Limits) -> NDArray[np.float32] | None:
    """The first audio track with a decoder, float32 (S,), mono 16 kHz in [-1, 1]; None when there is none.

    Raises:
        ClipError: ``unreadable``, ``too_short``, ``too_long``, ``too_fast``, ``not_finite``.
    """
    stream = tracks.audio
    if stream is None:
        return None
    if stream.codec_context is None:
        raise ClipError(Reason.UNREADABLE, "no decoder for the audio track")
    damage: list[Exception] = []
    chunks: list[NDArray[np.float32]] = []
    room = int((limits.max_seconds + SLACK_SECONDS) * SAMPLE_RATE_HZ)
    for chunk in _resampled(decoded(tracks.packets(stream), stream, stream.decode, damage), damage):
        chunks.append(chunk)
        room -= len(chunk)
        if room < 0:
            raise ClipError(Reason.TOO_LONG, f"the audio track outlasts {limits.max_seconds:g} s")
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    check_length(len(samples) / SAMPLE_RATE_HZ, damage, "audio track")
    if not np.isfinite(samples).all():
        raise ClipError(Reason.NOT_FINITE, "the audio track holds NaN or infinite samples")
    return np.clip(samples, -1.0, 1.0)


def check_length(seconds: float, damage: list[Exception], what: str) -> None:
    """Whether enough of a stream was decoded.

    Raises:
        ClipError: ``unreadable``: it is damaged and ended early; ``too_short``: it is empty.
    """
    if damage and seconds < MIN_SECONDS:
        raise ClipError(Reason.UNREADABLE, f"the {what} is damaged after {seconds:.2f} s: {damage[0]}")
    if seconds == 0:
        raise ClipError(Reason.TOO_SHORT, f"the {what} is empty")


def decoded(
    packets: Iterator[Packet[Any]],
    stream: Stream,
    decode: Callable[[Packet[Any] | None], list[F]],
    damage: list[Exception],
) -> Iterator[F]:
    """The frames of a stream's packets.

    A packet that cannot be decoded is passed over, the demuxer's error ends the stream; both go into ``damage``.
    """
    stream.codec_context.thread_count = 1
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            _note(error, damage)
            return
        if packet is None:
            return
        try:
            frames = decode(packet)
        except av.FFmpegError as error:
            _note(error, damage)
            continue
        yield from frames


def _note(error: Exception, damage: list[Exception]) -> None:
    if isinstance(error, MemoryError):
        raise error
    damage.append(error)


def _resampled(frames: Iterator[AudioFrame], damage: list[Exception]) -> Iterator[NDArray[np.float32]]:
    """Frames as mono float32 at 16 kHz, with one resampler for each layout that the stream takes on."""
    for (_, _, rate), run in itertools.groupby(frames, key=lambda f: (f.format.name, f.layout.name, f.sample_rate)):
        if rate > _MAX_SAMPLE_RATE_HZ:
            raise ClipError(Reason.TOO_FAST, f"{rate} samples per second, the limit is {_MAX_SAMPLE_RATE_HZ}")
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ, options=_MIX)
        for frame in itertools.chain(run, [None]):
            try:
                parts = resampler.resample(frame)
            except av.FFmpegError as error:  # damaged frames can claim a layout that nothing mixes
                _note(error, damage)
                break
            yield from (part.to_ndarray()[0] for part in parts if part is not None)

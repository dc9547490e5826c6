"""Which frames of a video are decoded and kept: inside the sandbox's child process, see ``data.containers``.

Shapes: F frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from mer_ray.data.containers import Limits, check_pixels, opened, raise_too_fast
from mer_ray.data.streams import SLACK_SECONDS, Tracks, check_length, decoded
from mer_ray.errors import ClipError, Reason

MAX_SIDE = 640
"""Longest side of a decoded frame, pixels; larger ones are scaled down, so that a clip's frames fit in memory."""

_SKIPS_FROM = 3  # frames for each one wanted, from which on those that no other refers to are not decoded
_MOST_OFF_SECONDS = 0.1  # by how much a frame may then miss the time that one is wanted for
_ROUNDING_SECONDS = 1e-3  # of times in containers that count milliseconds
_LEAST_SECONDS = 1e-6  # times that differ by less are the same

Pictures = tuple[NDArray[np.uint8], NDArray[np.float32]]


def read_frames(file: BinaryIO, limits: Limits, fps: float, max_frames: int) -> Pictures | None:
    """Frames of the first video stream that there is a decoder for, about ``fps`` a second.

    At most ``max_frames``, evenly spaced. A cover picture is no video stream. Frames are turned upright and scaled down
    to ``MAX_SIDE``.

    Where the stream has three times as many frames or more, those that no other frame refers to are not decoded (of
    H.264 often half of them), and the nearest of the others are taken: each within a tenth of a second of the time that
    it is wanted for, or else every frame is decoded after all.

    Returns:
        RGB uint8 (F, H, W, 3) and seconds since the first frame, float32 (F,); None when there is no video.

    Raises:
        ClipError: what ``opened`` raises, or ``unreadable``, ``too_short``, ``too_long``, ``too_large``, ``too_fast``.
    """
    with suppress(TooFarApart), opened(file, limits) as (container, _):
        return decode_frames(Tracks(container, video=True), limits, fps, max_frames, may_skip=True)
    return read_every_frame(file, limits, fps, max_frames)


def read_every_frame(file: BinaryIO, limits: Limits, fps: float, max_frames: int) -> Pictures | None:
    """As ``read_frames``, but every frame is decoded."""
    with opened(file, limits) as (container, _):
        return decode_frames(Tracks(container, video=True), limits, fps, max_frames)


def decode_frames(
    tracks: Tracks, limits: Limits, fps: float, max_frames: int, *, may_skip: bool = False
) -> Pictures | None:
    """As ``read_frames``, of a file that is open; every frame is decoded unless ``may_skip``.

    Raises:
        ClipError: as there.
        TooFarApart: with ``may_skip``, where every frame must be decoded.
    """
    stream = tracks.video
    if stream is None:
        return None
    if stream.codec_context is None:
        raise ClipError(Reason.UNREADABLE, "no decoder for the video stream")
    stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
    keep = _nearest if may_skip and _rate(stream) >= _SKIPS_FROM * fps else _first_due
    kept = keep(tracks.packets(stream), stream, limits, _Wanted(fps, max_frames))
    chosen = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), max_frames)).round().astype(int))
    shape = kept[0][1].shape
    images = [kept[i][1] for i in chosen if kept[i][1].shape == shape]
    times = [kept[i][0] for i in chosen if kept[i][1].shape == shape]
    return np.stack(images), np.array(times, np.float32)


class TooFarApart(Exception):
    """The frames that others refer to do not show a video stream at all the times that are wanted."""


@dataclass(frozen=True)
class _Wanted:
    """How many frames of a stream: ``fps`` a second, and never ``2 * max_frames`` or more."""

    fps: float
    max_frames: int


def _first_due(
    packets: Iterator[Packet[Any]], stream: VideoStream, limits: Limits, wanted: _Wanted
) -> list[tuple[float, NDArray[np.uint8]]]:
    """Of all frames the first after each wanted time, with its seconds since the first of all.

    When there are too many, every other one goes, and the times wanted from then on are half as many.
    """
    damage: list[Exception] = []
    kept: list[tuple[float, NDArray[np.uint8]]] = []
    interval, due, end = 1.0 / wanted.fps, 0.0, 0.0
    for seconds, frame in _timed(decoded(packets, stream, stream.decode, damage), stream, limits):
        end = seconds
        if seconds + _LEAST_SECONDS < due:
            continue
        kept.append((seconds, _upright(frame)))
        due = max(due + interval, seconds - interval)
        if len(kept) >= 2 * wanted.max_frames:
            kept, interval = kept[::2], 2 * interval
            due = kept[-1][0] + interval
    check_length(end + 1 / _rate(stream) if kept else 0.0, damage, "video stream")
    return kept


def _nearest(
    packets: Iterator[Packet[Any]], stream: VideoStream, limits: Limits, wanted: _Wanted
) -> list[tuple[float, NDArray[np.uint8]]]:
    """As ``_first_due``, but of the frames that others refer to the nearest to each wanted time.

    Raises:
        TooFarApart: see there; or the stream is damaged, so that it cannot be told what was skipped.
    """
    stream.codec_context.skip_frame = "NONREF"
    damage: list[Exception] = []
    span, nearest = _Span(), _Nearest(wanted)
    for seconds, frame in _timed(decoded(span.of(packets), stream, stream.decode, damage), stream, limits):
        nearest.offer(seconds, frame)
    if damage:
        raise TooFarApart
    nearest.close(span)
    return nearest.kept


class _Span:
    """From when to when a stream's packets are shown, those that are not decoded too: seconds on the stream's clock."""

    def __init__(self) -> None:
        self.first, self.last = math.inf, -math.inf

    def of(self, packets: Iterator[Packet[Any]]) -> Iterator[Packet[Any]]:
        """Pass packets on.

        Raises:
            TooFarApart: one has no time.
        """
        for packet in packets:
            if packet.size and not packet.is_discard:
                if packet.pts is None:
                    raise TooFarApart
                time = float(packet.pts * packet.time_base)
                self.first, self.last = min(self.first, time), max(self.last, time)
            yield packet


class _Nearest:
    """Keeps the nearest frame to each wanted time, with its seconds since the first one.

    Raises:
        TooFarApart: none is near enough to one of the times; or frames have no times or go back in time.
    """

    def __init__(self, wanted: _Wanted) -> None:
        self.kept: list[tuple[float, NDArray[np.uint8]]] = []
        self._interval = 1.0 / wanted.fps
        self._most = 2 * wanted.max_frames
        self._most_off = min(_MOST_OFF_SECONDS, self._interval / 2) + _ROUNDING_SECONDS
        self._before: tuple[float, VideoFrame] | None = None

    @property
    def _due(self) -> float:
        return len(self.kept) * self._interval

    def offer(self, seconds: float, frame: VideoFrame) -> None:
        """Take the next frame."""
        before = self._before
        if frame.time is None or (before and frame.time <= (before[1].time or 0.0)):
            raise TooFarApart
        while self._due <= seconds:
            is_before_nearer = before and self._due - before[0] < seconds - self._due
            self._keep(*(before if before and is_before_nearer else (seconds, frame)))
        self._before = seconds, frame

    def close(self, span: _Span) -> None:
        """Take the last frame for what is wanted after it, as long as the stream lasts."""
        if self._before is None:
            raise TooFarApart
        seconds, frame = self._before
        start = (frame.time or 0.0) - seconds
        if span.first < start - _ROUNDING_SECONDS:  # what is shown first is not the first frame that was decoded
            raise TooFarApart
        while self._due <= span.last - start + _LEAST_SECONDS:
            self._keep(seconds, frame)

    def _keep(self, seconds: float, frame: VideoFrame) -> None:
        if abs(seconds - self._due) > self._most_off or (self.kept and seconds <= self.kept[-1][0]):
            raise TooFarApart
        self.kept.append((seconds, _upright(frame)))
        if len(self.kept) == self._most:
            self.kept, self._interval = self.kept[::2], 2 * self._interval


def _timed(frames: Iterator[VideoFrame], stream: VideoStream, limits: Limits) -> Iterator[tuple[float, VideoFrame]]:
    """Frames with their seconds since the first one, held to the limits whatever the headers said."""
    clock = _Clock(1 / _rate(stream))
    for count, frame in enumerate(frames):
        seconds = clock.seconds(frame.time)
        check_pixels(frame.width, frame.height, limits)
        if seconds > limits.max_seconds + SLACK_SECONDS:
            raise ClipError(Reason.TOO_LONG, f"the video stream outlasts {limits.max_seconds:g} s")
        if count > limits.max_frames_per_second * (seconds + SLACK_SECONDS):
            raise_too_fast(f"{count} frames in {seconds:.2f} s", limits)
        yield seconds, frame


def _rate(stream: VideoStream) -> float:
    """Frames per second; what most streams have where the headers do not say it."""
    return float(stream.average_rate or 25)


class _Clock:
    """Seconds since the first frame. A frame without a time follows the one before; so does a clock that is set back.

    Program streams leave times out, and files of either MPEG stream may be joined end to end, each with its own times.
    """

    def __init__(self, step: float) -> None:
        self._step = step
        self._last = -step
        self._start: float | None = None

    def seconds(self, time: float | None) -> float:
        if time is None:
            self._last += self._step
            return self._last
        if self._start is None or time - self._start < self._last - SLACK_SECONDS:
            self._start = time - (self._last + self._step)
        self._last = max(0.0, time - self._start)
        return self._last


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    scale = min(1.0, MAX_SIDE / max(frame.width, frame.height))
    width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    image = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA", threads=1).to_ndarray()
    degrees = frame.rotation if abs(frame.rotation) <= 360 else 0  # of a matrix of zeros FFmpeg makes -2**31
    return np.ascontiguousarray(np.rot90(image, round(degrees / 90)))

"""Decode an opened media file within limits: what runs inside the sandbox's child process.

Imports numpy and PyAV alone, so that a child starts quickly. Nothing but the given file object can be read: the
container format is pinned to what the first bytes say, and the demuxer's own opening of files and addresses is refused.

Shapes: S samples, F frames.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn, TypeVar

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from mer_ray.errors import ClipError, Reason
from mer_ray.types import SAMPLE_RATE_HZ

F = TypeVar("F", AudioFrame, VideoFrame)
S = TypeVar("S", bound=Stream)

MAX_SIDE = 640
"""Longest side of a decoded frame, pixels; larger ones are scaled down, so that a clip's frames fit in memory."""

MIN_SECONDS = 0.2
"""A damaged file is kept as far as it goes if that is at least this long."""

_MAX_SAMPLE_RATE_HZ = 1_000_000  # no recorder comes near; to resample from a rate that a header made up takes minutes
_SLACK_SECONDS = 1.0  # by how much a stream may outlast its limit while it is decoded
_GUESSED_DURATION = frozenset({"mp3", "aac"})  # their headers hold none: FFmpeg guesses from the bit rate
_TOLD_FROM_ZERO = frozenset({"matroska"})  # a clip cut out of a recording may keep its times, and begin late
_MIX = {"rematrix_maxval": "1.0"}  # the mean of the channels: for float samples FFmpeg would amplify them by 1.4

_FIRST_BYTES = {
    "matroska": rb"\x1a\x45\xdf\xa3",
    "mp4": rb".{4}(ftyp|moov|mdat|free|skip|wide|pnot|styp)",
    "avi": rb"RIFF.{4}AVI ",
    "wav": rb"(RIFF|RF64).{4}WAVE",
    "aiff": rb"FORM.{4}AIF[FC]",
    "flac": rb"fLaC",
    "ogg": rb"OggS",
    "flv": rb"FLV\x01",
    "asf": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",  # its header's GUID
    "mpegts": rb"(\x47.{187}){2}\x47|(.{4}\x47.{187}){2}.{4}\x47",  # packets of 188 bytes, or 192 in M2TS and AVCHD
    "mpeg": rb"\x00\x00\x01\xba[\x20-\x2f\x40-\x7f]",  # a pack of MPEG-1, or of MPEG-2
    "aac": rb"\xff[\xf0\xf1\xf8\xf9]",
    "mp3": rb"ID3|\xff[\xe0-\xff].",
}
"""What a file of each admitted format starts with, by FFmpeg's name of the format; the first that fits is it."""


@dataclass(frozen=True)
class Limits:
    """What of ``config.MediaConfig`` holds while decoding."""

    max_seconds: float
    max_pixels: int
    max_frames_per_second: float


@dataclass(frozen=True)
class Probe:
    """What a file's headers say; None where they do not say it."""

    container: str
    seconds: float | None
    has_audio: bool
    has_video: bool
    width: int | None = None
    height: int | None = None
    frames_per_second: float | None = None


def sniff(head: bytes) -> str:
    """FFmpeg's name of the container format that a file's first 512 bytes announce.

    Raises:
        ClipError: ``forbidden_format``, none of the admitted ones: playlists, ``concat`` lists, addresses, pictures.

    >>> sniff(b"RIFF....WAVEfmt ")
    'wav'
    """
    for name, start in _FIRST_BYTES.items():
        if re.match(start, head, re.DOTALL):
            return name
    raise ClipError(
        Reason.FORBIDDEN_FORMAT,
        f"the file starts with {head[:12]!r}; admitted are mp4, mov, matroska, webm, avi, mpg, ts, mts, flv, asf, wmv, "
        "wav, aiff, flac, mp3, aac, ogg",
    )


@contextmanager
def opened(file: BinaryIO, limits: Limits) -> Iterator[tuple[InputContainer, Probe]]:
    """Open a media file and hold its headers to the limits.

    Raises:
        ClipError: ``forbidden_format``, ``unreadable``, ``no_streams``, ``too_long``, ``too_large`` or ``too_fast``.
    """
    name = sniff(file.read(512))
    file.seek(0)
    options = {"protocol_whitelist": "none"}
    try:
        container = av.open(
            file, mode="r", format=name, options=options, metadata_errors="replace", io_open=_refuse_other_file
        )
    except (av.FFmpegError, ValueError) as error:
        _raise_unless_readable(error, f"the {name} headers are damaged")
    with container:
        probe = _probe(container, name)
        _check(probe, limits)
        yield container, probe


def decode_audio(container: InputContainer, limits: Limits) -> NDArray[np.float32] | None:
    """The first audio track with a decoder, float32 (S,), mono 16 kHz in [-1, 1]; None when there is none.

    Raises:
        ClipError: ``unreadable``, ``too_short``, ``too_long``, ``too_fast``, ``not_finite``.
    """
    stream = _first(container.streams.audio)
    if stream is None:
        return None
    if stream.codec_context is None:
        raise ClipError(Reason.UNREADABLE, "no decoder for the audio track")
    damage: list[Exception] = []
    chunks: list[NDArray[np.float32]] = []
    room = int((limits.max_seconds + _SLACK_SECONDS) * SAMPLE_RATE_HZ)
    for chunk in _resampled(_decoded(container, stream, stream.decode, damage), damage):
        chunks.append(chunk)
        room -= len(chunk)
        if room < 0:
            raise ClipError(Reason.TOO_LONG, f"the audio track outlasts {limits.max_seconds:g} s")
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    _check_length(len(samples) / SAMPLE_RATE_HZ, damage, "audio track")
    if not np.isfinite(samples).all():
        raise ClipError(Reason.NOT_FINITE, "the audio track holds NaN or infinite samples")
    return np.clip(samples, -1.0, 1.0)


def decode_frames(
    container: InputContainer, limits: Limits, fps: float, max_frames: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | None:
    """Frames of the first video stream that there is a decoder for, about ``fps`` a second.

    At most ``max_frames``, evenly spaced. A cover picture is no video stream. Frames are turned upright and scaled down
    to ``MAX_SIDE``.

    Returns:
        RGB uint8 (F, H, W, 3) and seconds since the first frame, float32 (F,); None when there is no video.

    Raises:
        ClipError: ``unreadable``, ``too_short``, ``too_long``, ``too_large``, ``too_fast``.
    """
    stream = _video_stream(container)
    if stream is None:
        return None
    if stream.codec_context is None:
        raise ClipError(Reason.UNREADABLE, "no decoder for the video stream")
    damage: list[Exception] = []
    kept: list[tuple[float, NDArray[np.uint8]]] = []
    interval, due, end = 1.0 / fps, 0.0, 0.0
    for seconds, frame in _timed(container, stream, limits, damage):
        end = seconds
        if seconds + 1e-6 < due:
            continue
        kept.append((seconds, _upright(frame)))
        due = max(due + interval, seconds - interval)
        if len(kept) >= 2 * max_frames:
            kept, interval = kept[::2], 2 * interval
            due = kept[-1][0] + interval
    _check_length(end + float(1 / (stream.average_rate or 25)) if kept else 0.0, damage, "video stream")
    chosen = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), max_frames)).round().astype(int))
    shape = kept[0][1].shape
    images = [kept[i][1] for i in chosen if kept[i][1].shape == shape]
    times = [kept[i][0] for i in chosen if kept[i][1].shape == shape]
    return np.stack(images), np.array(times, np.float32)


def _refuse_other_file(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise ClipError(Reason.FORBIDDEN_FORMAT, f"the file wants to open another one: {url[:100]!r}")


def _raise_unless_readable(error: Exception, what: str) -> NoReturn:
    if isinstance(error, MemoryError):
        raise error
    raise ClipError(Reason.UNREADABLE, f"{what}: {error}") from error


def _probe(container: InputContainer, name: str) -> Probe:
    streams = [*container.streams.audio, *container.streams.video]
    before = max(0, container.start_time or 0) if name in _TOLD_FROM_ZERO else 0
    ends = [(container.duration - before) / av.time_base] if container.duration else []
    ends += [float(s.duration * s.time_base) for s in streams if s.duration and s.time_base]
    video = _video_stream(container)
    sides = (video.codec_context.width, video.codec_context.height) if video and video.codec_context else (None, None)
    return Probe(
        container=name,
        seconds=max(ends) if ends and name not in _GUESSED_DURATION else None,
        has_audio=bool(container.streams.audio),
        has_video=video is not None,
        width=sides[0],
        height=sides[1],
        frames_per_second=float(video.average_rate) if video and video.average_rate else None,
    )


def _check(probe: Probe, limits: Limits) -> None:
    if not (probe.has_audio or probe.has_video):
        raise ClipError(Reason.NO_STREAMS, f"the {probe.container} file holds neither audio nor video")
    if probe.seconds and probe.seconds > limits.max_seconds:
        raise ClipError(Reason.TOO_LONG, f"{probe.seconds:.1f} s, the limit is {limits.max_seconds:g} s")
    if probe.width and probe.height:
        _check_pixels(probe.width, probe.height, limits)
    if probe.frames_per_second and probe.frames_per_second > limits.max_frames_per_second:
        _raise_too_fast(f"{probe.frames_per_second:g} frames per second", limits)


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise ClipError(
            Reason.TOO_LARGE, f"frames of {width} x {height} pixels, the limit is {limits.max_pixels} in all"
        )


def _raise_too_fast(what: str, limits: Limits) -> NoReturn:
    raise ClipError(Reason.TOO_FAST, f"{what}, the limit is {limits.max_frames_per_second:g} per second")


def _check_length(seconds: float, damage: list[Exception], what: str) -> None:
    if damage and seconds < MIN_SECONDS:
        raise ClipError(Reason.UNREADABLE, f"the {what} is damaged after {seconds:.2f} s: {damage[0]}")
    if seconds == 0:
        raise ClipError(Reason.TOO_SHORT, f"the {what} is empty")


def _video_stream(container: InputContainer) -> VideoStream | None:
    """The first video stream that is not a cover picture."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    return _first(s for s in container.streams.video if not s.disposition & pictures)


def _first(streams: Iterable[S]) -> S | None:
    """The first stream that there is a decoder for; else the first."""
    found = list(streams)
    return next((stream for stream in found if stream.codec_context), found[0] if found else None)


def _decoded(
    container: InputContainer, stream: Stream, decode: Callable[[Packet[Any] | None], list[F]], damage: list[Exception]
) -> Iterator[F]:
    """The stream's frames. A packet that cannot be decoded is passed over, the demuxer's error ends the stream."""
    stream.codec_context.thread_count = 1
    packets = container.demux(stream)
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


def _timed(
    container: InputContainer, stream: VideoStream, limits: Limits, damage: list[Exception]
) -> Iterator[tuple[float, VideoFrame]]:
    """Frames with their seconds since the first one, held to the limits whatever the headers said."""
    stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
    clock = _Clock(float(1 / (stream.average_rate or 25)))
    for count, frame in enumerate(_decoded(container, stream, stream.decode, damage)):
        seconds = clock.seconds(frame.time)
        _check_pixels(frame.width, frame.height, limits)
        if seconds > limits.max_seconds + _SLACK_SECONDS:
            raise ClipError(Reason.TOO_LONG, f"the video stream outlasts {limits.max_seconds:g} s")
        if count > limits.max_frames_per_second * (seconds + _SLACK_SECONDS):
            _raise_too_fast(f"{count} frames in {seconds:.2f} s", limits)
        yield seconds, frame


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
        if self._start is None or time - self._start < self._last - _SLACK_SECONDS:
            self._start = time - (self._last + self._step)
        self._last = max(0.0, time - self._start)
        return self._last


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    scale = min(1.0, MAX_SIDE / max(frame.width, frame.height))
    width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    image = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA", threads=1).to_ndarray()
    degrees = frame.rotation if abs(frame.rotation) <= 360 else 0  # of a matrix of zeros FFmpeg makes -2**31
    return np.ascontiguousarray(np.rot90(image, round(degrees / 90)))

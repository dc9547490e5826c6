"""Open a media file within limits: what runs inside the sandbox's child process. ``data.streams`` decodes it.

Imports PyAV alone, so that a child starts quickly. Nothing but the given file object can be read: the container format
is pinned to what the first bytes say, and the demuxer's own opening of files and addresses is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NoReturn, TypeVar

import av
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from mer_ray.errors import ClipError, Reason

S = TypeVar("S", bound=Stream)

_GUESSED_DURATION = frozenset({"mp3", "aac"})  # their headers hold none: FFmpeg guesses from the bit rate
_TOLD_FROM_ZERO = frozenset({"matroska"})  # a clip cut out of a recording may keep its times, and begin late

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
    file.seek(0)  # it may have been opened before
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
    video = video_stream(container)
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
        check_pixels(probe.width, probe.height, limits)
    if probe.frames_per_second and probe.frames_per_second > limits.max_frames_per_second:
        raise_too_fast(f"{probe.frames_per_second:g} frames per second", limits)


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Hold a frame's size to the limit.

    Raises:
        ClipError: ``too_large``.
    """
    if width * height > limits.max_pixels:
        raise ClipError(
            Reason.TOO_LARGE, f"frames of {width} x {height} pixels, the limit is {limits.max_pixels} in all"
        )


def raise_too_fast(what: str, limits: Limits) -> NoReturn:
    """Refuse a stream for its frames per second.

    Raises:
        ClipError: ``too_fast``.
    """
    raise ClipError(Reason.TOO_FAST, f"{what}, the limit is {limits.max_frames_per_second:g} per second")


def video_stream(container: InputContainer) -> VideoStream | None:
    """The first video stream that there is a decoder for; a cover picture is none. None where there is no video."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    return first_decodable(s for s in container.streams.video if not s.disposition & pictures)


def first_decodable(streams: Iterable[S]) -> S | None:
    """The first of these streams that there is a decoder for; else the first; None where there are none."""
    found = list(streams)
    return next((stream for stream in found if stream.codec_context), found[0] if found else None)

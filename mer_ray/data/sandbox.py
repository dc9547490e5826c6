"""The child process that decodes media, so that a file which breaks the decoder breaks nothing else.

``python -m mer_ray.data.sandbox MEMORY_BYTES`` answers requests on its standard input until that is closed;
``data.media`` is the other end. A message is its length (four bytes) and JSON; the arrays follow it as raw bytes.
Nothing is pickled: a decoder taken over by a hostile file can answer nonsense, but cannot make the worker run code.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any, BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from mer_ray.data.containers import Limits, opened
from mer_ray.data.frames import Pictures, TooFarApart, decode_frames, read_every_frame, read_frames
from mer_ray.data.opening import open_beneath
from mer_ray.data.streams import Tracks, decode_audio
from mer_ray.errors import ClipError, NoMemoryFault, Reason, machine_fault

_LENGTH = struct.Struct("<I")
_MAX_MESSAGE_BYTES = 2**20
_GRACE_SECONDS = 10.0  # the worker ends a slow child; this ends one whose worker is gone

Message = tuple[dict[str, Any], list[NDArray[Any]]]
Answer = tuple[dict[str, Any] | None, list[NDArray[Any]]]


def send(pipe: IO[bytes], message: dict[str, Any], arrays: list[NDArray[Any]]) -> None:
    """Write a message and the arrays that belong to it."""
    shapes = [[array.dtype.str, list(array.shape)] for array in arrays]
    text = json.dumps({**message, "arrays": shapes}).encode()
    pipe.write(_LENGTH.pack(len(text)))
    pipe.write(text)
    for array in arrays:
        pipe.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    pipe.flush()


def receive(pipe: IO[bytes], max_bytes: int) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Read what ``send`` wrote.

    Raises:
        EOFError: the other end is gone.
        ValueError: the message is malformed, or its arrays are larger than ``max_bytes``.
    """
    length = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))[0]
    if length > _MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {length} bytes")
    message = json.loads(_exactly(pipe, length))
    arrays = []
    for code, shape in message.pop("arrays"):
        array: NDArray[Any] = np.empty(0, np.dtype(code))
        num_bytes = array.itemsize * int(np.prod(shape, dtype=object))
        if array.dtype.kind not in "uif" or not 0 <= num_bytes <= max_bytes:
            raise ValueError(f"the decoder answered with an array of {num_bytes} bytes")
        arrays.append(np.frombuffer(_exactly(pipe, num_bytes), array.dtype).reshape(shape))
    return message, arrays


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until the other end is closed."""
    send(answers, {"ready": True}, [])
    while True:
        try:
            request, _ = receive(requests, max_bytes=0)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, request["seconds"] + _GRACE_SECONDS)
        message, arrays = _told(functools.partial(answer, request))
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(answers, message, arrays)


def main() -> None:
    """Limit this process, then serve; FFmpeg's own words go to the standard error stream, never among the answers."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory_bytes = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    serve(sys.stdin.buffer, answers)


def _told(act: Callable[[], Answer]) -> Message:
    """What ``act`` returns, or why it could not."""
    try:
        value, arrays = act()
    except ClipError as error:
        return {"error": [error.reason, error.detail]}, []
    except (MemoryError, OSError, ValueError, av.FFmpegError) as error:
        return _why_not(error), []
    return {"value": value}, arrays


def answer(request: dict[str, Any]) -> Answer:
    """Do what ``data.media`` asks for: what was found, or None, and the arrays that belong to it.

    Raises:
        ClipError, MemoryError, OSError, ValueError, av.FFmpegError: nothing can be told of the file.
    """
    limits = Limits(**request["limits"])
    with open_beneath(request["path"], request["root"]) as file:
        if request["kind"] == "both":
            return _both(file, limits, request["fps"], request["max_frames"])
        if request["kind"] == "frames":
            return _pictures(read_frames(file, limits, request["fps"], request["max_frames"]))
        with opened(file, limits) as (container, probe):
            if request["kind"] == "probe":
                return asdict(probe), []
            return _sound(decode_audio(Tracks(container, audio=True), limits))


def _both(file: BinaryIO, limits: Limits, fps: float, max_frames: int) -> Answer:
    """The answers about frames and about sound, each with the number of its arrays, of a file that is read once."""
    with opened(file, limits) as (container, _):
        tracks, seen = Tracks(container, audio=True, video=True), None
        with suppress(TooFarApart):
            seen = _told(lambda: _pictures(decode_frames(tracks, limits, fps, max_frames, may_skip=True)))
        heard = _told(lambda: _sound(decode_audio(tracks, limits)))
    if seen is None:
        seen = _told(lambda: _pictures(read_every_frame(file, limits, fps, max_frames)))
    parts = {"audio": heard, "frames": seen}
    value = {name: {**message, "num_arrays": len(arrays)} for name, (message, arrays) in parts.items()}
    return value, [*heard[1], *seen[1]]


def _sound(samples: NDArray[np.float32] | None) -> Answer:
    return (None, []) if samples is None else ({}, [samples])


def _pictures(found: Pictures | None) -> Answer:
    return (None, []) if found is None else ({}, list(found))


def _why_not(error: Exception) -> dict[str, Any]:
    """Whom an error blames. FFmpeg's own numbers are those of the system, and all but memory's tell of the file."""
    is_of_file = isinstance(error, av.FFmpegError) and not isinstance(error, MemoryError)
    fault = None if is_of_file else machine_fault(error)
    if isinstance(fault, NoMemoryFault):
        return {"error": [Reason.OUT_OF_MEMORY, "decoding takes more than decode_memory_bytes"]}
    return {"error": [Reason.UNREADABLE, str(error)]} if fault is None else {"fault": str(fault)}


def _exactly(pipe: IO[bytes], num_bytes: int) -> bytes:
    data = pipe.read(num_bytes)
    if len(data) < num_bytes:
        raise EOFError("the other end of the pipe is gone")
    return data


if __name__ == "__main__":
    main()

"""Media in and out: clips decoded in a process of their own, and the small formats that tables hold.

Shapes: S samples, F frames.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self

import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray

from mer_ray.config import MediaConfig
from mer_ray.data.containers import Limits, Probe
from mer_ray.data.sandbox import receive, send
from mer_ray.data.storage import Store
from mer_ray.errors import ClipError, MachineFault, Reason, machine_fault
from mer_ray.types import SAMPLE_RATE_HZ

_JPEG_QUALITY = 92
_START_SECONDS = 120.0  # to start the child on a machine that is busy
_TRIES = 2  # a child may also be slow or die for its neighbours' sins, so the clip is tried once more
_KILLED = (-signal.SIGKILL, -signal.SIGTERM)  # by somebody else: no decoder ends so by itself
_EXIT_SECONDS = 5.0
_OF_THE_CHILD = frozenset({Reason.TIMEOUT, Reason.CRASHED, Reason.OUT_OF_MEMORY})  # of all that it was asked for
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")  # no credentials reach the child

Message = tuple[dict[str, Any], list[NDArray[Any]]]
Answer = tuple[dict[str, Any] | None, list[NDArray[Any]]]


@dataclass(frozen=True)
class Frames:
    """Frames of one clip: ``images`` RGB uint8 (F, H, W, 3), ``times`` float32 (F,), seconds since the first frame."""

    images: NDArray[np.uint8]
    times: NDArray[np.float32]


class Decoder:
    """Decodes clips within ``media``'s limits, in one child process that is started on demand and whenever it has died.

    Addresses are local paths or ``s3://``. A local file that lies outside ``root`` when it is opened is refused; None
    admits it anywhere. Usable from several threads, one clip at a time. Pickles as its limits.

    Raises (``probe``, ``audio``, ``frames``, ``audio_and_frames``):
        ClipError: the clip cannot be decoded; ``errors.Reason`` from ``missing_file`` to ``not_finite``.
        MachineFault: the clip is not to blame: the bucket or disk cannot be read, or the child does not start or was
            killed by somebody else.
    """

    def __init__(self, media: MediaConfig) -> None:
        self.media = media
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Decoder], tuple[MediaConfig]]:
        return type(self), (self.media,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def probe(self, uri: str, root: str | None = None) -> Probe:
        """What the file's headers say, once they are within the limits."""
        value, _ = self._ask(uri, root, {"kind": "probe"})
        return Probe(**(value or {}))

    def audio(self, uri: str, root: str | None = None) -> NDArray[np.float32] | None:
        """The audio track, float32 (S,), mono 16 kHz in [-1, 1]; None when the file has none."""
        return _samples(*self._ask(uri, root, {"kind": "audio"}))

    def frames(self, uri: str, fps: float, max_frames: int, root: str | None = None) -> Frames | None:
        """About ``fps`` frames a second, at most ``max_frames``, sides up to 640 pixels; None without video."""
        return _frames(*self._ask(uri, root, {"kind": "frames", "fps": fps, "max_frames": max_frames}))

    def audio_and_frames(
        self, uri: str, fps: float, max_frames: int, root: str | None = None
    ) -> tuple[NDArray[np.float32] | ClipError | None, Frames | ClipError | None]:
        """What ``audio`` and ``frames`` return, of a file that is fetched, opened and read once.

        What is wrong with one of the two stands in its place; what is wrong with the whole file is raised. Where the
        child is too slow, dies or lacks memory over both, each is asked for alone, so that the other is not blamed.
        """
        pictures = {"fps": fps, "max_frames": max_frames}
        with self._file(uri, root) as file:
            parts = self._parts(uri, {**file, "kind": "both", **pictures})
            heard = self._part(uri, parts, {**file, "kind": "audio"})
            seen = self._part(uri, parts, {**file, "kind": "frames", **pictures})
        return (
            heard if isinstance(heard, ClipError) else _samples(*heard),
            seen if isinstance(seen, ClipError) else _frames(*seen),
        )

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._child.pid if self._child and self._child.poll() is None else None

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _ask(self, uri: str, root: str | None, request: dict[str, Any]) -> Answer:
        with self._file(uri, root) as file:
            return self._answer(uri, {**file, **request})

    @contextmanager
    def _file(self, uri: str, root: str | None) -> Iterator[dict[str, Any]]:
        """What every question about a file says, while it is here and this thread has the child."""
        limits = Limits(self.media.max_seconds, self.media.max_pixels, self.media.max_frames_per_second)
        with self._lock, local_copy(uri, self.media.max_bytes) as path:
            yield {
                "path": path,
                "root": root if path == uri else None,
                "limits": asdict(limits),
                "seconds": self.media.decode_seconds,
            }

    def _answer(self, uri: str, request: dict[str, Any], tries: int = _TRIES) -> Answer:
        for attempt in range(1, tries + 1):
            try:
                message, arrays = self._exchange(request)
                break
            except (ClipError, MachineFault):
                if attempt == tries:
                    raise
        return _value(uri, message), arrays

    def _part(self, uri: str, parts: Mapping[str, Message], request: dict[str, Any]) -> Answer | ClipError:
        """One of the parts, or the answer to a request for it alone."""
        try:
            if request["kind"] in parts:
                message, arrays = parts[request["kind"]]
                return _value(uri, message), arrays
            return self._answer(uri, request)
        except ClipError as error:
            return error

    def _parts(self, uri: str, request: dict[str, Any]) -> dict[str, Message]:
        """The message and the arrays about sound and about frames; of what must be asked for alone there is none."""
        try:
            told, arrays = self._answer(uri, request, tries=1)
        except (ClipError, MachineFault) as error:
            if isinstance(error, ClipError) and error.reason not in _OF_THE_CHILD:
                raise
            return {}
        parts = {}
        for kind, message in (told or {}).items():
            own, arrays = arrays[: message["num_arrays"]], arrays[message["num_arrays"] :]
            if message.get("error", [None])[0] not in _OF_THE_CHILD:
                parts[kind] = message, own
        return parts

    def _exchange(self, request: dict[str, Any]) -> Message:
        """One question and its answer; a child that is too slow is killed, and one that died is gone after this."""
        child = self._child if self.pid is not None else None
        if child is None:
            child = self._start()
        return self._timed(child, request, request["seconds"])

    def _start(self) -> subprocess.Popen[bytes]:
        self.close()
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "mer_ray.data.sandbox", str(self.media.decode_memory_bytes)]
        try:
            self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            self._timed(self._child, None, _START_SECONDS)
        except (OSError, ClipError) as error:
            raise MachineFault(f"the decoder's process does not start: {error}") from error
        return self._child

    def _timed(self, child: subprocess.Popen[bytes], request: dict[str, Any] | None, seconds: float) -> Message:
        late = threading.Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            if child.stdin is None or child.stdout is None:
                raise EOFError("the child has no pipes")
            if request is not None:
                send(child.stdin, request, [])
            return receive(child.stdout, self.media.decode_memory_bytes)
        except (OSError, EOFError, ValueError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_EXIT_SECONDS)
            code = child.returncode
            self.close()
            if late.is_set():
                raise ClipError(Reason.TIMEOUT, f"decoding took more than {seconds:g} s") from error
            if code in _KILLED:
                raise MachineFault(f"the decoder's process was killed from outside (signal {-code})") from error
            raise ClipError(Reason.CRASHED, f"the decoder's process died ({code}): {error}") from error
        finally:
            timer.cancel()


def _value(uri: str, message: dict[str, Any]) -> dict[str, Any] | None:
    """What the child found.

    Raises:
        ClipError, MachineFault: why it found nothing.
    """
    if "fault" in message:
        raise MachineFault(f"{uri}: {message['fault']}")
    if "error" in message:
        reason, detail = message["error"]
        raise ClipError(Reason(reason), detail)
    value: dict[str, Any] | None = message["value"]
    return value


def _samples(value: dict[str, Any] | None, arrays: list[NDArray[Any]]) -> NDArray[np.float32] | None:
    return None if value is None else arrays[0]


def _frames(value: dict[str, Any] | None, arrays: list[NDArray[Any]]) -> Frames | None:
    return None if value is None else Frames(*arrays)


@contextmanager
def local_copy(uri: str, max_bytes: int) -> Iterator[str]:
    """A local path of the file at ``uri``; an object of a bucket is fetched into a temporary file.

    Raises:
        ClipError: ``missing_file``, ``empty_file``, ``too_large``, ``unreadable``, ``forbidden_format`` (not plain).
        MachineFault: the disk or bucket cannot be read, or there is no room for the copy.
    """
    scheme, separator, _ = uri.partition("://")
    if not separator:
        _check_size(uri, _local_size(uri), max_bytes)
        yield uri
        return
    if scheme != "s3":
        raise ClipError(Reason.FORBIDDEN_FORMAT, f"{uri}: only local paths and s3:// are read")
    folder, _, name = uri.rpartition("/")
    store = Store(folder)
    with _room(uri) as path:
        try:
            store.download(name, path, lambda size: _check_size(uri, size, max_bytes))
        except FileNotFoundError as error:
            raise ClipError(Reason.MISSING_FILE, f"{uri} does not exist") from error
        yield path


def encode_flac(samples: NDArray[np.float32]) -> bytes:
    """Mono 16 kHz float32 (S,) in [-1, 1] as 16-bit FLAC."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_flac(data: bytes) -> NDArray[np.float32]:
    """What ``encode_flac`` wrote, float32 (S,).

    Raises:
        ClipError: ``unreadable``.
    """
    try:
        samples, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise ClipError(Reason.UNREADABLE, f"stored audio: {error}") from error
    return np.asarray(samples, np.float32)


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """RGB uint8 (H, W, 3) as JPEG, quality 92."""
    bgr = np.ascontiguousarray(image[..., ::-1])
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1])


def decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """A JPEG as RGB uint8 (H, W, 3).

    Raises:
        ClipError: ``unreadable``.
    """
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if bgr is None:
        raise ClipError(Reason.UNREADABLE, "stored picture: no JPEG")
    return np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8, copy=False)


@contextmanager
def _room(uri: str) -> Iterator[str]:
    """The path of an empty temporary file."""
    try:
        file = tempfile.NamedTemporaryFile(prefix="mer_ray-")  # noqa: SIM115 - only its making may fail so
    except OSError as error:
        raise MachineFault(f"no temporary file for {uri} in {tempfile.gettempdir()}: {error}") from error
    with file:
        yield file.name


def _local_size(path: str) -> int:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ClipError(Reason.MISSING_FILE, f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        if fault := machine_fault(error):
            raise fault from error
        raise ClipError(Reason.UNREADABLE, f"{path}: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ClipError(Reason.FORBIDDEN_FORMAT, f"{path} is no plain file")
    return status.st_size


def _check_size(uri: str, num_bytes: int, max_bytes: int) -> None:
    if num_bytes == 0:
        raise ClipError(Reason.EMPTY_FILE, f"{uri} has 0 bytes")
    if num_bytes > max_bytes:
        raise ClipError(Reason.TOO_LARGE, f"{uri} has {num_bytes} bytes, the limit is {max_bytes}")

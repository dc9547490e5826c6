"""One tree of exceptions, and whom each blames. Every message says what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import re
from enum import StrEnum
from http import HTTPStatus

from botocore.exceptions import BotoCoreError, ClientError

_MACHINE_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "ENXIO", "ENODEV", "EREMOTEIO", "EUCLEAN"),
        *("EMFILE", "ENFILE", "EAGAIN", "EBUSY", "ENOLCK", "ENOBUFS", "EACCES", "EPERM"),
        *("ETIMEDOUT", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
    )
    if hasattr(errno, name)
)
_BROKEN_DEVICE = re.compile(r"\b(CUDA|HIP)( driver)? error|\b(cuDNN|cuBLAS|cuFFT|NCCL)(_STATUS| error)", re.IGNORECASE)


class MerRayError(Exception):
    """Anything this package raises on purpose. ``exit_code`` is what a job ends with (DESIGN section 3)."""

    exit_code = 1


class InputError(MerRayError):
    """The user's input cannot be used as it is; nothing has been started."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration file or override is wrong."""


class ManifestError(InputError):
    """A manifest or folder layout is refused whole; the message lists rows and reasons."""


class FeatureFileError(InputError):
    """A ready-made feature file cannot be used."""


class PluginError(InputError):
    """A plug-in is unknown, or lacks a dependency or its weights."""


class NotHereError(PluginError):
    """Weights are not on this machine, and were not to be fetched; see ``pretrained.weights.only_here``."""


class ShapeError(MerRayError, ValueError):
    """Arrays of a shape or type that the called function does not take."""


class MachineFault(MerRayError):
    """The machine failed, through no fault of a clip: no row is written, and the work is done again elsewhere."""


class NoMemoryFault(MachineFault):
    """A process has no memory left. A batch may be too large for it; of a clip alone see ``runtime.worker``."""


class StorageError(MachineFault):
    """A disk or bucket refused a read or a write after retries; the run can be continued once it is well."""


class CorruptPartError(StorageError):
    """A part or result file is truncated or altered.

    ``step`` names the table whose part it was, which is out of sight now, so that its rows can be made again.
    """

    def __init__(self, message: str, step: str = "") -> None:
        super().__init__(message)
        self.step = step

    def __reduce__(self) -> tuple[type[CorruptPartError], tuple[str, str]]:
        """Pickle with the step."""
        return type(self), (str(self), self.step)


class MaterialiseError(MerRayError):
    """A step could not finish; what is committed stays, and the same command continues."""


class LearnerError(MerRayError):
    """A learner failed, or a round has too few of them left."""


class SubmissionError(InputError):
    """Predictions and the candidates' list do not match one to one."""


class Reason(StrEnum):
    """Why one clip lost one modality: the ``error`` column of tables and of ``quarantine.parquet``."""

    MISSING_FILE = "missing_file"
    EMPTY_FILE = "empty_file"
    FORBIDDEN_FORMAT = "forbidden_format"
    UNREADABLE = "unreadable"
    NO_STREAMS = "no_streams"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    TOO_LARGE = "too_large"
    TOO_FAST = "too_fast"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    OUT_OF_MEMORY = "out_of_memory"
    NOT_FINITE = "not_finite"
    BAD_TEXT = "bad_text"
    NO_MODALITY = "no_modality"
    FAILED = "failed"


class ClipError(MerRayError):
    """One clip cannot be processed; it is quarantined with this reason and the others go on."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[ClipError], tuple[Reason, str]]:
        """Pickle by reason and detail: the message alone would not rebuild the exception."""
        return type(self), (self.reason, self.detail)


def machine_fault(error: BaseException) -> MachineFault | None:
    """What ``error`` tells of the machine; None where it, and all that it was raised from, may be the input's fault.

    The machine's are: a disk that is full or broken, too many open files, no memory, a refusal or a failure of S3, a
    network that is gone, a GPU whose context is dead. A GPU on which a batch finds no room is not broken.

    >>> machine_fault(OSError(errno.EMFILE, "Too many open files"))
    MachineFault('[Errno 24] Too many open files')
    >>> machine_fault(ValueError("no video"))
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ClipError):
            return None
        if isinstance(link, MachineFault):
            return link
        if isinstance(link, BotoCoreError) or _broke_off(link) or _refused_or_failed(link):
            return StorageError(f"{type(link).__name__}: {link}")
        if isinstance(link, MemoryError) or getattr(link, "errno", None) == errno.ENOMEM:
            return NoMemoryFault(str(link) or "out of memory")
        if _is_of_the_system(link) or _is_of_the_device(link):
            return MachineFault(str(link) or type(link).__name__)
        link = link.__cause__
    return None


def _broke_off(error: BaseException) -> bool:
    """Whether an answer of S3 did; told by the module, since importing these takes the decoder's process long."""
    return type(error).__module__.partition(".")[0] == "aiohttp" or type(error).__name__ == "ResponseParserError"


def _refused_or_failed(error: BaseException) -> bool:
    if not isinstance(error, ClientError):
        return False
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return status == HTTPStatus.FORBIDDEN or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _is_of_the_system(error: BaseException) -> bool:
    """``PermissionError`` and the like may come without a number, from s3fs."""
    if isinstance(error, PermissionError | ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS


def _is_of_the_device(error: BaseException) -> bool:
    """PyTorch has no class of its own for it in every version; ``OutOfMemoryError`` is one of ``RuntimeError`` too."""
    if type(error).__name__ == "OutOfMemoryError" or "ALLOC_FAILED" in str(error):
        return False
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and _BROKEN_DEVICE.search(str(error)) is not None
    )

"""One tree of exceptions. Every message says what is wrong, where, and what to do."""

from __future__ import annotations

from enum import StrEnum


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


class StorageError(MerRayError):
    """A disk or bucket refused a read or a write after retries; the run can be continued once it is well."""


class CorruptPartError(StorageError):
    """A part or result file is truncated or altered."""


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

"""What every plug-in that turns data into other data shares: options, what its results depend on, loading."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of a plug-in's ``Config``."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Plugin:
    """Base of encoders, separators, recognisers, punctuators and detectors.

    Class attributes:
        version: raised when the same input would give another result.
        licence: of the code and data inside, for ``jobs/extract.py --list``; weights have their own.
        batch_size: clips that are worth one call, and so one Parquet part, by default.
    """

    version: ClassVar[int]
    licence: ClassVar[str] = "Apache-2.0"
    batch_size: ClassVar[int] = 16

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def identity(self) -> str:
        """What the result depends on beside config and version: model id, revision, digest of the weights."""
        return "no weights"

    @property
    def dtype(self) -> str:
        """The precision of its arithmetic: ``float32`` or ``bfloat16``."""
        return "float32"

    @property
    def spec_options(self) -> dict[str, Any]:
        """The options that the result depends on, JSON-able: part of a table's digest."""
        return self.config.model_dump(mode="json")

    def load(self) -> None:
        """Load the model, once per process, before the first use; most light plug-ins have none."""

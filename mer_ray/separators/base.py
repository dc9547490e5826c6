"""What a source separator is: one noisy waveform in, two mono streams out (P1 section 2.4.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every separator's ``Config``."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Separator(ABC):
    """Splits a waveform into two streams of the same length. Which is the speech is not known to it."""

    version: ClassVar[int]

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def identity(self) -> str:
        """What the result depends on beside config and version: model id, revision, digest of the weights."""
        return "no weights"

    def load(self) -> None:  # noqa: B027 - optional
        """Load the model, once per process."""

    @abstractmethod
    def separate(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Per waveform (S,), 16 kHz float32, its two streams as float32 (2, S)."""

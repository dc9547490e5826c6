"""What a speech recogniser is: waveforms in, transcripts out (P1 section 2.4.1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every recogniser's ``Config``."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Transcript:
    """Recognised words, and the recogniser's own confidence in [0, 1]."""

    text: str
    confidence: float


class Recogniser(ABC):
    """Turns 16 kHz speech into text. Silence gives an empty text."""

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
    def transcribe(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Transcript]:
        """One transcript per waveform (S,), float32 mono 16 kHz."""

"""A recogniser with the voice gate before it, and its transcripts as columns of a table.

Shapes: S samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mer_ray.config import PluginConfig
from mer_ray.recognisers.base import Recogniser, Segment, Transcript
from mer_ray.speech.gate import Gate
from mer_ray.stages.plugins import build, plugin_spec

SEGMENTS = pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64()), ("text", pa.string())]))
TRANSCRIPT = pa.struct(
    [
        ("text", pa.string()),
        ("confidence", pa.float64()),
        ("score", pa.float64()),
        ("language", pa.string()),
        ("segments", SEGMENTS),
    ]
)
"""A ``Transcript`` as a column."""


class Hearing:
    """What is said in waveforms. In one that holds no voice nothing is: noise never becomes words.

    Args:
        recogniser: the plug-in.
        gpus: of the worker it runs in.

    Raises:
        ConfigError, PluginError: see ``registry.build``.
    """

    def __init__(self, recogniser: PluginConfig, gpus: float) -> None:
        self.name = recogniser.name
        self.recogniser: Recogniser = build("recognisers", recogniser.name, recogniser.options, gpus)
        self._gate = Gate() if self.recogniser.gated else None

    @property
    def spec(self) -> dict[str, Any]:
        """What the transcripts depend on beside the waveforms."""
        gate = {"version": self._gate.version, "identity": self._gate.identity} if self._gate else None
        return {**plugin_spec(self.name, self.recogniser), "gate": gate}

    def setup(self) -> None:
        """Load the models."""
        self.recogniser.load()
        if self._gate:
            self._gate.load()

    def hear(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Transcript]:
        """One transcript per waveform (S,), in their order.

        Raises:
            ClipError: see ``Recogniser.transcribe``.
        """
        if self._gate is None:
            return self.recogniser.transcribe(waveforms)
        voiced = [i for i, stretches in enumerate(self._gate.voiced(waveforms)) if stretches]
        heard = dict(zip(voiced, self.recogniser.transcribe([waveforms[i] for i in voiced]), strict=True))
        return [heard.get(i, Transcript("", 1.0)) for i in range(len(waveforms))]


def to_column(transcript: Transcript) -> dict[str, Any]:
    """A transcript as a value of ``TRANSCRIPT``."""
    return asdict(transcript) | {"segments": [asdict(segment) for segment in transcript.segments]}


def from_column(stored: Mapping[str, Any]) -> Transcript:
    """The transcript of a value of ``TRANSCRIPT``."""
    return Transcript(**{**stored, "segments": tuple(Segment(**segment) for segment in stored["segments"])})

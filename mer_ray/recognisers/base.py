"""What a speech recogniser is: waveforms in, transcripts out (P1 section 2.4.1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mer_ray.pretrained import plugin
from mer_ray.pretrained.plugin import Plugin
from mer_ray.pretrained.sound import check_finite
from mer_ray.pretrained.whisper_tokens import Heard, joined

Config = plugin.Config
"""Base of every recogniser's ``Config``."""


@dataclass(frozen=True)
class Segment:
    """A stretch of speech: seconds from the clip's start, and its words."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """What was said.

    Attributes:
        text: the words, without spaces at the ends; empty where there are none.
        confidence: the recogniser's own, in [0, 1].
        score: mean natural log-probability of a token, at most 0; None where nothing was said or nothing tells it.
        language: its ISO 639-1 code, where it is known.
        segments: in the order of time; empty where the recogniser tells no times.
    """

    text: str
    confidence: float
    score: float | None = None
    language: str | None = None
    segments: tuple[Segment, ...] = ()


def whispered(heard: Sequence[Heard]) -> Transcript:
    """The transcript of a clip from what was heard in its windows, in their order."""
    said = joined(heard)
    if said is None:
        return Transcript("", 1.0)
    spoken, score, language = said
    segments = tuple(Segment(one.start, one.end, one.text) for one in spoken)
    return Transcript(" ".join(one.text for one in segments), float(np.exp(score)), score, language, segments)


class Recogniser(Plugin, ABC):
    """Turns 16 kHz speech into text. Silence gives an empty text.

    Class attributes:
        hears: what it understands best, which ``transcribe.hears`` takes by default: the original sound, or the one
            that denoising chose.
        punctuates: whether its text has punctuation marks; else a punctuator adds them.
        gated: whether a voice gate stands before it, so that noise does not become words.
    """

    hears: ClassVar[Literal["original", "chosen"]] = "original"
    punctuates: ClassVar[bool] = False
    gated: ClassVar[bool] = True

    def transcribe(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Transcript]:
        """One transcript per waveform (S,), float32 mono 16 kHz; that of a clip does not depend on those beside it.

        Raises:
            ClipError: a waveform holds NaN or infinity, or cannot be transcribed.
        """
        check_finite(waveforms)
        return self._transcribe(waveforms)

    @abstractmethod
    def _transcribe(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Transcript]:
        """See ``transcribe``; the waveforms are finite, and may be empty."""

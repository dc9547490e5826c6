"""From a clip to its transcript: the user's own text, or else what a recogniser hears."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa

from mer_ray import registry
from mer_ray.config import TranscribeConfig
from mer_ray.data.media import decode_flac
from mer_ray.errors import ClipError
from mer_ray.recognisers.base import Recogniser, Transcript
from mer_ray.stages.base import Resources, Stage, absent, failed
from mer_ray.stages.isolate import attempt, isolate
from mer_ray.stages.plugins import plugin_spec

_DROPPED = frozenset({"Cc", "Cs", "Co", "Cn"})  # control characters, halves of pairs, private and unassigned ones
_MARKS = "\ufeff\u200b\ufffd"  # byte order mark, zero-width space, what stood for undecodable bytes


class TranscribeStage(Stage):
    """Makes the ``transcript`` table. A clip with no text is absent, unless recognition is on and hears words.

    The ``audio`` table is read only when recognition is on.

    Args:
        transcribe: whether and how to recognise what has no text.
        clip_seconds: time limit per clip.
    """

    name = "transcript"
    version = 1

    def __init__(self, transcribe: TranscribeConfig, clip_seconds: float = 60.0) -> None:
        self.transcribe = transcribe
        self.reads = ("clip", "audio") if transcribe.enabled else ("clip",)
        self.resources = Resources(batch_size=64, clip_seconds=clip_seconds)
        self._recogniser: Recogniser | None = None
        if transcribe.enabled:
            self._recogniser = registry.build("recognisers", transcribe.recogniser.name, transcribe.recogniser.options)

    @property
    def columns(self) -> tuple[pa.Field, ...]:
        """The text, ``manifest`` or ``recognised``, whether it was cut, and the recogniser's confidence."""
        return (
            pa.field("text", pa.string()),
            pa.field("source", pa.string()),
            pa.field("truncated", pa.bool_()),
            pa.field("confidence", pa.float64()),
        )

    @property
    def spec(self) -> dict[str, Any]:
        """See the base class."""
        spec: dict[str, Any] = {"version": self.version, "max_characters": self.transcribe.max_characters}
        if self._recogniser:
            spec["recogniser"] = plugin_spec(self.transcribe.recogniser.name, self._recogniser)
        return spec

    def setup(self) -> None:
        """Load the recogniser."""
        if self._recogniser:
            self._recogniser.load()

    def process(self, batch: pa.Table) -> pa.Table:
        """See the base class."""
        clips = batch.column("clip").to_pylist()
        rows = [self._row(clip["clip_id"], clip["text"] or "", "manifest", None) for clip in clips]
        if self._recogniser is None:
            return self.rows_to_table(rows)
        sounds = batch.column("audio").to_pylist()
        wordless = {i: sounds[i]["flac"] for i, row in enumerate(rows) if not row["present"] and sounds[i]}
        for i, heard in zip(wordless, self._recognise(list(wordless.values())), strict=True):
            if isinstance(heard, ClipError):
                rows[i] = failed(clips[i]["clip_id"], heard)
            else:
                rows[i] = self._row(clips[i]["clip_id"], heard.text, "recognised", heard.confidence)
        return self.rows_to_table(rows)

    def _recognise(self, stored: list[bytes]) -> list[Transcript | ClipError]:
        """Per FLAC its transcript, or what went wrong in reading or recognising it."""
        results: list[Any] = [attempt(decode_flac, data) for data in stored]
        sound = [i for i, samples in enumerate(results) if isinstance(samples, np.ndarray)]
        recogniser = self._recogniser
        if recogniser is None:
            return results
        for i, heard in zip(sound, isolate(recogniser.transcribe, [results[i] for i in sound]), strict=True):
            results[i] = heard
        return results

    def _row(self, clip_id: str, raw: str, source: str, confidence: float | None) -> dict[str, Any]:
        text = clean(raw)
        if not text:
            return absent(clip_id)
        limit = self.transcribe.max_characters
        return {
            "clip_id": clip_id,
            "present": True,
            "text": text[:limit].rstrip(),
            "source": source,
            "truncated": len(text) > limit,
            "confidence": confidence,
        }


def clean(text: str) -> str:
    r"""A transcript as one line: NFC, no control characters, single spaces.

    >>> clean(" Cafe\u0301\x00\tau lait\n\ufeff")
    'Café au lait'
    """
    composed = unicodedata.normalize("NFC", text)
    kept = (c for c in composed if c.isspace() or (unicodedata.category(c) not in _DROPPED and c not in _MARKS))
    return " ".join("".join(kept).split())

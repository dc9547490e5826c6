"""From a clip to its transcript: the user's own text, or else what a recogniser hears."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mer_ray.config import DenoiseConfig, TranscribeConfig
from mer_ray.data.media import decode_flac
from mer_ray.errors import ClipError, Reason
from mer_ray.punctuators.base import Punctuator
from mer_ray.recognisers.base import Transcript
from mer_ray.stages.base import Resources, Stage, absent, failed
from mer_ray.stages.denoise import CHOICES
from mer_ray.stages.hearing import SEGMENTS, TRANSCRIPT, Hearing, from_column, to_column
from mer_ray.stages.inputs import sound_of
from mer_ray.stages.isolate import attempt, isolate
from mer_ray.stages.plugins import build, plugin_spec

_DROPPED = frozenset({"Cc", "Cs", "Co", "Cn"})  # control characters, halves of pairs, private and unassigned ones
_MARKS = "\ufeff\u200b\ufffd"  # byte order mark, zero-width space, what stood for undecodable bytes
_SOUND = pa.struct([("of", pa.string()), ("samples", pa.large_binary()), ("said", TRANSCRIPT)])
_GIVEN = pa.struct(
    [("text", pa.string()), ("reason", pa.string()), ("detail", pa.string()), ("sounds", pa.list_(_SOUND))]
)
"""What ``prepare`` makes of a clip: its own text, or its sounds, each with float32 samples or what is known of it."""


class TranscribeStage(Stage):
    """Makes the ``transcript`` table. A clip with no text is absent, unless recognition is on and hears words.

    The ``audio`` table is read only when recognition is on. What denoising has recognised by the same recogniser is
    taken from it, and not recognised again.

    Args:
        transcribe: whether and how to recognise what has no text.
        denoise: how the ``audio`` table was made.
        clip_seconds: time limit per clip.
    """

    name = "transcript"
    version = 2

    def __init__(self, transcribe: TranscribeConfig, denoise: DenoiseConfig, clip_seconds: float = 60.0) -> None:
        self.transcribe = transcribe
        self.reads = ("clip", "audio") if transcribe.enabled else ("clip",)
        self._hearing: Hearing | None = None
        self._punctuator: Punctuator | None = None
        self._denoised_by: Hearing | None = None
        gpus = transcribe.gpus if transcribe.enabled else 0.0
        self.resources = Resources.of(
            transcribe, cpus=transcribe.cpus, gpus=gpus, batch_size=transcribe.batch_size, clip_seconds=clip_seconds
        )
        if transcribe.enabled:
            self._hearing = Hearing(transcribe.recogniser, gpus)
            if not self._hearing.recogniser.punctuates:
                named = transcribe.punctuator
                self._punctuator = build("punctuators", named.name, named.options, gpus)
            if denoise.enabled:
                self._denoised_by = Hearing(denoise.recogniser, denoise.gpus)

    @property
    def hears(self) -> Literal["original", "chosen", "better"]:
        """Which sound of a clip that was denoised."""
        return self.transcribe.hears or (self._hearing.recogniser.hears if self._hearing else "original")

    @property
    def columns(self) -> tuple[pa.Field, ...]:
        """The text, ``manifest`` or ``recognised``, whether it was cut; of recognised ones what the recogniser says.

        ``heard`` is the waveform that it was heard in, one of ``denoise.CHOICES``.
        """
        return (
            pa.field("text", pa.string()),
            pa.field("source", pa.string()),
            pa.field("truncated", pa.bool_()),
            pa.field("confidence", pa.float64()),
            pa.field("score", pa.float64()),
            pa.field("language", pa.string()),
            pa.field("segments", SEGMENTS),
            pa.field("heard", pa.string()),
        )

    @property
    def spec(self) -> dict[str, Any]:
        """See the base class."""
        spec: dict[str, Any] = {"version": self.version, "max_characters": self.transcribe.max_characters}
        if self._hearing:
            spec["recogniser"] = self._hearing.spec
            spec["hears"] = self.hears
        if self._punctuator:
            spec["punctuator"] = plugin_spec(self.transcribe.punctuator.name, self._punctuator)
        return spec

    @property
    def provenance(self) -> dict[str, str]:
        """See the base class."""
        if self._hearing is None:
            return {}
        model = self._hearing.recogniser
        return {"recogniser": f"{self._hearing.name}: version {model.version}, {model.identity}, {model.dtype}"}

    def setup(self) -> None:
        """Load the recogniser and the punctuator."""
        if self._hearing and not self._is_heard:
            self._hearing.setup()
        if self._punctuator:
            self._punctuator.load()

    @property
    def _is_heard(self) -> bool:
        """Whether the ``audio`` table holds the transcripts that this recogniser would give."""
        if self._hearing is None or self._denoised_by is None:
            return False
        return self._hearing.spec == self._denoised_by.spec

    def prepare(self, batch: pa.Table) -> pa.Table:
        """Decode the sound of clips without a text, so that ``process`` has the models' work alone."""
        clips = batch.column("clip").to_pylist()
        sounds = batch.column("audio").to_pylist() if self._hearing else [None] * len(clips)
        is_heard = self._is_heard
        given: list[dict[str, Any]] = []
        for clip, sound in zip(clips, sounds, strict=True):
            text = clip["text"] or ""
            if clean(text) or not sound:
                given.append({"text": text, "sounds": []})
                continue
            made = attempt(lambda row: self._sounds(row, is_heard), sound)
            failure = {"reason": made.reason, "detail": made.detail} if isinstance(made, ClipError) else None
            given.append(failure or {"text": text, "sounds": made})
        return pa.table({"clip_id": batch.column("clip_id"), "given": pa.array(given, _GIVEN)})

    def _sounds(self, row: Mapping[str, Any], is_heard: bool) -> list[dict[str, Any]]:
        """The sounds that are to be heard, of a row of the ``audio`` table."""
        wanted = {"original": {"original"}, "chosen": {row["choice"]}, "better": {"original", row["choice"]}}[
            self.hears
        ]
        sounds = []
        for name in CHOICES:
            if name in wanted and is_heard:
                sounds.append({"of": name, "said": row["transcripts"][CHOICES.index(name)]})
            elif name in wanted:
                stored = sound_of(row, "original" if name == "original" else "chosen")
                sounds.append({"of": name, "samples": decode_flac(stored).tobytes()})
        return sounds

    def process(self, batch: pa.Table) -> pa.Table:
        """See the base class. ``batch`` is what ``prepare`` returned."""
        clip_ids, given = batch.column("clip_id").to_pylist(), batch.column("given").to_pylist()
        rows: list[Any] = [
            failed(clip_id, ClipError(Reason(one["reason"]), one["detail"]))
            if one["reason"]
            else self._row(clip_id, one["text"], {"source": "manifest"})
            for clip_id, one in zip(clip_ids, given, strict=True)
        ]
        sounding = {i: one["sounds"] for i, one in enumerate(given) if one["sounds"]}
        for i, heard in zip(sounding, isolate(self._hear, list(sounding.values())), strict=True):
            if isinstance(heard, ClipError):
                rows[i] = failed(clip_ids[i], heard)
            else:
                rows[i] = self._row(clip_ids[i], heard["text"], heard | {"source": "recognised"})
        return self.rows_to_table(rows)

    def _hear(self, clips: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """Of each clip the transcript of its sounds, of several the surest, as columns."""
        assert self._hearing is not None
        unheard = [np.frombuffer(one["samples"], np.float32) for sounds in clips for one in sounds if one["samples"]]
        heard = iter(self._hearing.hear(unheard) if unheard else ())
        best = []
        for sounds in clips:
            said = [(next(heard) if one["samples"] else from_column(one["said"]), one["of"]) for one in sounds]
            best.append(max(said, key=lambda one: _sureness(one[0])))
        texts = [transcript.text for transcript, _ in best]
        if self._punctuator:
            texts = self._punctuator.punctuate(texts)
        return [
            {**to_column(transcript), "text": text, "heard": name}
            for text, (transcript, name) in zip(texts, best, strict=True)
        ]

    def _row(self, clip_id: str, raw: str, more: Mapping[str, Any]) -> dict[str, Any]:
        text = clean(raw)
        if not text:
            return absent(clip_id)
        limit = self.transcribe.max_characters
        cut = {"text": text[:limit].rstrip(), "truncated": len(text) > limit}
        return {**more, **cut, "clip_id": clip_id, "present": True}


def _sureness(transcript: Transcript) -> tuple[bool, float]:
    """Words before none; then by score, or by confidence where there is no score."""
    return bool(transcript.text), transcript.confidence if transcript.score is None else transcript.score


def clean(text: str) -> str:
    r"""A transcript as one line: NFC, no control characters, single spaces.

    >>> clean(" Cafe\u0301\x00\tau lait\n\ufeff")
    'Café au lait'
    """
    composed = unicodedata.normalize("NFC", text)
    kept = (c for c in composed if c.isspace() or (unicodedata.category(c) not in _DROPPED and c not in _MARKS))
    return " ".join("".join(kept).split())

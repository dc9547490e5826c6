"""From a clip to its denoised audio: decode, separate, keep what is understood better (P1 section 2.4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mer_ray import registry
from mer_ray.config import DenoiseConfig, MediaConfig
from mer_ray.data.media import encode_flac
from mer_ray.errors import ClipError
from mer_ray.recognisers.base import Recogniser
from mer_ray.separators.base import Separator
from mer_ray.speech.select import choose
from mer_ray.stages.base import Resources, Stage, absent, failed
from mer_ray.stages.decode import clip_audio
from mer_ray.stages.isolate import attempt, isolate
from mer_ray.stages.plugins import plugin_spec


class DenoiseStage(Stage):
    """Makes the ``audio`` table.

    The noisy voice is transcribed (the template), separated into two streams, and both are transcribed; when their
    similarities to the template differ by more than ``denoise.threshold``, the stream of the higher one replaces the
    original. With ``denoise.enabled`` false the original is kept and nothing is transcribed. Silence is absence.

    Args:
        media: limits of decoding.
        denoise: whether and how to denoise.
        clip_seconds: time limit per clip.
    """

    name = "audio"
    version = 2
    reads = ("clip",)

    def __init__(self, media: MediaConfig, denoise: DenoiseConfig, clip_seconds: float) -> None:
        self.media = media
        self.denoise = denoise
        self.resources = Resources(batch_size=16, clip_seconds=clip_seconds)
        self._separator: Separator | None = None
        self._recogniser: Recogniser | None = None
        if denoise.enabled:
            self._separator = registry.build("separators", denoise.separator.name, denoise.separator.options)
            self._recogniser = registry.build("recognisers", denoise.recogniser.name, denoise.recogniser.options)

    @property
    def columns(self) -> tuple[pa.Field, ...]:
        """FLAC of ``num_samples`` at 16 kHz, which waveform it is, and on what grounds (null when denoising is off)."""
        return (
            pa.field("flac", pa.binary()),
            pa.field("num_samples", pa.int64()),
            pa.field("choice", pa.string()),
            pa.field("similarity_0", pa.float64()),
            pa.field("similarity_1", pa.float64()),
            pa.field("template", pa.string()),
            pa.field("transcript_0", pa.string()),
            pa.field("transcript_1", pa.string()),
        )

    @property
    def spec(self) -> dict[str, Any]:
        """See the base class."""
        spec: dict[str, Any] = {"version": self.version, "media": self.media.model_dump(mode="json")}
        if self._separator and self._recogniser:
            spec["separator"] = plugin_spec(self.denoise.separator.name, self._separator)
            spec["recogniser"] = plugin_spec(self.denoise.recogniser.name, self._recogniser)
            spec["threshold"] = self.denoise.threshold
        return spec

    def setup(self) -> None:
        """Load the separator and the recogniser."""
        for model in (self._separator, self._recogniser):
            if model is not None:
                model.load()

    def process(self, batch: pa.Table) -> pa.Table:
        """See the base class."""
        clip_ids = batch.column("clip_id").to_pylist()
        sounds = [attempt(lambda c: clip_audio(c, self.media), clip) for clip in batch.column("clip").to_pylist()]
        heard = {i: sound for i, sound in enumerate(sounds) if isinstance(sound, np.ndarray)}
        rows = [failed(c, s) if isinstance(s, ClipError) else absent(c) for c, s in zip(clip_ids, sounds, strict=True)]
        for i, made in zip(heard, isolate(self._rows, list(heard.values())), strict=True):
            rows[i] = failed(clip_ids[i], made) if isinstance(made, ClipError) else {**rows[i], "present": True, **made}
        return self.rows_to_table(rows)

    def _rows(self, waveforms: Sequence[NDArray[np.float32]]) -> list[dict[str, Any]]:
        if self._separator is None or self._recogniser is None:
            return [_row(samples, "original") for samples in waveforms]
        streams = self._separator.separate(waveforms)
        said = self._recogniser.transcribe(waveforms)
        said_0 = self._recogniser.transcribe([pair[0] for pair in streams])
        said_1 = self._recogniser.transcribe([pair[1] for pair in streams])
        rows = []
        for samples, pair, template, first, second in zip(waveforms, streams, said, said_0, said_1, strict=True):
            choice = choose(template.text, first.text, second.text, self.denoise.threshold)
            kept = samples if choice.index is None else pair[choice.index]
            rows.append(
                _row(kept, "original" if choice.index is None else f"stream_{choice.index}")
                | {"similarity_0": choice.similarity_0, "similarity_1": choice.similarity_1}
                | {"template": template.text, "transcript_0": first.text, "transcript_1": second.text}
            )
        return rows


def _row(samples: NDArray[np.float32], choice: str) -> dict[str, Any]:
    return {"flac": encode_flac(samples), "num_samples": len(samples), "choice": choice}

"""From a clip to its denoised audio: decode, separate, keep what is understood better (P1 section 2.4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mer_ray.config import DenoiseConfig, MediaConfig
from mer_ray.data.media import encode_flac
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ClipError
from mer_ray.pretrained.sound import check_finite
from mer_ray.separators.base import Separator
from mer_ray.speech.noise import Noise
from mer_ray.speech.select import choose
from mer_ray.speech.snr import estimate_snr_db
from mer_ray.stages.base import Resources, Stage, absent, failed
from mer_ray.stages.decode import clip_audio
from mer_ray.stages.hearing import TRANSCRIPT, Hearing, to_column
from mer_ray.stages.inputs import as_prepared, as_sound, read_prepared
from mer_ray.stages.isolate import attempt, isolate
from mer_ray.stages.limit import one_by_one
from mer_ray.stages.plugins import build, plugin_spec

CHOICES = ("original", "stream_0", "stream_1")
"""The waveforms of a clip, in the order of the column ``transcripts``."""


class DenoiseStage(Stage):
    """Makes the ``audio`` table.

    The noisy voice is transcribed (the template), separated into two streams, and both are transcribed; when their
    similarities to the template differ by more than ``denoise.threshold``, the stream of the higher one replaces the
    original. With ``denoise.enabled`` false the original is kept and nothing is transcribed. Silence is absence.

    Args:
        media: limits of decoding.
        denoise: whether and how to denoise.
        clip_seconds: time limit per clip.
        noise: what every clip is heard in, beside its own; the ``original`` then has it too.
    """

    name = "audio"
    version = 3
    reads = ("clip",)
    opens_media = True

    def __init__(
        self, media: MediaConfig, denoise: DenoiseConfig, clip_seconds: float, noise: Noise | None = None
    ) -> None:
        self.media = media
        self.denoise = denoise
        self.noise = noise
        self.resources = Resources.of(
            denoise,
            cpus=denoise.cpus,
            gpus=denoise.gpus if denoise.enabled else 0.0,
            batch_size=denoise.batch_size,
            clip_seconds=clip_seconds,
        )
        self._separator: Separator | None = None
        self.hearing: Hearing | None = None
        if denoise.enabled:
            self._separator = build("separators", denoise.separator.name, denoise.separator.options, denoise.gpus)
            self.hearing = Hearing(denoise.recogniser, denoise.gpus)

    @property
    def columns(self) -> tuple[pa.Field, ...]:
        """FLAC of ``num_samples`` at 16 kHz, which waveform it is, and on what grounds (null when denoising is off).

        ``original`` is the sound as it was, where another was chosen; ``transcripts`` are those of ``CHOICES``.
        """
        return (
            pa.field("flac", pa.binary()),
            pa.field("num_samples", pa.int64()),
            pa.field("snr_db", pa.float64()),
            pa.field("choice", pa.string()),
            pa.field("original", pa.binary()),
            pa.field("similarity_0", pa.float64()),
            pa.field("similarity_1", pa.float64()),
            pa.field("template", pa.string()),
            pa.field("transcript_0", pa.string()),
            pa.field("transcript_1", pa.string()),
            pa.field("transcripts", pa.list_(TRANSCRIPT)),
        )

    @property
    def spec(self) -> dict[str, Any]:
        """See the base class."""
        spec: dict[str, Any] = {"version": self.version, "media": self.media.model_dump(mode="json")}
        if self.noise:
            spec["noise"] = self.noise.spec
        if self._separator and self.hearing:
            spec["separator"] = plugin_spec(self.denoise.separator.name, self._separator)
            spec["recogniser"] = self.hearing.spec
            spec["threshold"] = self.denoise.threshold
        return spec

    @property
    def provenance(self) -> dict[str, str]:
        """See the base class."""
        if self._separator is None or self.hearing is None:
            return {}
        models = {"separator": self._separator, "recogniser": self.hearing.recogniser}
        return {
            key: f"{name}: version {model.version}, {model.identity}, {model.dtype}"
            for (key, model), name in zip(models.items(), (self.denoise.separator.name, self.hearing.name), strict=True)
        }

    def setup(self) -> None:
        """Load the separator and the recogniser."""
        if self._separator and self.hearing:
            self._separator.load()
            self.hearing.setup()

    def prepare(self, batch: pa.Table) -> pa.Table:
        """Decode the media, so that ``process`` has the models' work alone."""
        sounds = [as_sound(attempt(self.sound, clip)) for clip in one_by_one(batch.column("clip").to_pylist())]
        return pa.table({"clip_id": batch.column("clip_id"), "prepared": as_prepared(sounds)})

    def sound(self, clip: Mapping[str, Any]) -> NDArray[np.float32] | None:
        """What ``prepare`` decodes of a clip; raises and returns as ``decode.clip_audio``."""
        return self.in_noise(clip, clip_audio(clip, self.media))

    def in_noise(self, clip: Mapping[str, Any], samples: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """The sound of a clip, float32 (S,), with the noise that it is to be heard in."""
        return samples if samples is None or self.noise is None else self.noise.added(samples, clip["clip_id"])

    def process(self, batch: pa.Table) -> pa.Table:
        """See the base class. ``batch`` is what ``prepare`` returned."""
        clip_ids = batch.column("clip_id").to_pylist()
        results: list[Any] = [read_prepared(scalar) for scalar in batch.column("prepared")]
        sounding: dict[int, Any] = {i: given.audio for i, given in enumerate(results) if isinstance(given, ClipInput)}
        for i, made in zip(sounding, isolate(self._rows, list(sounding.values())), strict=True):
            results[i] = made
        rows = []
        for clip_id, result in zip(clip_ids, results, strict=True):
            if isinstance(result, ClipError):
                rows.append(failed(clip_id, result))
            else:
                rows.append({"clip_id": clip_id, "present": True, **result} if result else absent(clip_id))
        return self.rows_to_table(rows)

    def _rows(self, waveforms: Sequence[NDArray[np.float32]]) -> list[dict[str, Any]]:
        if self._separator is None or self.hearing is None:
            return [_row(samples, samples, 0) for samples in waveforms]
        count, streams = len(waveforms), self._separator.separate(waveforms)
        check_finite(stream for pair in streams for stream in pair)
        heard = self.hearing.hear([*waveforms, *(pair[0] for pair in streams), *(pair[1] for pair in streams)])
        rows = []
        for i, (samples, pair) in enumerate(zip(waveforms, streams, strict=True)):
            said = heard[i::count]
            choice = choose(said[0].text, said[1].text, said[2].text, self.denoise.threshold)
            place = 0 if choice.index is None else 1 + choice.index
            rows.append(
                _row((samples, *pair)[place], samples, place)
                | {"similarity_0": choice.similarity_0, "similarity_1": choice.similarity_1}
                | {"template": said[0].text, "transcript_0": said[1].text, "transcript_1": said[2].text}
                | {"transcripts": [to_column(one) for one in said]}
            )
        return rows


def _row(kept: NDArray[np.float32], original: NDArray[np.float32], place: int) -> dict[str, Any]:
    return {
        "flac": encode_flac(kept),
        "num_samples": len(kept),
        "snr_db": estimate_snr_db(original),
        "choice": CHOICES[place],
        "original": encode_flac(original) if place else None,
    }

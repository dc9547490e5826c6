"""Clips for benchmarks: talking faces of speech-like length as real mp4 files, or the same in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from mer_ray.config import DenoiseConfig, EncoderConfig, FacesConfig, MediaConfig, TranscribeConfig
from mer_ray.demo.plan import DemoClip, plan
from mer_ray.demo.render import clean_voice, write
from mer_ray.encoders.base import ClipInput
from mer_ray.stages.base import ROW_FIELDS, Stage
from mer_ray.stages.denoise import DenoiseStage
from mer_ray.stages.encode import EncodeStage
from mer_ray.stages.faces import FacesStage
from mer_ray.stages.inputs import read_prepared
from mer_ray.stages.transcribe import TranscribeStage
from mer_ray.types import SAMPLE_RATE_HZ, Clip, Split

_LEAST_PLANNED = 24
_LIMIT_SECONDS = 600.0


def make(folder: Path, count: int, mean_seconds: float, seed: int) -> list[Clip]:
    """Write ``count`` mp4 files of a talking face, of about ``mean_seconds`` each and very different lengths.

    The same arguments give the same bytes; files that are there are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    planned = plan(max(count, _LEAST_PLANNED), seed)
    words = cycle([word for clip in planned for word in clip.words])
    lengths = np.random.default_rng(seed).lognormal(np.log(mean_seconds) - 0.125, 0.5, count)
    clips = []
    for clip, seconds in zip(planned, lengths, strict=False):
        said = tuple(islice(words, max(2, round(seconds * _words_per_second(clip)))))
        whole = replace(clip, words=said, broken=None, noise=None, snr_db=float("inf"))
        path = folder / f"{clip.clip_id}.mp4"
        if not path.exists():
            write(whole, path)
        clips.append(Clip(clip.clip_id, Split.UNLABELED, video=str(path), text=" ".join(said)))
    return clips


def decoders(num_frames: int) -> dict[str, Stage]:
    """The stages that encoders read from, by the names of their tables; at most ``num_frames`` face crops a clip."""
    faces = FacesConfig(max_frames=num_frames)
    return {
        "audio": DenoiseStage(MediaConfig(), DenoiseConfig(), _LIMIT_SECONDS),
        "faces": FacesStage(MediaConfig(), faces, _LIMIT_SECONDS),
        "transcript": TranscribeStage(TranscribeConfig(), DenoiseConfig()),
    }


def inputs(clips: Sequence[Clip], encoder: EncoderConfig, num_frames: int) -> list[ClipInput]:
    """What the encoder reads of the clips, decoded in this process, as the pipeline would give it.

    Raises:
        RuntimeError: a clip could not be decoded.
    """
    stage = EncodeStage("input", encoder, _LIMIT_SECONDS)
    given = pa.array([vars_of(clip) for clip in clips])
    columns: dict[str, pa.Array] = {"clip_id": pa.array([clip.clip_id for clip in clips])}
    for name, decoder in decoders(num_frames).items():
        if name in stage.reads:
            decoder.setup()
            made = decoder.process(decoder.prepare(pa.table({"clip_id": columns["clip_id"], "clip": given})))
            columns[name] = pa.array(made.drop_columns([field.name for field in ROW_FIELDS]).to_pylist())
    prepared = stage.prepare(pa.table(columns))
    read = [read_prepared(scalar) for scalar in prepared["prepared"]]
    bad = [item for item in read if not isinstance(item, ClipInput)]
    if bad:
        raise RuntimeError(f"{len(bad)} of {len(clips)} benchmark clips could not be decoded: {bad[0]}")
    return [item for item in read if isinstance(item, ClipInput)]


def vars_of(clip: Clip) -> Mapping[str, object]:
    """A clip's fields, as stages get them."""
    return {name: getattr(clip, name) for name in Clip.__slots__}


def _words_per_second(clip: DemoClip) -> float:
    return len(clip.words) * SAMPLE_RATE_HZ / len(clean_voice(clip))

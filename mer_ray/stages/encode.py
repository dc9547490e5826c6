"""From the tables of a clip to one encoder's vector: decode what is stored, encode, pool, check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mer_ray.config import EncoderConfig
from mer_ray.encoders.base import ClipInput, Encoder, Pooling, pool, pooled_dim
from mer_ray.errors import ClipError, ConfigError, Reason
from mer_ray.stages.base import Resources, Stage, absent, failed
from mer_ray.stages.inputs import prepare, read_prepared
from mer_ray.stages.isolate import isolate
from mer_ray.stages.plugins import build, plugin_spec

_FRAMES = (
    pa.field("frames", pa.large_binary()),
    pa.field("num_frames", pa.int32()),
    pa.field("dim", pa.int32()),
)


class EncodeStage(Stage):
    """Makes the table of one encoder: column ``vector``, float32, as wide as the encoder's pooled features.

    With several poolings the first makes ``vector`` and each other one a column ``vector_<pooling>``. On request the
    frames before pooling are kept too: ``frames`` (binary, row-major), with ``num_frames`` and ``dim``.
    A clip that lacks any table the encoder reads is absent. A vector with NaN or infinity is an error.

    Args:
        name: the feature's name, also of its table.
        encoder_config: the plug-in, its options, pooling and resources.
        clip_seconds: time limit per clip.
    """

    version = 1

    def __init__(self, name: str, encoder_config: EncoderConfig, clip_seconds: float) -> None:
        self.name = name
        self.encoder_config = encoder_config
        self.encoder: Encoder = build("encoders", encoder_config.plugin, encoder_config.options, encoder_config.gpus)
        if encoder_config.hint and "transcript" not in self.encoder.reads:
            raise ConfigError(f"encoders.{name}.hint: {encoder_config.plugin} reads no transcript")
        if encoder_config.hears != "chosen" and "audio" not in self.encoder.reads:
            raise ConfigError(f"encoders.{name}.hears: {encoder_config.plugin} reads no sound")
        self.reads = (*self.encoder.reads, "hint") if encoder_config.hint else self.encoder.reads
        self.poolings = tuple(Pooling(how) for how in encoder_config.poolings)
        self.resources = Resources.of(
            encoder_config,
            cpus=encoder_config.cpus,
            gpus=encoder_config.gpus,
            batch_size=encoder_config.batch_size or self.encoder.batch_size,
            clip_seconds=clip_seconds,
        )

    @property
    def dim(self) -> int:
        """Width of ``vector``."""
        return pooled_dim(self.encoder.dim, self.poolings[0])

    @property
    def columns(self) -> tuple[pa.Field, ...]:
        """The pooled vectors, and the frames if they are wanted."""
        vectors = [
            pa.field(name, pa.list_(pa.float32(), pooled_dim(self.encoder.dim, pooling)))
            for name, pooling in self._vector_names().items()
        ]
        return (*vectors, *(_FRAMES if self.encoder_config.sequences else ()))

    @property
    def spec(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "version": self.version,
            "encoder": plugin_spec(self.encoder_config.plugin, self.encoder),
            "pooling": [str(pooling) for pooling in self.poolings],
            "sequences": self.encoder_config.sequences,
            **({"hint": self.encoder_config.hint} if self.encoder_config.hint else {}),
            **({"hears": self.encoder_config.hears} if self.encoder_config.hears != "chosen" else {}),
        }

    @property
    def provenance(self) -> dict[str, str]:
        """See the base class."""
        return {
            "model": self.encoder_config.plugin,
            "revision": f"{self.encoder.version}, {self.encoder.identity}",
            "modality": str(self.encoder.modality),
            "dtype": self.encoder.dtype,
            "pooling": ", ".join(self.poolings),
            **({"frames_dtype": self.encoder_config.sequences} if self.encoder_config.sequences else {}),
        }

    def setup(self) -> None:
        """Load the encoder."""
        self.encoder.load()

    def prepare(self, batch: pa.Table) -> pa.Table:
        """Decode what the tables store, so that ``process`` has the model's work alone."""
        return prepare(batch, self.encoder.reads, self.encoder_config.hint, self.encoder_config.hears)

    def process(self, batch: pa.Table) -> pa.Table:
        """See the base class. ``batch`` is what ``prepare`` returned."""
        clip_ids = batch.column("clip_id").to_pylist()
        results: list[Any] = [read_prepared(scalar) for scalar in batch.column("prepared")]
        whole = [i for i, given in enumerate(results) if isinstance(given, ClipInput)]
        for i, columns in zip(whole, isolate(self._encoded, [results[i] for i in whole]), strict=True):
            results[i] = _checked(columns)
        rows = []
        for clip_id, result in zip(clip_ids, results, strict=True):
            if isinstance(result, ClipError):
                rows.append(failed(clip_id, result))
            elif result is None:
                rows.append(absent(clip_id))
            else:
                rows.append({"clip_id": clip_id, "present": True, **result})
        return self.rows_to_table(rows)

    def _vector_names(self) -> dict[str, Pooling]:
        return {"vector" if i == 0 else f"vector_{how}": how for i, how in enumerate(self.poolings)}

    def _encoded(self, clips: Sequence[ClipInput]) -> list[dict[str, Any]]:
        """The table's own columns for each clip."""
        made = []
        for frames_TD in self.encoder.encode(clips):
            if frames_TD.ndim != 2 or frames_TD.shape[1] != self.encoder.dim:
                raise AssertionError(f"{self.name}: frames of {frames_TD.shape}, promised (T, {self.encoder.dim})")
            columns: dict[str, Any] = {name: pool(frames_TD, how) for name, how in self._vector_names().items()}
            if self.encoder_config.sequences:
                columns["frames"] = _as(self.encoder_config.sequences, frames_TD).tobytes()
                columns["num_frames"], columns["dim"] = frames_TD.shape
            made.append(columns)
        return made


def _as(dtype: str, frames_TD: NDArray[np.float32]) -> NDArray[Any]:
    """The frames in another type; raises ``ClipError`` where that is too small for them."""
    with np.errstate(over="ignore"):
        cast = frames_TD.astype(dtype)
    if not np.isfinite(cast).all() and np.isfinite(frames_TD).all():
        raise ClipError(Reason.NOT_FINITE, f"frames of up to {np.abs(frames_TD).max():.3g} do not fit in {dtype}")
    return cast


def _checked(columns: dict[str, Any] | ClipError) -> dict[str, Any] | ClipError:
    if isinstance(columns, ClipError):
        return columns
    vector: NDArray[np.float32] = columns["vector"]
    if np.isfinite(vector).all():
        return columns
    bad = int((~np.isfinite(vector)).sum())
    return ClipError(Reason.NOT_FINITE, f"{bad} of {len(vector)} numbers are NaN or infinite")

"""From the tables of a clip to one encoder's vector: decode what is stored, encode, pool, check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mer_ray import registry
from mer_ray.config import EncoderConfig
from mer_ray.data.media import decode_flac, decode_jpeg
from mer_ray.encoders.base import ClipInput, Encoder, Pooling, pool, pooled_dim
from mer_ray.errors import ClipError, Reason
from mer_ray.stages.base import Resources, Stage, absent, failed
from mer_ray.stages.isolate import attempt, isolate
from mer_ray.stages.plugins import plugin_spec

_PREPARED = pa.struct(
    [
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("audio", pa.large_binary()),
        pa.field("faces", pa.large_binary()),
        pa.field("faces_shape", pa.list_(pa.int64())),
        pa.field("face_times", pa.list_(pa.float32())),
        pa.field("text", pa.string()),
    ]
)
"""What ``prepare`` makes of a clip: raw float32 samples, raw uint8 pixels; null where the clip lacks an input."""


class EncodeStage(Stage):
    """Makes the table of one encoder: column ``vector``, float32, as wide as the encoder's pooled features.

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
        self.encoder: Encoder = registry.build("encoders", encoder_config.plugin, encoder_config.options)
        self.reads = self.encoder.reads
        self.pooling = Pooling(encoder_config.pooling)
        self.resources = Resources(
            cpus=encoder_config.cpus,
            gpus=encoder_config.gpus,
            batch_size=encoder_config.batch_size,
            clip_seconds=clip_seconds,
        )

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return pooled_dim(self.encoder.dim, self.pooling)

    @property
    def columns(self) -> tuple[pa.Field, ...]:
        """The pooled vector."""
        return (pa.field("vector", pa.list_(pa.float32(), self.dim)),)

    @property
    def spec(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "version": self.version,
            "encoder": plugin_spec(self.encoder_config.plugin, self.encoder),
            "pooling": str(self.pooling),
        }

    @property
    def provenance(self) -> dict[str, str]:
        """See the base class."""
        return {
            "model": self.encoder_config.plugin,
            "revision": f"{self.encoder.version}, {self.encoder.identity}",
            "modality": str(self.encoder.modality),
            "dtype": "float32",
            "pooling": str(self.pooling),
        }

    def setup(self) -> None:
        """Load the encoder."""
        self.encoder.load()

    def prepare(self, batch: pa.Table) -> pa.Table:
        """Decode what the tables store, so that ``process`` has the model's work alone."""
        inputs = [batch.column(name).to_pylist() for name in self.reads]
        prepared = []
        for tables in zip(*inputs, strict=True):
            made = attempt(_decode, dict(zip(self.reads, tables, strict=True))) if all(tables) else None
            prepared.append({"reason": made.reason, "detail": made.detail} if isinstance(made, ClipError) else made)
        return pa.table({"clip_id": batch.column("clip_id"), "prepared": pa.array(prepared, _PREPARED)})

    def process(self, batch: pa.Table) -> pa.Table:
        """See the base class. ``batch`` is what ``prepare`` returned."""
        clip_ids = batch.column("clip_id").to_pylist()
        results: list[Any] = [_read(scalar) for scalar in batch.column("prepared")]
        whole = [i for i, given in enumerate(results) if isinstance(given, ClipInput)]
        for i, vector in zip(whole, isolate(self._vectors, [results[i] for i in whole]), strict=True):
            results[i] = _checked(vector)
        rows = []
        for clip_id, result in zip(clip_ids, results, strict=True):
            if isinstance(result, ClipError):
                rows.append(failed(clip_id, result))
            elif result is None:
                rows.append(absent(clip_id))
            else:
                rows.append({"clip_id": clip_id, "present": True, "vector": result})
        return self.rows_to_table(rows)

    def _vectors(self, clips: Sequence[ClipInput]) -> list[NDArray[np.float32]]:
        vectors = [pool(frames, self.pooling) for frames in self.encoder.encode(clips)]
        for vector in vectors:
            if vector.shape != (self.dim,):
                raise AssertionError(f"{self.name}: a vector of {vector.shape}, promised ({self.dim},)")
        return vectors


def _decode(tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if "audio" in tables:
        made["audio"] = decode_flac(tables["audio"]["flac"]).tobytes()
    if "faces" in tables:
        faces = np.stack([decode_jpeg(data) for data in tables["faces"]["crops"]])
        made |= {"faces": faces.tobytes(), "faces_shape": list(faces.shape), "face_times": tables["faces"]["times"]}
    if "transcript" in tables:
        made["text"] = tables["transcript"]["text"]
    return made


def _read(prepared: pa.StructScalar) -> ClipInput | ClipError | None:
    """The encoder's input from a prepared row, without copying samples or pixels."""
    if not prepared.is_valid:
        return None
    if prepared["reason"].is_valid:
        return ClipError(Reason(prepared["reason"].as_py()), prepared["detail"].as_py())
    audio, faces = prepared["audio"], prepared["faces"]
    shape, times = prepared["faces_shape"].as_py(), prepared["face_times"].as_py()
    return ClipInput(
        audio=np.frombuffer(audio.as_buffer(), np.float32) if audio.is_valid else None,
        faces=np.frombuffer(faces.as_buffer(), np.uint8).reshape(shape) if faces.is_valid else None,
        face_times=None if times is None else np.array(times, np.float32),
        text=prepared["text"].as_py(),
    )


def _checked(vector: NDArray[np.float32] | ClipError) -> NDArray[np.float32] | ClipError:
    if isinstance(vector, ClipError) or np.isfinite(vector).all():
        return vector
    bad = int((~np.isfinite(vector)).sum())
    return ClipError(Reason.NOT_FINITE, f"{bad} of {len(vector)} numbers are NaN or infinite")

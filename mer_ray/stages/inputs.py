"""What encoders and training tasks read of a clip, from what its tables store: samples, pixels, text.

Shapes: S samples, F face frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mer_ray.data.media import decode_flac, decode_jpeg
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ClipError, Reason
from mer_ray.stages.isolate import attempt

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


def prepare(
    batch: pa.Table, reads: Sequence[str], hinted: str | None = None, hears: Literal["original", "chosen"] = "chosen"
) -> pa.Table:
    """Decode what the tables of a batch of clips store: columns ``clip_id`` and ``prepared``, see ``read_prepared``.

    Args:
        batch: ``clip_id`` and a struct column for each table, null where a clip has none.
        reads: names of the tables; a clip that lacks one of them is null.
        hinted: the text of a clip with a ``hint``, with the places ``{hint}`` and ``{text}``; None leaves hints alone.
        hears: which sound of a clip that was denoised.
    """
    inputs = [batch.column(name).to_pylist() for name in reads]
    if hinted is not None:
        said, hints = batch.column("transcript").to_pylist(), batch.column("hint").to_pylist()
        inputs[reads.index("transcript")] = [
            _hinted(text, hint, hinted) for text, hint in zip(said, hints, strict=True)
        ]
    if hears == "original" and "audio" in reads:
        inputs[reads.index("audio")] = [
            sound and {"flac": sound_of(sound, hears)} for sound in inputs[reads.index("audio")]
        ]
    made = [
        attempt(_decode, dict(zip(reads, tables, strict=True))) if all(tables) else None
        for tables in zip(*inputs, strict=True)
    ]
    return pa.table({"clip_id": batch.column("clip_id"), "prepared": as_prepared(made)})


def as_prepared(made: Sequence[Mapping[str, Any] | ClipError | None]) -> pa.Array:
    """The column ``prepared``: of each clip what was decoded, as bytes; why it could not be; or None for nothing."""
    rows = [{"reason": one.reason, "detail": one.detail} if isinstance(one, ClipError) else one for one in made]
    return pa.array(rows, _PREPARED)


def as_sound(sound: NDArray[np.float32] | ClipError | None) -> Mapping[str, Any] | ClipError | None:
    """A waveform, float32 (S,), as ``as_prepared`` takes it."""
    return {"audio": sound.tobytes()} if isinstance(sound, np.ndarray) else sound


def sound_of(row: Mapping[str, Any], hears: Literal["original", "chosen"]) -> bytes:
    """The FLAC of a row of the ``audio`` table: as it was, or as denoising chose."""
    chosen: bytes = row["flac"]
    return (row["original"] or chosen) if hears == "original" else chosen


def _hinted(said: dict[str, Any] | None, hint: dict[str, Any] | None, template: str) -> dict[str, Any] | None:
    """A transcript with its hint in the template; as it is without either."""
    if not said or not hint or not hint["ranking"]:
        return said
    return {**said, "text": template.replace("{hint}", ", ".join(hint["ranking"])).replace("{text}", said["text"])}


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


def read_prepared(prepared: pa.StructScalar) -> ClipInput | ClipError | None:
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

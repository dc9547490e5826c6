"""``predictions.parquet``: its columns, the same in order and type for a run's own clips and for new ones.

Shapes: K learners, N clips, C classes, n neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mer_ray.mining import base
from mer_ray.rounds.ensemble import Ensemble
from mer_ray.rounds.final import Final
from mer_ray.types import Split

_VOTE = "vote_"


@dataclass(frozen=True)
class Explained:
    """Why each clip got its label.

    Attributes:
        ensemble: who voted, and how the votes were combined.
        votes_KNC: what each learner of the final ensemble says, in its order; NaN rows where one abstains.
        weights: by modality, its share of the fusion (N,), mean over the learners that vote.
        falls: by modality, how much the label's probability falls without it (N,); see ``explain.leave_one_out``.
        nearest: int64 (N, n), rows of the labelled clips most like each, -1 where there are fewer; see ``neighbours``.
        speaker_clips: int64 (N,), how many clips of its speaker or voice each was standardised by; None where none was.
    """

    ensemble: Final
    votes_KNC: NDArray[np.float64]
    weights: Mapping[str, NDArray[np.float64]]
    falls: Mapping[str, NDArray[np.float64]]
    nearest: NDArray[np.int64]
    speaker_clips: NDArray[np.int64] | None = None


def schema(final: Final) -> pa.Schema:
    """The columns that an ensemble's predictions have, in order; null is what is not known or does not apply."""
    modalities = list(dict.fromkeys(feature.modality for feature in final.features))
    names = pa.list_(pa.string())
    return pa.schema(
        [
            ("clip_id", pa.string()),
            ("split", pa.string()),
            ("label", pa.string()),
            ("confidence", pa.float64()),
            *((f"prob_{name}", pa.float64()) for name in final.class_names),
            *((f"{_VOTE}{voter.name}", pa.string()) for voter in final.voters),
            *([("valence", pa.float64())] if final.valence is not None else []),
            *((f"weight_{modality}", pa.float64()) for modality in modalities),
            *((f"without_{modality}", pa.float64()) for modality in modalities),
            ("round", pa.int64()),
            ("given", pa.string()),
            ("nearest", names),
            ("nearest_given", names),
            ("speaker_clips", pa.int64()),
        ]
    )


def table(
    clip_ids: Sequence[str],
    splits: Sequence[Split],
    said: Ensemble,
    explained: Explained,
    valence: NDArray[np.float64] | None,
    others: Mapping[str, Any],
) -> pa.Table:
    """A row per clip.

    Args:
        clip_ids: of the clips.
        splits: as the manifest has them.
        said: the label and the probabilities of each.
        explained: why.
        valence: float64 (N,); None where it is not learnt.
        others: the columns ``round``, ``given``, ``nearest`` and ``nearest_given``, those that are known.
    """
    names = explained.ensemble.class_names
    columns: dict[str, Any] = {
        "clip_id": list(clip_ids),
        "split": [str(split) for split in splits],
        "label": [names[c] for c in said.label],
        "confidence": said.confidence,
    }
    columns |= {f"prob_{name}": said.probabilities[:, c] for c, name in enumerate(names)}
    for voter, votes in zip(explained.ensemble.voters, base.predicted(explained.votes_KNC), strict=True):
        columns[f"{_VOTE}{voter.name}"] = [names[vote] if vote >= 0 else None for vote in votes]
    if valence is not None and explained.ensemble.valence is not None:  # else no clip taught it
        columns["valence"] = valence
    columns |= {f"weight_{modality}": weights for modality, weights in explained.weights.items()}
    if explained.speaker_clips is not None:
        columns["speaker_clips"] = explained.speaker_clips
    columns |= {f"without_{modality}": -falls for modality, falls in explained.falls.items()}
    return _fill(schema(explained.ensemble), columns | dict(others))


def unvoted(predictions: pa.Table) -> frozenset[str]:
    """The clips that no learner could vote on: theirs is the commonest class, by its share of the labelled clips."""
    votes = [name for name in predictions.column_names if name.startswith(_VOTE)]
    silent = np.all([predictions[name].is_null().to_numpy() for name in votes], axis=0)
    return frozenset(predictions["clip_id"].filter(pa.array(silent)).to_pylist())


def _fill(shape: pa.Schema, columns: Mapping[str, Any]) -> pa.Table:
    """NaN becomes null; a column that is not given is null throughout."""
    if unknown := sorted(set(columns) - set(shape.names)):
        raise AssertionError(f"predictions.parquet has no column {', '.join(unknown)}")
    num_clips = len(columns["clip_id"])
    return pa.Table.from_arrays(
        [
            pa.array(columns[field.name], field.type, from_pandas=True)
            if field.name in columns
            else pa.nulls(num_clips, field.type)
            for field in shape
        ],
        schema=shape,
    )

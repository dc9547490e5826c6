"""The file that a challenge wants: every candidate exactly once, joined by name (LAYOUTS, submissions)."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from mer_ray.data import sheet
from mer_ray.data.manifest import Manifest
from mer_ray.errors import ManifestError, SubmissionError
from mer_ray.types import SYNONYMS, Split

Format = Literal["mer2024", "mer2023"]

_SPELLINGS = {"anger": "angry", "happiness": "happy", "sadness": "sad", "worry": "worried"}
"""The classes as the challenge's own label files spell them; others are written as they are."""


_UNVOTED = "no learner could vote"


@dataclass(frozen=True)
class StandIn:
    """What a clip without a prediction is submitted as."""

    label: str
    valence: float


@dataclass(frozen=True)
class Submission:
    """The two files.

    Attributes:
        submission: ``submission.csv``.
        fallback: ``submission_fallback.csv``, the candidates that got the commonest class and why: ``name,reason``.
        num_fallback: how many those are.
    """

    submission: bytes
    fallback: bytes
    num_fallback: int


def read_candidates(uri: str) -> tuple[str, ...]:
    """The candidates of ``submission.candidates``, a CSV with a column ``name``, in its order.

    Raises:
        SubmissionError: the file cannot be used.
    """
    try:
        return sheet.read_names(uri)
    except ManifestError as error:
        raise SubmissionError(str(error)) from error


def check_candidates(manifest: Manifest, candidates: Sequence[str] | None) -> tuple[str, ...]:
    """The candidates, by default every clip that is not for training; to be called before any work.

    Raises:
        SubmissionError: a candidate comes twice or is no clip of the manifest.
    """
    if candidates is None:
        return tuple(clip.clip_id for clip in manifest.clips if clip.split is not Split.TRAIN)
    known = {clip.clip_id for clip in manifest.clips}
    _refuse("come twice in the candidates' list", (name for name, count in Counter(candidates).items() if count > 1))
    _refuse("of the candidates' list are not in the manifest", (name for name in candidates if name not in known))
    return tuple(candidates)


def make(
    manifest: Manifest,
    predictions: pa.Table,
    quarantined: Mapping[str, str],
    candidates: Sequence[str] | None = None,
    form: Format = "mer2024",
    stand_in: StandIn | None = None,
    unvoted: Collection[str] = (),
) -> Submission:
    """Write the submission.

    Args:
        manifest: the job's clips.
        predictions: ``clip_id``, ``label``, and for ``mer2023`` ``valence``; in any order.
        quarantined: the reason of each clip that has no prediction; these get the stand-in.
        candidates: the clips wanted, in order; default every clip that is not for training, in the manifest's order.
        form: ``mer2024`` writes ``name,discrete``, ``mer2023`` also ``valence``.
        stand_in: of clips that have no prediction; default the manifest's commonest training class and its mean
            training valence, or 0.
        unvoted: clips whose prediction is itself the commonest class, because no learner could vote.

    Raises:
        SubmissionError: a name is doubled or unknown, a candidate has neither a prediction nor a reason, or ``mer2023``
            is wanted without a valence for every candidate.
    """
    wanted = check_candidates(manifest, candidates)
    labels = _predicted(manifest, predictions)
    _refuse("have neither a prediction nor a reason", (n for n in wanted if n not in labels and n not in quarantined))
    reasons = {**quarantined, **dict.fromkeys(labels, ""), **dict.fromkeys(unvoted, _UNVOTED)}
    fallback = [[name, reasons[name]] for name in wanted if reasons[name]]
    stand_in = stand_in or _stand_in(manifest)
    rows = {name: [spell(labels.get(name, stand_in.label))] for name in wanted}
    if form == "mer2023":
        valences = _valences(manifest, predictions)
        for name, row in rows.items():
            row.append(_valence(name, valences.get(name) if name in labels else stand_in.valence))
    header = ["name", "discrete", "valence"][: 3 if form == "mer2023" else 2]
    return Submission(
        _to_csv(header, ([name, *row] for name, row in rows.items())),
        _to_csv(["name", "reason"], fallback),
        len(fallback),
    )


def commonest_class(manifest: Manifest) -> str:
    """The class with the most training clips; of several the first of the label space."""
    counts = Counter(clip.label for clip in manifest.clips if clip.split is Split.TRAIN)
    return max(manifest.label_space.names, key=lambda name: counts[name])


def spell(label: str) -> str:
    """A class as the challenge spells it.

    >>> spell("happiness"), spell("neutral"), spell("boredom")
    ('happy', 'neutral', 'boredom')
    """
    return _SPELLINGS.get(SYNONYMS.get(label.lower(), label.lower()), label)


def _predicted(manifest: Manifest, predictions: pa.Table) -> dict[str, str]:
    names: list[str] = predictions["clip_id"].to_pylist()
    known = {clip.clip_id for clip in manifest.clips}
    _refuse("are predicted twice", (name for name, count in Counter(names).items() if count > 1))
    _refuse("are predicted and not in the manifest", (name for name in names if name not in known))
    labels: dict[str, str] = dict(zip(names, predictions["label"].to_pylist(), strict=True))
    _refuse("have a prediction without a label", (name for name, label in labels.items() if not label))
    return labels


def _valences(manifest: Manifest, predictions: pa.Table) -> dict[str, float]:
    if "valence" not in predictions.column_names:
        raise SubmissionError("submission.format=mer2023 needs a valence, and none is predicted; set mer2024")
    return dict(zip(predictions["clip_id"].to_pylist(), predictions["valence"].to_pylist(), strict=True))


def _stand_in(manifest: Manifest) -> StandIn:
    known = [c.valence for c in manifest.clips if c.split is Split.TRAIN and c.valence is not None]
    return StandIn(commonest_class(manifest), math.fsum(known) / len(known) if known else 0.0)


def _valence(name: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        raise SubmissionError(f"submission.format=mer2023 needs a valence for every candidate; {name!r} has {value}")
    return f"{value:.6g}"


def _refuse(what: str, names: Iterable[str]) -> None:
    found = list(names)
    if found:
        shown = ", ".join(map(repr, found[:10])) + (", ..." if len(found) > 10 else "")
        raise SubmissionError(f"the submission is refused: {len(found)} clip(s) {what}: {shown}")


def _to_csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()

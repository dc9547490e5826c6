"""What comes out of a job: predictions, quarantine, submission and the figures of ``metrics.json``."""

from __future__ import annotations

import io
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mer_ray.config import MineConfig
from mer_ray.data.storage import Store
from mer_ray.evaluation import metrics, submission
from mer_ray.learners.experiment import Experiment
from mer_ray.pipelines.features import Extraction, Quarantined, quarantine_table
from mer_ray.pipelines.source import Brought
from mer_ray.runtime.journal import Journal
from mer_ray.tune.controller import Ablations, Mined, num_clips
from mer_ray.types import Split

EXIT_TOO_MANY_ERRORS = 3
"""What a job ends with when more than ``max_error_fraction`` of the clips were quarantined."""


@dataclass(frozen=True)
class Run:
    """Everything a finished job knows, for the writers of its results."""

    settings: MineConfig
    brought: Brought
    extraction: Extraction
    experiment: Experiment
    mined: Mined
    ablations: Ablations | None

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, in order."""
        return self.experiment.class_names

    @property
    def truth(self) -> NDArray[np.int64]:
        """Class of every clip whose true label is known, for scoring alone; int64 (N,), -1 where it is not."""
        space, known = self.brought.manifest.label_space, self.brought.truth
        ids = self.experiment.features.clip_ids
        return np.array([space.index(known[clip_id]) if clip_id in known else -1 for clip_id in ids], dtype=np.int64)

    @property
    def test_truth(self) -> NDArray[np.int64]:
        """As ``truth``, of the test clips alone."""
        is_test = np.array([split is Split.TEST for split in self.experiment.splits], dtype=bool)
        return np.where(is_test, self.truth, -1)

    def test_waf(self, label: NDArray[np.int64]) -> float | None:
        """WAF of predicted classes (N,) on the test clips; None when none of them has a label."""
        scores = metrics.score(self.test_truth, label, self.names)
        return None if scores is None else scores.waf


def predictions(run: Run) -> pa.Table:
    """``predictions.parquet``: a row for every clip that is not quarantined (DESIGN section 3)."""
    final, last = run.mined.final, run.mined.last
    columns: dict[str, Any] = {
        "clip_id": list(run.experiment.features.clip_ids),
        "split": [str(split) for split in run.experiment.splits],
        "label": [run.names[c] for c in final.label],
        "confidence": final.confidence,
    }
    columns |= {f"prob_{name}": final.probabilities[:, c] for c, name in enumerate(run.names)}
    for learner in last.learners:
        votes = last.votes[learner]
        columns[f"vote_{learner}"] = [None if np.isnan(vote).any() else run.names[int(vote.argmax())] for vote in votes]
    columns |= {f"weight_{modality}": weights for modality, weights in modality_weights(run).items()}
    columns["round"] = adopted_round(run)
    return pa.table(columns)


def modality_weights(run: Run) -> dict[str, NDArray[np.float64]]:
    """By modality, its share of the fusion per clip (N,), mean over the learners that have votes; rows sum to 1."""
    features = {feature.name: feature.modality for feature in run.experiment.features.features}
    modalities = list(dict.fromkeys(features.values()))
    shares = []
    for learner in run.mined.last.learners:
        weights = run.mined.last.weights[learner]
        own = [features[name] for name in run.mined.learners[learner].features]
        by_modality = [weights[:, [m == modality for m in own]].sum(axis=1) for modality in modalities]
        shares.append(np.stack(by_modality, axis=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a clip on which every learner abstains has no weights
        mean_NM = np.nanmean(np.stack(shares), axis=0)
    return {modality: mean_NM[:, m] for m, modality in enumerate(modalities)}


def adopted_round(run: Run) -> NDArray[np.int64]:
    """The round whose training set each clip first joined as pseudo-labelled, in most folds or fewer; 0 if none."""
    rounds = np.zeros(len(run.experiment.labels), dtype=np.int64)
    adoptions = run.mined.last.trained_on
    for row in np.argsort(-adoptions.round, kind="stable"):
        rounds[adoptions.clip[row]] = adoptions.round[row] + 1
    return rounds


def measure(run: Run, journal: Journal) -> dict[str, Any]:
    """``metrics.json`` (DESIGN section 3), and some more figures of the same run."""
    scores = metrics.score(run.test_truth, run.mined.final.label, run.names)
    rounds = [
        {
            "round": one.number,
            "oof_waf": one.oof_waf,
            "test_waf": run.test_waf(one.mean.label),
            "selected": num_clips(one.selected),
            "kept": one.kept,
            "reason": one.reason,
            "pseudo_label_precision": precision(run, one.selected.clip, one.selected.label),
            "learners": dict(one.learner_waf),
        }
        for one in run.mined.rounds
    ]
    manifest, lost = len(run.brought.clips), len(run.extraction.lost)
    predicted = len(run.experiment.features.clip_ids)
    if manifest != predicted + lost:
        raise AssertionError(f"{manifest} clips in the manifest, {predicted} predicted, {lost} quarantined")
    ablations = run.ablations
    control = ablations.control if ablations else None
    return {
        "test": {name: getattr(scores, name) if scores else None for name in ("waf", "macro_f1", "accuracy")},
        "scores": scores.to_json() if scores else None,
        "rounds": rounds,
        "modalities": {
            name: {"test_waf": run.test_waf(label)}
            for name, label in (ablations.modalities if ablations else {}).items()
        },
        "control": {"test_waf": None if control is None else run.test_waf(control)},
        "counts": {"manifest": manifest, "predicted": predicted, "quarantined": lost},
        "quarantine": dict(Counter(str(row.error) for row in run.extraction.quarantine).most_common()),
        "seconds": {step: round(work["seconds"], 3) for step, work in journal.work().items()},
        "seed": run.settings.seed,
    }


def precision(run: Run, clips: NDArray[np.int64], labels: NDArray[np.int64]) -> float | None:
    """Share of adopted labels that are right, of those whose truth is known; None when none is."""
    truth = run.truth[clips]
    known = truth >= 0
    return float((truth[known] == labels[known]).mean()) if known.any() else None


def write(run: Run, run_dir: Store, figures: dict[str, Any]) -> None:
    """Write predictions, submission and figures. ``quarantine.parquet`` is there already.

    Raises:
        SubmissionError: the candidates and the predictions do not match one to one.
    """
    table = predictions(run)
    run_dir.write("predictions.parquet", to_parquet(table))
    reasons = why_lost(run.extraction, [clip.clip_id for clip in run.brought.clips])
    made = submission.make(run.brought.manifest, table, reasons, run.brought.candidates, run.settings.submission.format)
    run_dir.write("submission.csv", made.submission)
    run_dir.write("submission_fallback.csv", made.fallback)
    run_dir.write("metrics.json", json.dumps(figures, indent=1, ensure_ascii=False).encode())


def write_quarantine(run_dir: Store, rows: Iterable[Quarantined]) -> None:
    """Write ``quarantine.parquet``."""
    run_dir.write("quarantine.parquet", to_parquet(quarantine_table(rows)))


def why_lost(extraction: Extraction, clip_ids: Sequence[str]) -> dict[str, str]:
    """The reasons of each clip that has no modality left."""
    reasons: dict[str, list[str]] = {}
    for row in extraction.quarantine:
        reasons.setdefault(row.clip_id, []).append(f"{row.step}: {row.error}")
    return {clip_id: "; ".join(sorted(reasons[clip_id])) for clip_id in clip_ids if clip_id in extraction.lost}


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()

"""What comes out of a job: predictions, quarantine, submission and the figures of ``metrics.json``."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
from mer_ray.mining import base
from mer_ray.pipelines import finished, hidden, neighbours
from mer_ray.pipelines.features import Extraction, Quarantined, quarantine_table
from mer_ray.pipelines.source import Brought
from mer_ray.rounds.ensemble import Ensemble
from mer_ray.rounds.final import Final, Read, Voter
from mer_ray.runtime.journal import Journal
from mer_ray.tune.ablations import Ablations
from mer_ray.tune.controller import Mined, num_clips
from mer_ray.types import Split

EXIT_TOO_MANY_ERRORS = 3
"""What a job ends with when more than ``max_error_fraction`` of the clips were quarantined."""

_NEIGHBOURS = 5


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

    @property
    def held_out(self) -> NDArray[np.int64]:
        """The fold that holds out each clip labelled for training, int64 (N,); -1 for all others."""
        held_out = np.full(len(self.experiment.labels), -1, dtype=np.int64)
        held_out[self.experiment.labelled] = self.mined.folds.held_out
        return held_out

    def test_waf(self, label: NDArray[np.int64]) -> float | None:
        """WAF of predicted classes (N,) on the test clips; None when none of them has a label."""
        scores = metrics.score(self.test_truth, label, self.names)
        return None if scores is None else scores.waf


@dataclass(frozen=True)
class Explained:
    """Why each clip got its label.

    Attributes:
        ensemble: who voted, and how the votes were combined.
        votes_KNC: what each learner of the final ensemble says, in its order; NaN rows where one abstains.
        weights: by modality, its share of the fusion (N,), mean over the learners that vote.
        falls: by modality, how much the label's probability falls without it (N,); see ``explain.leave_one_out``.
        nearest: int64 (N, n), rows of the labelled clips most like each, -1 where there are fewer; see ``neighbours``.
    """

    ensemble: Final
    votes_KNC: NDArray[np.float64]
    weights: Mapping[str, NDArray[np.float64]]
    falls: Mapping[str, NDArray[np.float64]]
    nearest: NDArray[np.int64]


def explain(run: Run, run_dir: Store) -> Explained:
    """Write ``rounds/final.json``, ask that ensemble about every clip with each modality hidden, find clips like it.

    Raises:
        CorruptPartError: a learner's files are damaged.
    """
    final, rounds, features = final_of(run), run.mined.rounds, run.experiment.features
    final.write(run_dir / "rounds")
    ensemble = finished.read(run_dir)
    votes_KNC = np.stack([np.mean([rounds[r].votes[v.name] for r in v.rounds], axis=0) for v in final.voters])
    weights = [np.mean([rounds[r].weights[v.name] for r in v.rounds], axis=0) for v in final.voters]
    return Explained(
        final,
        votes_KNC,
        ensemble.by_modality(weights),
        hidden.effects(ensemble, features, votes_KNC, run.mined.final.label, run.held_out),
        neighbours.nearest(ensemble, features, run.experiment.labelled, _NEIGHBOURS),
    )


def final_of(run: Run) -> Final:
    """What the run's final ensemble is made of."""
    mined, kept = run.mined, [one.number for one in run.mined.rounds if one.kept]
    named = {"last": kept[-1:], "first_and_last": sorted({kept[0], kept[-1]}), "all": kept}
    voters = []
    for name in mined.last.learners:
        rounds = [mined.rounds[r] for r in named[run.settings.mining.rounds_kept] if name in mined.rounds[r].votes]
        temperatures = tuple(one.temperatures[name] for one in rounds) if run.settings.mining.calibrate else ()
        voters.append(Voter(name, tuple(one.number for one in rounds), mined.weights[name], temperatures))
    return Final(
        how=run.settings.ensemble,
        class_names=run.names,
        prior=tuple(run.experiment.prior.tolist()),
        voters=tuple(voters),
        features=tuple(Read(f.name, f.modality, f.values.shape[1]) for f in run.experiment.features.features),
        valence=run.experiment.mean_valence if run.settings.fit.valence else None,
    )


def predictions(run: Run, explained: Explained) -> pa.Table:
    """``predictions.parquet``: a row for every clip that is not quarantined (DESIGN section 3)."""
    ids, labels = run.experiment.features.clip_ids, run.experiment.labels
    said = say(ids, run.experiment.splits, run.mined.final, explained, run.mined.valence)
    given = [run.names[c] if c >= 0 else None for c in labels]
    near = [[int(row) for row in rows if row >= 0] for rows in explained.nearest]
    return pa.table(
        said
        | {
            "round": adopted_round(run),
            "given": pa.array(given, pa.string()),
            "nearest": pa.array([[ids[row] for row in rows] for rows in near], pa.list_(pa.string())),
            "nearest_given": pa.array([[given[row] for row in rows] for rows in near], pa.list_(pa.string())),
        }
    )


def say(
    clip_ids: Sequence[str],
    splits: Sequence[Split],
    said: Ensemble,
    explained: Explained,
    valence: NDArray[np.float64] | None,
) -> dict[str, Any]:
    """The columns of ``predictions.parquet`` that any clip has, of the run's own or not."""
    names = explained.ensemble.class_names
    columns: dict[str, Any] = {
        "clip_id": list(clip_ids),
        "split": [str(split) for split in splits],
        "label": [names[c] for c in said.label],
        "confidence": said.confidence,
    }
    columns |= {f"prob_{name}": said.probabilities[:, c] for c, name in enumerate(names)}
    for voter, votes in zip(explained.ensemble.voters, base.predicted(explained.votes_KNC), strict=True):
        columns[f"vote_{voter.name}"] = pa.array([names[vote] if vote >= 0 else None for vote in votes], pa.string())
    if valence is not None:
        columns["valence"] = valence
    columns |= {f"weight_{modality}": weights for modality, weights in explained.weights.items()}
    columns |= {f"without_{m}": pa.array(-falls, from_pandas=True) for m, falls in explained.falls.items()}
    return columns


def adopted_round(run: Run) -> NDArray[np.int64]:
    """The round whose training set each clip first joined as pseudo-labelled, in most folds or fewer; 0 if none."""
    rounds, adoptions = np.zeros(len(run.experiment.labels), dtype=np.int64), run.mined.last.trained_on
    latest_first = np.argsort(-adoptions.round, kind="stable")
    rounds[adoptions.clip[latest_first]] = adoptions.round[latest_first] + 1  # of several the last assignment stays
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
            "adopted": _by_class(run, one.selected.label[np.unique(one.selected.clip, return_index=True)[1]]),
            "pool": _by_class(run, one.mean.label[run.experiment.labels < 0]),
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
        "quarantine": count_errors(run.extraction),
        "seconds": seconds(journal),
        "seed": run.settings.seed,
    }


def _by_class(run: Run, labels: NDArray[np.int64]) -> dict[str, int]:
    """How many of the labels are of each class."""
    return dict(zip(run.names, np.bincount(labels, minlength=len(run.names)).tolist(), strict=True))


def precision(run: Run, clips: NDArray[np.int64], labels: NDArray[np.int64]) -> float | None:
    """Share of adopted labels that are right, of those whose truth is known; None when none is."""
    truth = run.truth[clips]
    known = truth >= 0
    return float((truth[known] == labels[known]).mean()) if known.any() else None


def count_errors(extraction: Extraction) -> dict[str, int]:
    """How many errors there are of each reason, the commonest first."""
    return dict(Counter(str(row.error) for row in extraction.quarantine).most_common())


def seconds(journal: Journal) -> dict[str, float]:
    """Seconds of each step, over all starts."""
    return {step: round(work["seconds"], 3) for step, work in journal.work().items()}


def write(run: Run, explained: Explained, run_dir: Store, figures: dict[str, Any]) -> None:
    """Write what a run found; see ``write_all``."""
    table, form = predictions(run, explained), run.settings.submission.format
    write_all(run_dir, table, figures, run.brought, run.extraction, form)


def write_all(
    run_dir: Store,
    table: pa.Table,
    figures: Mapping[str, Any],
    brought: Brought,
    extraction: Extraction,
    form: submission.Format,
    stand_in: str | None = None,
) -> None:
    """Write predictions, submission and figures. ``quarantine.parquet`` is there already.

    Raises:
        SubmissionError: the candidates and the predictions do not match one to one.
    """
    run_dir.write("predictions.parquet", to_parquet(table))
    reasons = why_lost(extraction, [clip.clip_id for clip in brought.clips])
    made = submission.make(brought.manifest, table, reasons, brought.candidates, form, stand_in)
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

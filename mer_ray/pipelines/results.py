"""What comes out of a job: predictions, quarantine, submission and the figures of ``metrics.json``."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mer_ray.config import MineConfig
from mer_ray.data.storage import Store
from mer_ray.evaluation import metrics, submission, verdict
from mer_ray.evaluation.metrics import Scores
from mer_ray.learners.experiment import Experiment
from mer_ray.pipelines import finished, hidden, neighbours, predictions
from mer_ray.pipelines.features import Extraction, Quarantined, quarantine_table
from mer_ray.pipelines.noise_track import Case
from mer_ray.pipelines.predictions import Explained
from mer_ray.pipelines.source import Brought
from mer_ray.rounds.ensemble import Ensemble
from mer_ray.rounds.final import Final, Read, Voter
from mer_ray.runtime.journal import Journal
from mer_ray.tune.ablations import Ablations
from mer_ray.tune.mined import Mined, num_clips
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
    noise: tuple[Case, ...] = ()

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
    def without_label(self) -> NDArray[np.bool_]:
        """The clips that the manifest gives no label, bool (N,); the label of a test clip is there to score by."""
        given = {clip.clip_id: clip.label for clip in self.brought.clips}
        return np.array([given[clip_id] is None for clip_id in self.experiment.features.clip_ids], dtype=bool)

    @property
    def scored_on(self) -> Literal["test", "out-of-fold"]:
        """What the ensemble is scored on: test clips, or where none has a label the labelled clips out of fold."""
        return "test" if (self.test_truth >= 0).any() else "out-of-fold"

    @cached_property
    def scores(self) -> Scores | None:
        """Of the final ensemble, on what it is scored on."""
        return metrics.score(self.scored, self.mined.final.label, self.names)

    @property
    def scored(self) -> NDArray[np.int64]:
        """Class of the clips that the ensemble is scored on, int64 (N,), -1 for all others."""
        return self.test_truth if self.scored_on == "test" else self.experiment.labels

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


def explain(run: Run, run_dir: Store) -> Explained:
    """Write ``rounds/final.json``, ask that ensemble about every clip with each modality hidden, find clips like it.

    Raises:
        CorruptPartError: a learner's files are damaged.
    """
    final, last, features = final_of(run), run.mined.last, run.experiment.features
    final.write(run_dir / "rounds")
    ensemble = finished.read(run_dir)
    votes_KNC = np.stack([last.votes[voter.name] for voter in final.voters])
    return Explained(
        final,
        votes_KNC,
        ensemble.by_modality([last.weights[voter.name] for voter in final.voters]),
        hidden.effects(ensemble, features, votes_KNC, run.mined.final.label, run.held_out),
        neighbours.nearest(ensemble, features, run.experiment.labelled, _NEIGHBOURS),
        finished.rests_on(run_dir, run.extraction.features, run.experiment.speakers),
    )


def final_of(run: Run) -> Final:
    """What the run's final ensemble is made of."""
    last = run.mined.last
    voters = tuple(Voter(name, last.number, last.temperatures[name]) for name in last.learners)
    return Final(
        how=run.mined.how,
        class_names=run.names,
        prior=tuple(run.experiment.prior.tolist()),
        voters=voters,
        features=tuple(Read(f.name, f.modality, f.values.shape[1]) for f in run.experiment.features.features),
        temperature=run.mined.temperature,
        valence=run.experiment.mean_valence if run.settings.fit.valence else None,
    )


def predicted(run: Run, explained: Explained) -> pa.Table:
    """``predictions.parquet``: a row for every clip that is not quarantined (DESIGN section 3)."""
    ids, labels = run.experiment.features.clip_ids, run.experiment.labels
    given = [run.names[c] if c >= 0 else None for c in labels]
    near = [[int(row) for row in rows if row >= 0] for rows in explained.nearest]
    others = {
        "round": [int(number) if number >= 0 else None for number in run.mined.adopted],
        "given": given,
        "nearest": [[ids[row] for row in rows] for rows in near],
        "nearest_given": [[given[row] for row in rows] for rows in near],
    }
    return predictions.table(ids, run.experiment.splits, run.mined.final, explained, run.mined.valence, others)


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
            "pool": _by_class(run, one.mean.label[run.without_label]),
            "pseudo_label_precision": precision(run, one.selected.clip, one.selected.label),
            "learners": dict(one.learner_waf),
        }
        for one in run.mined.rounds
    ]
    ablations, choice = run.ablations, run.mined.choice
    control = ablations.control if ablations else None
    return {
        "test": test(run.test_truth, run.mined.final, run.mined.last.raw, run.names),
        "scores": scores.to_json() if scores else None,
        **judged(run.scores),
        "scored_on": run.scored_on,
        "adopted": int((run.mined.adopted >= 0).sum()),
        "adoptable": int(run.experiment.pool.sum()),
        "rounds": rounds,
        "modalities": {
            name: {"test_waf": run.test_waf(label)}
            for name, label in (ablations.modalities if ablations else {}).items()
        },
        "candidates": {name: asdict(judged) for name, judged in choice.judged.items()} if choice else {},
        "oof": _out_of_fold(run),
        "noise": {case.name: case.to_json() for case in run.noise},
        "control": {"test_waf": None if control is None else run.test_waf(control)},
        "counts": count(run.brought, run.extraction, len(run.experiment.features.clip_ids)),
        "quarantine": count_errors(run.extraction),
        "seconds": seconds(journal),
        "seed": run.settings.seed,
    }


def test(
    truth: NDArray[np.int64], final: Ensemble, raw_NC: NDArray[np.float64], names: Sequence[str]
) -> dict[str, float | None]:
    """``test`` of ``metrics.json``: scores, and how far the probabilities are off, tempered and as they were given.

    Args:
        truth: int64 (N,), -1 where a clip is no test clip or its label is not known; all are null where none is.
        final: the last word on each clip.
        raw_NC: probabilities before any was tempered.
        names: the classes.
    """
    scores, rows = metrics.score(truth, final.label, names), truth >= 0
    told = {name: getattr(scores, name) if scores else None for name in ("waf", "macro_f1", "accuracy")}
    for name, said in (("ece", final.probabilities), ("ece_raw", raw_NC)):
        told[name] = metrics.calibration_error(said[rows], final.label[rows], truth[rows]) if scores else None
    return told


def _out_of_fold(run: Run) -> dict[str, Any]:
    """How well labelled clips were answered by models that had not seen them, chosen by others than these clips."""
    rows, final = run.experiment.labelled, run.mined.final
    truth, label, choice = run.experiment.labels[rows], final.label[rows], run.mined.choice
    return {
        "waf": choice.oof_waf if choice else metrics.waf(truth, label),
        "reason": choice.reason if choice else "",
        "ece": metrics.calibration_error(final.probabilities[rows], label, truth),
    }


def judged(scores: Scores | None) -> dict[str, Any]:
    """The figures of ``metrics.json`` that say whether labels are better than chance, all null where none is scored."""
    found = verdict.judge(scores)
    if found is None:
        return {"chance": None, "above_chance": None, "ensemble": None}
    ensemble = {"waf": found.waf, "interval": list(found.interval), "num_clips": found.num_clips}
    return {"chance": found.chance, "above_chance": found.above_chance, "ensemble": ensemble}


def count(brought: Brought, extraction: Extraction, num_predicted: int) -> dict[str, int]:
    """``counts`` of ``metrics.json``; every clip of the manifest is predicted or quarantined."""
    manifest, lost = len(brought.clips), len(extraction.lost)
    if manifest != num_predicted + lost:
        raise AssertionError(f"{manifest} clips in the manifest, {num_predicted} predicted, {lost} quarantined")
    return {"manifest": manifest, "predicted": num_predicted, "quarantined": lost}


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
    table, form = predicted(run, explained), run.settings.submission.format
    write_all(run_dir, table, figures, run.brought, run.extraction, form)


def write_all(
    run_dir: Store,
    table: pa.Table,
    figures: Mapping[str, Any],
    brought: Brought,
    extraction: Extraction,
    form: submission.Format,
    stand_in: submission.StandIn | None = None,
) -> None:
    """Write predictions, submission and figures. ``quarantine.parquet`` is there already.

    Raises:
        SubmissionError: the candidates and the predictions do not match one to one.
    """
    run_dir.write("predictions.parquet", to_parquet(table))
    reasons = why_lost(extraction, [clip.clip_id for clip in brought.clips])
    unvoted = predictions.unvoted(table)
    made = submission.make(brought.manifest, table, reasons, brought.candidates, form, stand_in, unvoted)
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

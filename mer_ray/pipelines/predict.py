"""The prediction job: new clips in, the labels that a finished run would have given them out.

Read ``run`` aloud: the finished run; the new clips; the same features; its learners' votes; predictions, submission.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from mer_ray.config import MineConfig, PredictConfig, TablesConfig
from mer_ray.data.room import Room
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, FeatureFileError, ManifestError, MaterialiseError
from mer_ray.evaluation import metrics
from mer_ray.evaluation.submission import StandIn
from mer_ray.pipelines import estimate, features, finished, hidden, planning, predictions, results, source, summary
from mer_ray.pipelines.features import Extraction
from mer_ray.pipelines.finished import Answer, Finished
from mer_ray.pipelines.predictions import Explained
from mer_ray.pipelines.results import EXIT_TOO_MANY_ERRORS
from mer_ray.pipelines.source import Brought
from mer_ray.rounds.ensemble import mean_valence
from mer_ray.rounds.final import Final
from mer_ray.runtime.journal import Journal
from mer_ray.runtime.session import resolve_run_dir, session
from mer_ray.types import Split


def run(settings: PredictConfig, dry_run: bool = False) -> int:
    """Do the job, or continue it.

    Args:
        settings: what to do.
        dry_run: only say what would be made, and stop.

    Returns:
        The exit code: 0, or 3 when more than ``max_error_fraction`` of the clips were quarantined.

    Raises:
        InputError: bad input or config, or no finished run, before anything is started.
        MerRayError: the job failed; the same call continues it.
    """
    console = Console(highlight=False)
    model = _model(settings)
    job, ensemble = finished.read_settings(model), finished.read(model)
    job = _told(settings, job, ensemble.final, model)
    planning.check(job)
    run_dir, tables = source.stores(job)
    brought = _bring(job, ensemble.final, run_dir, console, dry_run)
    if dry_run:
        estimate.tell(job, brought.clips, tables, console)
        return 0
    steps = planning.plan(job, brought.clips, tables)
    room = Room(job.fit.memory_bytes)
    vectors = source.vectors(brought, room)
    finished.check_widths(ensemble.final, [loaded.feature for loaded in vectors])
    journal = Journal(run_dir)
    journal.open(settings)
    console.print(f"run directory: {run_dir}", soft_wrap=True)
    gather = partial(features.collect, job, brought.clips, vectors=vectors, room=room)
    with session(job.runtime) if steps else nullcontext():
        extraction = features.read(steps, job, journal, console, gather)
    results.write_quarantine(run_dir, extraction.quarantine)
    join = settings.predict.new_speakers == "batch"
    table, answer = _predict(ensemble, brought, extraction, model, room, join=join)
    figures = _measure(brought, extraction, answer, finished.trained_on(model), journal)
    stand_in = StandIn(ensemble.final.class_names[int(np.argmax(ensemble.final.prior))], ensemble.final.valence or 0.0)
    results.write_all(run_dir, table, figures, brought, extraction, job.submission.format, stand_in)
    summary.show_prediction(console, figures, run_dir)
    journal.event("run_done", counts=figures["counts"])
    too_many = len(extraction.lost) > job.max_error_fraction * len(brought.clips)
    return EXIT_TOO_MANY_ERRORS if too_many else 0


def _model(settings: PredictConfig) -> Store:
    """The finished run's directory."""
    if not settings.model:
        raise ConfigError("model is not set; give the directory of a finished run, the run.dir of jobs/mine.py")
    model = Store(resolve_run_dir(settings.model))
    if model.root == Store(resolve_run_dir(settings.run.dir)).root:
        raise ConfigError(f"run.dir and model are both {model}: its predictions would be lost; set another run.dir")
    return model


def _told(settings: PredictConfig, job: MineConfig, final: Final, model: Store) -> MineConfig:
    """The run's settings with this job's clips and places; tables are shared with the run unless told otherwise."""
    tables = settings.tables.dir or job.tables.dir or model.path("tables")
    names = {feature.name for feature in final.features}
    return job.model_copy(
        update={
            "run": settings.run,
            "data": settings.data,
            "labels": list(final.class_names),
            "tables": TablesConfig(dir=tables),
            "encoders": {name: encoder for name, encoder in job.encoders.items() if name in names},
            "submission": settings.submission,
            "runtime": settings.runtime,
            "max_error_fraction": settings.max_error_fraction,
        }
    )


def _bring(job: MineConfig, final: Final, run_dir: Store, console: Console, dry_run: bool) -> Brought:
    """The new clips, and of their ready features those that the run learnt from.

    Raises:
        ManifestError: see ``source.load``; or a label is none of the run's classes.
        FeatureFileError: nothing gives a feature that the run learnt from.
    """
    try:
        brought = source.load(job, run_dir, console, to_learn=False, dry_run=dry_run)
    except ManifestError as error:
        raise ManifestError(f"{error}\n(the run's classes: {', '.join(final.class_names)})") from error
    source.warn(brought.manifest, console)
    wanted = [feature.name for feature in final.features if feature.name not in job.encoders]
    given = {feature.name: feature for feature in brought.features}
    if missing := [name for name in wanted if name not in given]:
        raise FeatureFileError(
            f"the run learnt from ready features of yours that are not given for these clips: {', '.join(missing)}; "
            "put <name>.parquet or <name>.npz of each into a folder and set data.features to it"
        )
    return replace(brought, features=tuple(given[name] for name in wanted))


def _predict(
    ensemble: Finished, brought: Brought, extraction: Extraction, model: Store, room: Room, *, join: bool
) -> tuple[pa.Table, Answer]:
    """``predictions.parquet`` of the clips that have a modality left; ``join`` as for ``finished.standardise``.

    Also what the ensemble says of them, in the order of its rows.
    """
    clips = [clip for clip in brought.clips if clip.clip_id not in extraction.lost]
    if not clips:
        raise MaterialiseError("no clip has a modality left; see quarantine.parquet in the run directory")
    speakers = [clip.speaker for clip in clips]
    answer = ensemble.ask(model, extraction.features, speakers, room, join=join)
    votes_KNC, last_word = answer.votes_KNC, answer.last_word
    explained = Explained(
        ensemble.final,
        votes_KNC,
        ensemble.by_modality([one.weights for one in answer.said]),
        hidden.effects(ensemble, answer.given, votes_KNC, last_word.label),
        np.empty((len(clips), 0), dtype=np.int64),
        answer.rests_on,
    )
    valence = mean_valence([one.valence for one in answer.said if one.valence is not None], ensemble.final.valence)
    own = {"given": [clip.label if clip.split is Split.TRAIN else None for clip in clips]}
    ids, splits = answer.given.clip_ids, [clip.split for clip in clips]
    return predictions.table(ids, splits, last_word, explained, valence, own), answer


def _measure(
    brought: Brought, extraction: Extraction, answer: Answer, trained_on: frozenset[str], journal: Journal
) -> dict[str, Any]:
    """``metrics.json``; clips that the run was trained on are left out of the scores."""
    ids, space = answer.given.clip_ids, brought.manifest.label_space
    known = {clip_id: space.index(label) for clip_id, label in brought.truth.items() if clip_id not in trained_on}
    truth = np.array([known.get(clip_id, -1) for clip_id in ids], dtype=np.int64)
    predicted = answer.last_word.label
    scores, by_class = metrics.score(truth, predicted, space.names), np.bincount(predicted, minlength=len(space.names))
    return {
        "test": results.test(truth, answer.last_word, answer.raw_NC, space.names),
        "scores": scores.to_json() if scores else None,
        **results.judged(scores),
        "scored": int((truth >= 0).sum()),
        "trained_on": len(trained_on.intersection(ids)),
        "labels": dict(zip(space.names, by_class.tolist(), strict=True)),
        "counts": results.count(brought, extraction, len(ids)),
        "quarantine": results.count_errors(extraction),
        "seconds": results.seconds(journal),
    }

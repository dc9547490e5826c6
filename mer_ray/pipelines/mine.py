"""The main job: clips in, a label for every clip out, with the reason for it.

Read ``run`` aloud: what the user brought; its tables; the learners' rounds; predictions, submission, report.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mer_ray import progress, registry
from mer_ray.config import MineConfig
from mer_ray.data.room import Room
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, MaterialiseError
from mer_ray.evaluation import report
from mer_ray.learners import spec
from mer_ray.learners.experiment import Experiment
from mer_ray.pipelines import estimate, features, narrate, noise_track, planning, results, source, speech, summary
from mer_ray.pipelines.features import Extraction
from mer_ray.pipelines.noise_track import Track
from mer_ray.pipelines.results import EXIT_TOO_MANY_ERRORS
from mer_ray.pipelines.source import Brought
from mer_ray.runtime import metrics
from mer_ray.runtime.console import step_line
from mer_ray.runtime.journal import Journal
from mer_ray.runtime.session import session, short_of
from mer_ray.tune import candidates
from mer_ray.tune.ablations import Ablations, ablate
from mer_ray.tune.candidates import AUTO
from mer_ray.tune.controller import Controller
from mer_ray.tune.mined import Mined
from mer_ray.types import Clip, Split


def run(settings: MineConfig, dry_run: bool = False) -> int:
    """Do the job, or continue it.

    Args:
        settings: what to do.
        dry_run: only say what would be made, and stop.

    Returns:
        The exit code: 0, or 3 when more than ``max_error_fraction`` of the clips were quarantined.

    Raises:
        InputError: bad input or config, before anything is started.
        MerRayError: the job failed; the same call continues it.
    """
    console = Console(highlight=False)
    settings = speech.settle(settings, console)
    check(settings)
    run_dir, tables = source.stores(settings)
    brought = source.load(settings, run_dir, console, dry_run=dry_run)
    check_learners(settings, brought)
    source.warn(brought.manifest, console)
    if dry_run:
        estimate.tell(settings, brought.clips, tables, console)
        noise_track.tell(settings, brought, console)
        return 0
    steps = planning.plan(settings, brought.clips, tables)
    room = Room(settings.fit.memory_bytes)
    with step_line(console, "vectors"):
        vectors = source.vectors(brought, room)
    journal = Journal(run_dir)
    journal.open(settings)
    console.print(f"run directory: {run_dir}", soft_wrap=True)
    copies = 2 if settings.fit.standardise == "auto" else 1  # the features as they are, and in the other way
    held_bytes = copies * features.held_bytes(settings, steps, vectors, len(brought.clips))
    with session(settings.runtime, held_bytes):
        if missing := short_of(held_bytes):
            console.print(f"[yellow]note: {missing}[/]", soft_wrap=True)
        gather = partial(features.collect, settings, brought.clips, vectors=vectors, room=room)
        extraction = features.read(steps, settings, journal, console, gather)
        results.write_quarantine(run_dir, extraction.quarantine)
        experiment = make_experiment(settings, brought, extraction)
        experiment, mined, ablations = _mine(experiment, settings, run_dir, journal, console)
        outcome = results.Run(settings, brought, extraction, experiment, mined, ablations)
        with _timed(journal, "explain"), step_line(console, "explain"):
            explained = results.explain(outcome, run_dir)
        given = dict(zip(experiment.features.clip_ids, mined.final.label.tolist(), strict=True))
        track = Track(settings, brought, extraction, given, run_dir, tables, journal, console)
        outcome = replace(outcome, noise=track.measure())
    with _timed(journal, "report"), step_line(console, "report"):
        figures = results.measure(outcome, journal)
        results.write(outcome, explained, run_dir, figures)
        run_dir.write("report.html", report.render(narrate.gather(outcome, explained, figures, journal)).encode())
    summary.show(console, figures, journal.work(), run_dir)
    journal.event("run_done", counts=figures["counts"])
    too_many = len(extraction.lost) > settings.max_error_fraction * len(brought.clips)
    return EXIT_TOO_MANY_ERRORS if too_many else 0


def check(settings: MineConfig) -> None:
    """Find every plug-in that the config names, and hold its options to it, before anything is started.

    Raises:
        ConfigError, PluginError: one is unknown or an option is wrong.
    """
    planning.check(settings)
    noise_track.check(settings)
    candidates.configure(settings.mining, settings.learners)
    if settings.submission.format == "mer2023" and not settings.fit.valence:
        raise ConfigError("submission.format=mer2023 needs a valence: set fit.valence=1, or submission.format=mer2024")
    if not settings.encoders and not settings.data.features and settings.data.layout != "mertools":
        raise ConfigError("there is nothing to learn from: name encoders, or set data.features to a folder of vectors")


def check_learners(settings: MineConfig, brought: Brought) -> None:
    """Hold listed learners to the features that there will be, and what is to be learnt or scored to the manifest.

    Raises:
        ConfigError, PluginError: a learner names an unknown feature, model, option or fusion model, no clip or learner
            has a valence, or no test clip a label to score noisy ones by.
    """
    noise_track.check_clips(settings, brought)
    if settings.fit.valence and not any(clip.valence is not None for clip in brought.clips):
        raise ConfigError("fit.valence is set, and no clip of the manifest has a valence; give the column, or set 0")
    known = [*settings.encoders, *(feature.name for feature in brought.features)]
    learners = () if settings.learners == "auto" else settings.learners
    if learners:
        spec.check(learners, settings.fit)
    for learner in learners:
        for name in learner.features:
            if name not in known:
                near = registry.nearest(name, known)
                raise ConfigError(f"learner {learner.name}: no feature {name!r}{near}; there are: {', '.join(known)}")


def _mine(
    experiment: Experiment, settings: MineConfig, run_dir: Store, journal: Journal, console: Console
) -> tuple[Experiment, Mined, Ablations | None]:
    """What was learnt from, its features standardised as the learners read them, and what came of it."""
    with _timed(journal, "mining"), step_line(console, "mining", "fits") as line:
        fitted: list[str] = []
        phase = "choosing inputs"

        def record(kind: str, **fields: Any) -> None:  # noqa: ANN401 - as the journal's
            nonlocal phase
            phase = f"round {fields['round']}" if kind == "round_started" else phase
            journal.event(kind, **fields)
            if kind == "round_done":
                metrics.tell_round(fields)

        def show(what: str) -> None:
            times = 1 if settings.mining.strategy == AUTO else settings.mining.rounds + 1
            line.update(len(fitted), len(controller.learners) * times, f"{phase}: {what}")

        controller = Controller(experiment, settings, run_dir, record, fitted.append)
        for warning in controller.folds.warnings:
            console.print(f"[yellow]note: {warning}[/]", soft_wrap=True)
        with progress.heard(lambda share, what: show(what)):
            mined = controller.mine()
    last = mined.rounds[-1]
    if not last.kept:
        console.print(f"[yellow]round {last.number}: {last.reason}[/]", soft_wrap=True)
    if not settings.evaluation.ablations:
        return controller.experiment, mined, None
    with (
        _timed(journal, "ablations"),
        step_line(console, "ablations", "fits") as line,
        progress.heard(lambda share, what: line.note(what)),
    ):
        return controller.experiment, mined, ablate(controller, mined)


def make_experiment(settings: MineConfig, brought: Brought, extraction: Extraction) -> Experiment:
    """What the learners see: no label of a test clip, nothing of a clip without a modality."""
    clips = [clip for clip in brought.clips if clip.clip_id not in extraction.lost]
    if not clips:
        raise MaterialiseError("no clip has a modality left; see quarantine.parquet in the run directory")
    space = brought.manifest.label_space
    labels = [space.index(clip.label) if clip.split is Split.TRAIN and clip.label else -1 for clip in clips]
    if len(set(labels) - {-1}) < 2:
        raise MaterialiseError(
            f"{sum(label >= 0 for label in labels)} labelled clips have a modality left, of fewer than two classes; "
            "see quarantine.parquet in the run directory"
        )
    adoptable = {Split.UNLABELED, Split.TEST} if settings.mining.include_test else {Split.UNLABELED}
    return Experiment(
        features=extraction.features,
        labels=np.array(labels, dtype=np.int64),
        splits=tuple(clip.split for clip in clips),
        speakers=tuple(clip.speaker for clip in clips),
        class_names=space.names,
        pool=np.array([clip.split in adoptable for clip in clips], dtype=bool),
        features_digest=extraction.digest,
        seed=settings.seed,
        valence=_valence(clips),
    )


def _valence(clips: Sequence[Clip]) -> NDArray[np.float32] | None:
    """Of the clips labelled for training, NaN for all others; None when none has one."""
    known = [
        clip.valence if clip.split is Split.TRAIN and clip.label and clip.valence is not None else np.nan
        for clip in clips
    ]
    return None if np.isnan(known).all() else np.array(known, dtype=np.float32)


@contextmanager
def _timed(journal: Journal, step: str) -> Iterator[None]:
    """Record how long a step took."""
    started = time.monotonic()
    yield
    journal.event("step_done", step=step, seconds=round(time.monotonic() - started, 3), clips=0)

"""The training job: clips in, weights out that an encoder plug-in loads.

Read ``run`` aloud: the clips; the tables that the task reads; the clips that can be learnt from; training; the weights.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import yaml
from numpy.typing import NDArray
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue
from rich.console import Console

from mer_ray import config as configs
from mer_ray import registry
from mer_ray.config import PluginConfig, TrainConfig
from mer_ray.data.manifest import Manifest
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, InputError, LearnerError, NotHereError
from mer_ray.learners import folds as folding
from mer_ray.pipelines import curves, estimate, features, planning, source, speech, train_rounds
from mer_ray.pretrained.weights import only_here
from mer_ray.runtime.console import StepLine, step_line
from mer_ray.runtime.journal import Journal
from mer_ray.runtime.materialise import Made, Step
from mer_ray.runtime.session import session
from mer_ray.tasks.base import Task
from mer_ray.train.clips import Clips
from mer_ray.train.data import usable
from mer_ray.train.engine import deepspeed_config
from mer_ray.train.job import NOT_IN_DIGEST, WEIGHTS, Job, Refusal, own_error
from mer_ray.train.worker import work
from mer_ray.tune import loggers
from mer_ray.types import Clip, Split

ENTRY = "encoder.yaml"
_POLL_SECONDS = 0.5
_LOADING_CPUS = 1


def run(settings: TrainConfig, dry_run: bool = False) -> int:
    """Do the job, or continue it.

    Args:
        settings: what to do.
        dry_run: only say what would be made, and stop.

    Returns:
        The exit code: 0.

    Raises:
        InputError: bad input or config, before anything is started.
        MerRayError: the job failed; the same call continues it.
    """
    console = Console(highlight=False)
    settings = speech.settle(settings, console)
    run_dir, tables = source.stores(settings)
    manifest, task = _brought(settings, run_dir, console, dry_run)
    if dry_run:
        estimate.tell(settings, manifest.clips, tables, console, task.reads)
        return 0
    steps = planning.plan(settings, manifest.clips, tables, task.reads)
    loggers.check(settings.log, run_dir, "log")
    journal = Journal(run_dir)
    journal.open(settings)
    console.print(f"run directory: {run_dir}", soft_wrap=True)
    with session(settings.runtime):
        if settings.self_training.rounds:
            run_once = partial(_run_round, tables=tables, console=console)
            home, entry = train_rounds.run(settings, manifest, run_dir, tables, journal, console, run_once)
        else:
            home, entry = run_dir, _run_once(steps, settings, manifest, task, run_dir, journal, console)
    text = yaml.safe_dump(task.section(settings.name, entry), sort_keys=False)
    run_dir.write(ENTRY, text.encode())
    journal.event("run_done")
    console.print(f"weights: {home.path(WEIGHTS)}\nto use them, put into a config:\n{text}", soft_wrap=True)
    return 0


def _run_once(
    steps: Sequence[Step],
    settings: TrainConfig,
    manifest: Manifest,
    task: Task,
    run_dir: Store,
    journal: Journal,
    console: Console,
    held_out: frozenset[str] | None = None,
) -> dict[str, Any]:
    """The tables, the clips that can be learnt from, and training on them; the encoder's entry for a config."""
    made = features.run(steps, settings, journal, console)
    job = _job(settings, manifest, task, made, run_dir, journal, held_out)
    console.print(f"{len(job.train)} clips to train on, {len(job.valid)} to score")
    return _train(job, settings, journal, console)


def _run_round(
    settings: TrainConfig,
    manifest: Manifest,
    task: Task,
    folder: Store,
    held_out: frozenset[str],
    tables: Store,
    console: Console,
) -> dict[str, Any]:
    """One of several trainings, in a folder with a journal of its own; see ``train_rounds.Train``."""
    journal = Journal(folder)
    journal.open(settings)
    steps = planning.plan(settings, manifest.clips, tables, task.reads)
    return _run_once(steps, settings, manifest, task, folder, journal, console, held_out)


def _brought(settings: TrainConfig, run_dir: Store, console: Console, dry_run: bool = False) -> tuple[Manifest, Task]:
    """The clips, and the task with their classes; after a dry run its tiny models are gone, and no weights fetched."""
    if not settings.task.name:
        raise ConfigError(f"task.name is not set; there are: {', '.join(registry.names('tasks'))}")
    task_class = registry.find("tasks", settings.task.name).Task
    deepspeed_config(settings.optimization, settings.optimization.workers)
    _check_cpus(settings)
    manifest = source.clips(settings, run_dir, console, require_labels=task_class.needs_labels, dry_run=dry_run)
    source.warn(manifest, console)
    train_rounds.check(settings, task_class, manifest.clips)
    names = manifest.label_space.names if task_class.needs_labels else ()
    _check_classes(names, [clip.label for clip in manifest.clips if clip.split is not Split.TEST])
    config: Any = registry.configure("tasks", settings.task.name, settings.task.options)
    with (
        tempfile.TemporaryDirectory() if dry_run else nullcontext(run_dir.path()) as place,
        only_here() if dry_run else nullcontext(),
    ):
        folder = Path(place, "tiny").absolute() if run_dir.is_local else None
        task: Task = registry.build("tasks", settings.task.name, config.placed(folder), class_names=names)
        with suppress(NotHereError):
            _ = task.identity  # its weights are there
    return manifest, task


def _job(
    settings: TrainConfig,
    manifest: Manifest,
    task: Task,
    made: Mapping[str, Made],
    run_dir: Store,
    journal: Journal,
    held_out: frozenset[str] | None = None,
) -> Job:
    """What the workers are to do; without ``held_out`` the clips to score by are drawn.

    Raises:
        InputError: no clip can be learnt from, or a class has none.
    """
    names = manifest.label_space.names if task.needs_labels else ()
    wanted = [clip for clip in manifest.clips if all(made[name].refs[clip.clip_id].present for name in task.reads)]
    if task.needs_labels:
        wanted = [clip for clip in wanted if clip.label is not None]
    clips = _clips(wanted, names, task, made)
    if task.filters and wanted:
        kept = usable(clips, task)
        wanted = [clip for clip, good in zip(wanted, kept.tolist(), strict=True) if good]
        journal.event("clips_filtered", task=settings.task.name, left_out=int((~kept).sum()))
        clips = _clips(wanted, names, task, made)
    free = np.flatnonzero([clip.split is not Split.TEST for clip in wanted])
    if not len(free):
        kind = "labelled clip" if task.needs_labels else "clip"
        raise InputError(f"no {kind} has all that the task {settings.task.name} reads: {', '.join(task.reads)}")
    _check_classes(names, [wanted[row].label for row in free])
    test = np.flatnonzero([clip.split is Split.TEST and task.needs_labels for clip in wanted])
    learnt = [wanted[row] for row in free]
    if held_out is None:
        is_held = _drawn(settings, clips.label[free], learnt, task.needs_labels)
    else:
        is_held = np.array([clip.clip_id in held_out for clip in learnt])
    train, valid = free[~is_held], free[is_held]
    digest = configs.digest(
        {
            "task": settings.task.model_dump(mode="json"),
            "models": task.identity,
            "optimization": settings.optimization.model_dump(mode="json", exclude=NOT_IN_DIGEST),
            "clips": list(clips.clip_ids),
            "tables": {name: table.digest for name, table in clips.tables.items()},
            "label": clips.label.tolist(),
            "seed": settings.seed,
        }
    )
    device = "cuda" if settings.optimization.gpus_per_worker else "cpu"
    return Job(
        task=PluginConfig(
            name=settings.task.name,
            options=task.taught([wanted[row].text or "" for row in train]).model_dump(mode="json"),
        ),
        class_names=names,
        clips=clips,
        train=train,
        valid=valid,
        test=test,
        optimization=settings.optimization,
        seed=settings.seed,
        run_dir=run_dir,
        digest=digest,
        device=device,
    )


def _check_cpus(settings: TrainConfig) -> None:
    """Of an embedded Ray, whose CPUs are known: where workers take them all, none is left to load clips, for ever.

    Raises:
        ConfigError: there are too few.
    """
    if os.environ.get("RAY_ADDRESS") or ray.is_initialized():
        return
    wanted, there = settings.optimization, settings.runtime.num_cpus or os.cpu_count() or 1
    needed = math.ceil(wanted.workers * wanted.cpus_per_worker + _LOADING_CPUS)
    if there < needed:
        raise ConfigError(
            f"{wanted.workers} worker(s) with optimization.cpus_per_worker={wanted.cpus_per_worker:g} leave no CPU of "
            f"{there} to load clips; set runtime.num_cpus={needed} (more than there are is only slower), or fewer "
            "workers"
        )


def _check_classes(names: Sequence[str], labels: Sequence[str | None]) -> None:
    """See that each class can be learnt.

    Raises:
        InputError: one has no clip.
    """
    if missing := [name for name in names if name not in labels]:
        told = ", ".join(missing)
        raise InputError(f"no clip to learn the class from: {told}; label some, or leave the class out of labels")


def _clips(wanted: Sequence[Clip], names: Sequence[str], task: Task, made: Mapping[str, Made]) -> Clips:
    """Where their inputs stand, and their classes."""
    label = [names.index(clip.label) if clip.label in names else -1 for clip in wanted]
    return Clips(
        tuple(clip.clip_id for clip in wanted),
        np.array(label, dtype=np.int64),
        {name: made[name].table for name in task.reads},
        {name: tuple(made[name].refs[clip.clip_id] for clip in wanted) for name in task.reads},
    )


def _drawn(settings: TrainConfig, label: NDArray[np.int64], clips: Sequence[Clip], labelled: bool) -> NDArray[np.bool_]:
    """Which of the clips score the training, bool (n,): speakers kept apart and classes even where they are known."""
    share, held = settings.optimization.valid_share, np.zeros(len(label), dtype=bool)
    if not share or len(label) < 2:
        return held
    if labelled:
        speakers = [clip.speaker for clip in clips]
        folds = folding.make(label, speakers, max(2, round(1 / share)), settings.seed)
        return np.asarray(folds.held_out == 0)
    order = np.random.default_rng(settings.seed).permutation(len(label))
    held[order[: max(1, round(share * len(label)))]] = True
    return held


def _train(job: Job, settings: TrainConfig, journal: Journal, console: Console) -> dict[str, Any]:
    """Ray Train over the workers, told of as it goes; the encoder's entry for a config."""
    wanted = settings.optimization
    board = Queue(actor_options={"num_cpus": 0})
    resources = {"CPU": wanted.cpus_per_worker} | ({"GPU": wanted.gpus_per_worker} if wanted.gpus_per_worker else {})
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": replace(job, board=board)},
        torch_config=TorchConfig(backend="nccl" if job.device == "cuda" else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=wanted.workers, use_gpu=job.device == "cuda", resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="ray_train",
            failure_config=FailureConfig(max_failures=wanted.max_failures),
            callbacks=[Refusal()],
            **_storage(job.run_dir),
        ),
    )
    with step_line(console, job.task.name, "steps") as line, curves.drawn(settings.log, job.run_dir) as told:
        news = _News(line, journal, console, told)
        for kind, fields in _while(trainer.fit, board):
            news.take(kind, fields)
    if not news.entry:
        raise LearnerError("training ended without weights; give the same command again")
    return news.entry


def _storage(run_dir: Store) -> dict[str, Any]:
    """Where Ray Train keeps its own notes: in the run directory, which all nodes see."""
    if run_dir.is_local:
        return {"storage_path": run_dir.path()}
    return {
        "storage_path": run_dir.path().partition("://")[2],
        "storage_filesystem": PyFileSystem(FSSpecHandler(run_dir.filesystem)),
    }


class _News:
    """What the workers tell, for the person who waits and for the journal."""

    def __init__(self, line: StepLine, journal: Journal, console: Console, told: Sequence[curves.Tell]) -> None:
        self.line, self.journal, self.console, self.told = line, journal, console, told
        self.steps = 0
        self.entry: dict[str, Any] = {}

    def take(self, kind: str, fields: dict[str, Any]) -> None:
        """One piece of it."""
        if kind == "step":
            self.line.update(fields["step"], self.steps, f"loss {fields['loss']:.4f}")
            self._draw(fields["step"], {"step_loss": fields["loss"]})
            return
        self.journal.event(f"training_{kind}", **fields)
        if kind == "started":
            self.steps = fields["steps"]
            self.console.print(f"{fields['trained']:,} of {fields['total']:,} parameters train")
        elif kind == "damaged":
            self.console.print(
                f"[yellow]checkpoint {fields['checkpoint']}: {fields['why']}; an earlier one is taken[/]"
            )
        elif kind == "epoch":
            told = ", ".join(f"{name} {value:.4g}" for name, value in fields.items() if isinstance(value, float))
            self.console.print(f"epoch {fields['epoch']}: {told}", soft_wrap=True)
            self._draw(fields["step"], {name: value for name, value in fields.items() if isinstance(value, float)})
        elif kind == "scored" and fields["test"] is not None:
            self.console.print(f"test WAF of the best epoch: {fields['test']:.4f}")
        elif kind == "exported":
            self.entry = fields["entry"]

    def _draw(self, step: int, figures: Mapping[str, float]) -> None:
        for tell in self.told:
            tell(step, figures)


def _while(act: Any, board: Queue) -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401 - a function
    """What is put on the board while ``act`` runs in a thread, and what was there at its end.

    Raises:
        MerRayError: it failed.
    """
    failed: list[BaseException] = []

    def run_it() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=run_it, daemon=True)
    thread.start()
    while thread.is_alive() or not board.empty():
        try:
            yield board.get(timeout=_POLL_SECONDS)
        except Empty:
            continue
    if failed:
        (error,) = failed
        raise own_error(error) or LearnerError(f"training failed: {type(error).__name__}: {error}")

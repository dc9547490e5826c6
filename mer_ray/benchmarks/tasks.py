"""What each training task learns on the embedded demo: tiny random models, trained by the job, scored on new speakers.

JSON, under ``cases.<case>``: ``loss``, of every epoch; ``valid`` and ``test``, the WAF of the best epoch, or the
negative loss for a task without classes, whose ``test`` is null; ``chance``, the WAF of guessing each class as often as
it is among the test clips; ``seconds`` of all of it. Under ``features``, of ``visual_alignment``: the test WAF of
logistic regression on the labelled clips' visual features before, ``raw``, and after, ``aligned``.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import Field
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mer_ray import config as configs
from mer_ray import registry
from mer_ray.benchmarks.harness import table
from mer_ray.config import ExtractConfig, RuntimeConfig, Section, TrainConfig
from mer_ray.data.features import Feature
from mer_ray.data.room import Room
from mer_ray.evaluation.metrics import waf
from mer_ray.pipelines import features, planning, source, train_encoder
from mer_ray.runtime.journal import Journal
from mer_ray.runtime.session import session
from mer_ray.types import Clip, Split

_MOST_STEPS = 1000
_ALIGNED = "visual_alignment"
_CASES = {name: [f"train/{name}.tiny.yaml"] for name in registry.names("tasks")} | {
    "speech_frozen": ["train/speech_finetune.tiny.yaml", "task.options.tuning={how: frozen}"],
    "vit_single_frames": ["train/vit_finetune.tiny.yaml", "task.options.encoder.options={}"],
}
"""The shipped ones, and what they are held against."""


class Config(Section):
    """Which tasks on how many clips."""

    clips: int = Field(400, ge=60, description="clips of the demo")
    labelled: float = Field(0.5, gt=0, lt=0.7, description="share of the clips that is labelled for training")
    epochs: int = Field(20, ge=1, description="passes over the training clips")
    cases: dict[str, list[str]] = Field(_CASES, min_length=1, description="overrides of each case's tiny config")
    workers: int = Field(2, ge=1, description="processes that train together")
    seed: int = Field(0, description="of clips, models and training")


def run(settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Train every case; prints a table as each is done.

    Raises:
        ConfigError: a case's config or one of its overrides is wrong.
    """
    cases: dict[str, Any] = {}
    figures: dict[str, Any] = {"cases": cases}
    with tempfile.TemporaryDirectory() as folder:
        jobs = {name: _job(file, overrides, settings, folder) for name, (file, *overrides) in settings.cases.items()}
        with session(RuntimeConfig(num_cpus=settings.workers + 1)):  # one loads clips
            for name, job in jobs.items():
                started = time.monotonic()
                train_encoder.run(job)
                cases[name] = _trained(job, console) | {"seconds": time.monotonic() - started}
                if job.task.name == _ALIGNED:
                    figures["features"] = _features(job, console)
                _print(figures, console)
                yield figures


def _job(file: str, overrides: list[str], settings: Config, folder: str) -> TrainConfig:
    """A case's config, in a folder of its own; clips and tables are those of all."""
    name = "-".join([Path(file).name, *overrides]).translate(str.maketrans("/{}: ", "-----"))
    return configs.load(
        TrainConfig,
        file,
        [
            f"seed={settings.seed}",
            f"data.demo={{num_clips: {settings.clips}, labelled: {settings.labelled}, dir: {folder}/clips}}",
            f"run.dir={folder}/{name}",
            f"tables.dir={folder}/tables",
            f"optimization.epochs={settings.epochs}",
            f"optimization.workers={settings.workers}",
            *overrides,
        ],
    )


def _trained(job: TrainConfig, console: Console) -> dict[str, Any]:
    """What the job wrote of its training, and the score of guesses."""
    told = [json.loads(line) for line in Path(job.run.dir, "events.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [event["loss"] for event in told if event["event"] == "training_epoch"]
    (scored,) = [event for event in told if event["event"] == "training_scored"]
    truth = [clip.label for clip in _clips(job, console) if clip.split is Split.TEST]
    shares = np.array(list(Counter(truth).values())) / len(truth)
    # guessed so often, a class has that share as its precision and as its recall
    return {"loss": losses, "valid": scored["valid"], "test": scored["test"], "chance": float((shares**2).sum())}


def _clips(job: TrainConfig, console: Console) -> tuple[Clip, ...]:
    return source.clips(job, source.stores(job)[0], console, require_labels=True).clips


def _features(job: TrainConfig, console: Console) -> dict[str, float]:
    """Test WAF of logistic regression on what the visual encoder makes, raw and aligned."""
    entry = yaml.safe_load(Path(job.run.dir, train_encoder.ENTRY).read_text(encoding="utf-8"))["encoders"][job.name]
    encoders = {"raw": entry["options"]["encoder"], "aligned": entry}
    extraction = ExtractConfig(run=job.run, data=job.data, tables=job.tables, seed=job.seed, encoders=encoders)
    clips, tables = _clips(job, console), source.stores(job)[1]
    steps = planning.plan(extraction, clips, tables)
    made = features.run(steps, extraction, Journal(source.stores(job)[0]), console)
    collected = features.collect(extraction, clips, made, (), Room()).features
    by_id = {clip.clip_id: clip for clip in clips}
    seen = [by_id[clip_id] for clip_id in collected.clip_ids]
    return {feature.name: _probed(feature, seen) for feature in collected.features}


def _probed(feature: Feature, clips: Sequence[Clip]) -> float:
    names = sorted({clip.label for clip in clips if clip.label})
    label = np.array([names.index(clip.label) if clip.label else -1 for clip in clips])
    test = np.array([clip.split is Split.TEST for clip in clips]) & feature.present
    train = (label >= 0) & ~test & feature.present
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_MOST_STEPS))
    return waf(label[test], model.fit(feature.values[train], label[train]).predict(feature.values[test]))


def _print(figures: dict[str, Any], console: Console) -> None:
    rows = [
        [name, one["loss"][0], one["loss"][-1], *("" if one[key] is None else one[key] for key in ("test", "chance"))]
        for name, one in figures["cases"].items()
    ]
    table(console, "tasks on the demo", ["case", "first loss", "last loss", "test WAF", "chance"], rows)
    if "features" in figures:
        table(console, "visual features", ["", "test WAF"], [list(row) for row in figures["features"].items()])

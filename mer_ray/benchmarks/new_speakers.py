"""What a run says of speakers whom it never heard, by how many of their clips it is asked about at once.

A share of a real set's training labels is kept, and learners are fitted on the training clips, without mining; the test
clips, all of other speakers, are then asked about as ``jobs/predict.py`` does. JSON, under ``sets.<set>.<column>``:
``mean`` and ``std`` over the seeds, and ``values``, one per seed, of the WAF on the test clips. The columns:

- ``fold``: by a run with ``fit.standardise=fold``; all others by one with ``fit.standardise=speaker``;
- ``whole``: ``predict.new_speakers=whole``, however many clips are asked about at once;
- ``batch``: ``predict.new_speakers=batch``, all clips at once;
- ``batch_of_<n>``: the same, ``n`` clips of one speaker at a time, drawn at random.

Shapes: N clips.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console

from mer_ray.benchmarks import real_sets
from mer_ray.benchmarks.harness import table
from mer_ray.benchmarks.real_sets import RealSet
from mer_ray.config import FitConfig, MineConfig, MiningConfig, Section
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.data.storage import Store
from mer_ray.evaluation.metrics import waf
from mer_ray.learners.learner import Learner
from mer_ray.learners.scaling import Scaling
from mer_ray.tune import standardise
from mer_ray.tune.controller import Controller
from mer_ray.tune.search import fit_here

Spoken = Literal["nemo", "ravdess"]
_WAYS = ("fold", "speaker")


class Config(Section):
    """Which sets, and how many clips are asked about at once."""

    data: str = Field(description="folder of the sets' .npz files, see docs/benchmarks.md")
    sets: list[Spoken] = Field(["nemo"], min_length=1, description="which of them: nemo | ravdess")
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="draws of the labels that are kept")
    fraction: float = Field(0.2, gt=0, le=1, description="share of the training labels that is kept")
    at_once: list[int] = Field([1, 5, 20], description="clips of a speaker that are asked about at once")
    fit: FitConfig = FitConfig()


def run(settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Measure every set; prints a table of each as it is done.

    Raises:
        FeatureFileError: a set's file is missing or damaged.
    """
    figures: dict[str, Any] = {}
    for name in settings.sets:
        draws = [draw(real_sets.read(settings.data, name), settings, seed) for seed in settings.seeds]
        values = {column: [one[column] for one in draws] for column in draws[0]}
        figures[name] = {
            column: {"mean": float(np.mean(one)), "std": float(np.std(one)), "values": one}
            for column, one in values.items()
        }
        rows = [[column, told["mean"], told["std"]] for column, told in figures[name].items()]
        table(console, f"{name}: WAF on speakers never heard", ["column", "mean", "std"], rows)
        yield {"sets": figures}


def draw(one: RealSet, settings: Config, seed: int) -> dict[str, float]:
    """WAF by column, of one draw of the labels that are kept."""
    known, new = one.take(np.flatnonzero(~one.test)), one.take(np.flatnonzero(one.test))
    runs = {way: _fit(known, way, settings, seed) for way in _WAYS}
    at_once = [np.arange(len(new.truth))]
    asked = {
        "fold": ("fold", at_once, False),
        "whole": ("speaker", at_once, False),
        "batch": ("speaker", at_once, True),
    }
    asked |= {f"batch_of_{n}": ("speaker", calls_of(new, n, seed), True) for n in settings.at_once}
    found = {}
    for column, (way, calls, join) in asked.items():
        learners, scaling = runs[way]
        found[column] = _waf(learners, new, new.features if scaling is None else scale(scaling, new, calls, join=join))
    return found


def calls_of(one: RealSet, size: int, seed: int) -> list[NDArray[np.int64]]:
    """The rows of all clips in calls of ``size`` clips of one speaker, or what is left of him."""
    rng = np.random.default_rng(seed)
    speakers = np.array(one.speakers)
    calls: list[NDArray[np.int64]] = []
    for speaker in np.unique(speakers):
        rows = rng.permutation(np.flatnonzero(speakers == speaker))
        calls += np.split(rows, range(size, len(rows), size))
    return calls


def scale(scaling: Scaling, one: RealSet, calls: Sequence[NDArray[np.int64]], *, join: bool) -> FeatureSet:
    """The features of all clips in their order, standardised call by call."""
    parts = [scaling.apply(one.features.take(rows), [one.speakers[r] for r in rows], join=join) for rows in calls]
    back = np.argsort(np.concatenate(calls))
    scaled = (
        Feature(f.name, f.modality, np.concatenate([part.features[place].values for part in parts])[back], f.present)
        for place, f in enumerate(one.features.features)
    )
    return FeatureSet(one.features.clip_ids, tuple(scaled))


def _fit(known: RealSet, way: str, settings: Config, seed: int) -> tuple[list[Learner], Scaling | None]:
    """The learners of the kept labels, and by ``speaker`` what they know of their speakers."""
    fit = FitConfig(**{**settings.fit.model_dump(), "standardise": way})
    job = MineConfig(seed=seed, fit=fit, mining=MiningConfig(rounds=0))
    with tempfile.TemporaryDirectory() as folder:
        controller = Controller(known.experiment(settings.fraction, seed), job, Store(folder), fit=fit_here)
        mined, store = controller.mine(), controller.rounds.store
        learners = [
            Learner.from_files({file: store.read(f"00/{name}/{file}") for file in ("model.safetensors", "config.json")})
            for name in mined.last.learners
        ]
        scaling = Scaling.from_bytes(store.read(standardise.FILE)) if way == "speaker" else None
    return learners, scaling


def _waf(learners: Sequence[Learner], new: RealSet, features: FeatureSet) -> float:
    """Of the mean of the learners."""
    held_out = np.full(len(new.truth), -1)
    votes = np.mean([learner.predict(features).clean(held_out)[0] for learner in learners], axis=0)
    return waf(new.truth, votes.argmax(axis=1))

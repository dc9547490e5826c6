"""Self-training as a job (P1 section 2.4.1): rounds of training runs, each on what the one before was surest of.

The pool are the clips without a text. Each round is a training run in a folder of its own, the first on what has a text
alone; the others go on from its weights. The recogniser of a round transcribes the pool and the held-out clips as any
job transcribes, into tables. What a killed run had finished of all this is found: the folders stand under the digest of
what the rounds depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from mer_ray import config, registry
from mer_ray.config import PluginConfig, TrainConfig
from mer_ray.data.manifest import Manifest
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, InputError
from mer_ray.pipelines import features, planning, self_training
from mer_ray.pretrained import extras
from mer_ray.recognisers.base import Transcript
from mer_ray.runtime.journal import Journal
from mer_ray.speech.errors import word_error_rate
from mer_ray.tasks.base import Task
from mer_ray.train.job import NOT_IN_DIGEST, WEIGHTS
from mer_ray.types import Clip, Split

_ENTRY = "entry.yaml"
_PACKAGES = ("flashlight-text", "silero-vad")  # of the beam, and of the voice gate before a recogniser

Train = Callable[[TrainConfig, Manifest, Task, Store, frozenset[str]], Mapping[str, Any]]
"""One training run in a folder, some clips held out of it; the entry of what it made."""


def check(settings: TrainConfig, task: type[Task], clips: Sequence[Clip]) -> None:
    """See that the rounds can be run, before anything is started.

    Raises:
        ConfigError: the task trains no recogniser, or an option stands in the way.
        InputError: no clip has a text, or all have.
        PluginError: a package is missing.
    """
    if not settings.self_training.rounds:
        return
    if task.makes != "recognisers":
        raise ConfigError(f"self_training is for tasks that train recognisers; task.name={settings.task.name} does not")
    if settings.transcribe.enabled:
        raise ConfigError("self_training transcribes by what it trains; leave transcribe.enabled off")
    if not settings.optimization.valid_share:
        raise ConfigError("self_training ends by the words of held-out clips; set optimization.valid_share")
    if not _labelled(clips) or not _pool(clips):
        raise InputError("self_training needs clips with a text to begin with, and clips without one as its pool")
    for package in _PACKAGES:
        extras.version(package)


def run(
    settings: TrainConfig,
    manifest: Manifest,
    run_dir: Store,
    tables: Store,
    journal: Journal,
    console: Console,
    train: Train,
) -> tuple[Store, dict[str, Any]]:
    """Every round, or those that are left; the folder and the entry of the best one. Ray is running.

    Raises:
        MerRayError: a training failed; the same call continues.
    """
    wanted = settings.self_training
    digest = config.digest(
        {
            "task": settings.task.model_dump(mode="json"),
            "optimization": settings.optimization.model_dump(mode="json", exclude=NOT_IN_DIGEST),
            "self_training": wanted.model_dump(mode="json", exclude={"rounds"}),
            "clips": [[clip.clip_id, clip.text] for clip in manifest.clips],
            "seed": settings.seed,
        }
    )
    rounds = _Rounds(settings, manifest, run_dir / f"rounds/{digest}", tables, journal, console, train)
    rounds.train(0, {})
    done = self_training.run(rounds, rounds.folder, wanted.share, wanted.rounds)
    for one in done:
        journal.event("self_training_round", **asdict(one))
        console.print(f"round {one.number}: {one.kept} of the pool kept, held-out WER {one.word_error_rate:.3f}")
    best = self_training.best(done).number
    return rounds.home(best), rounds.entry(best)


@dataclass(frozen=True)
class _Rounds:
    """What the rounds are made of: see ``self_training.Steps``."""

    settings: TrainConfig
    manifest: Manifest
    folder: Store
    tables: Store
    journal: Journal
    console: Console
    train_once: Train

    @cached_property
    def labelled(self) -> list[Clip]:
        """Those with a text."""
        return _labelled(self.manifest.clips)

    @cached_property
    def pool(self) -> list[Clip]:
        """Those without."""
        return _pool(self.manifest.clips)

    @cached_property
    def held_out(self) -> list[Clip]:
        """The labelled clips that no round is trained on."""
        order = np.random.default_rng(self.settings.seed).permutation(len(self.labelled))
        count = max(1, round(self.settings.optimization.valid_share * len(order)))
        return [self.labelled[i] for i in np.sort(order[:count])]

    def home(self, number: int) -> Store:
        """The folder of a round."""
        return self.folder / f"{number:02d}"

    def entry(self, number: int) -> dict[str, Any]:
        """Of the recogniser of a round."""
        return dict(yaml.safe_load(self.home(number).read(_ENTRY)))

    def train(self, number: int, labels: Mapping[str, str]) -> None:
        """Goes on from the checkpoints of a killed one; nothing is done for a round that is trained."""
        own = self.home(number)
        if own.exists(_ENTRY):
            return
        sure = [replace(clip, text=labels[clip.clip_id]) for clip in self.pool if clip.clip_id in labels]
        settings = self._going_on() if number else self.settings
        manifest = replace(self.manifest, clips=(*self.labelled, *sure))
        held_out = frozenset(clip.clip_id for clip in self.held_out)
        self.console.print(f"round {number}: {len(sure)} clips of the pool beside those with a text")
        entry = self.train_once(settings, manifest, self._task(settings), own, held_out)
        own.write(_ENTRY, yaml.safe_dump(dict(entry), sort_keys=False).encode())

    def transcribe(self, number: int) -> Mapping[str, Transcript]:
        """The pool, by the recogniser of a round."""
        return self._heard(number, self.pool)

    def errors(self, number: int) -> float:
        """On the held-out clips, of words as the recogniser would write them."""
        task, heard = self._task(self.settings), self._heard(number, self.held_out)
        said = [" ".join(task.words(clip.text or "")).lower() for clip in self.held_out]
        return word_error_rate(said, [heard[clip.clip_id].text.lower() for clip in self.held_out])

    def _going_on(self) -> TrainConfig:
        """The settings of a round behind the first: from its weights, at their own learning rate."""
        settings = self.settings
        options = settings.task.options | {"weights": {"source": self.home(0).path(WEIGHTS)}}
        rate = settings.self_training.learning_rate or settings.optimization.learning_rate
        return settings.model_copy(
            update={
                "task": settings.task.model_copy(update={"options": options}),
                "optimization": settings.optimization.model_copy(update={"learning_rate": rate}),
            }
        )

    def _task(self, settings: TrainConfig) -> Any:  # noqa: ANN401 - a task of recognisers
        return registry.build("tasks", settings.task.name, settings.task.options, class_names=())

    def _heard(self, number: int, clips: Sequence[Clip]) -> dict[str, Transcript]:
        """What the recogniser of a round hears in clips, whatever their text is."""
        entry = self.entry(number)
        recogniser = PluginConfig(name=entry["plugin"], options=entry["options"])
        transcribe = self.settings.transcribe.model_copy(update={"enabled": True, "recogniser": recogniser})
        settings = self.settings.model_copy(update={"transcribe": transcribe})
        unread = [replace(clip, text=None) for clip in clips]
        steps = planning.plan(settings, unread, self.tables, (planning.TRANSCRIPT,))
        made = features.run(steps, settings, self.journal, self.console)[planning.TRANSCRIPT]
        spoken = [clip.clip_id for clip in clips if made.refs[clip.clip_id].present]
        rows = made.table.take([made.refs[name] for name in spoken], ["text", "confidence", "score"]).to_pylist()
        found = {name: Transcript(**row) for name, row in zip(spoken, rows, strict=True)}
        return {clip.clip_id: found.get(clip.clip_id, Transcript("", 1.0)) for clip in clips}


def _labelled(clips: Sequence[Clip]) -> list[Clip]:
    return [clip for clip in clips if clip.split is not Split.TEST and (clip.text or "").strip()]


def _pool(clips: Sequence[Clip]) -> list[Clip]:
    return [clip for clip in clips if clip.split is not Split.TEST and not (clip.text or "").strip()]

"""How busy simulated GPUs are kept: actors that sleep in place of a separator, fed by tasks that decode on CPUs.

Ray is told of GPUs that are not there; an actor that takes one sleeps as long as a real model would work. JSON:

- ``busy``: the share of the time, between an actor's first and last batch, in which it slept, mean over the actors;
- ``actors``: how many worked;
- ``clips_per_s``: clips in that time, of all actors together.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console

from mer_ray.benchmarks import clips as made_clips
from mer_ray.benchmarks.harness import table
from mer_ray.config import DenoiseConfig, MediaConfig, RuntimeConfig, Section
from mer_ray.data.storage import Store
from mer_ray.data.table import Table, row_key
from mer_ray.pretrained.plugin import Config as NoOptions
from mer_ray.runtime.materialise import Step, materialise
from mer_ray.runtime.session import session
from mer_ray.separators.base import Separator
from mer_ray.stages.base import Resources
from mer_ray.stages.denoise import DenoiseStage


class Config(Section):
    """How many GPUs, and how fast their model is."""

    clips: int = Field(160, ge=1, description="clips to separate")
    mean_seconds: float = Field(3.0, gt=0, description="length of a clip, about")
    gpus: int = Field(2, ge=1, description="simulated GPUs, an actor each")
    cpus: int = Field(3, ge=1, description="CPUs that Ray is told of")
    batch_size: int = Field(8, ge=1, description="clips per batch")
    seconds_per_clip: float = Field(0.25, gt=0, description="that the model would take")
    seed: int = Field(0, ge=0, description="of the clips")


class Sleeper(Separator):
    """Sleeps for each clip, and notes when; its streams are halves of the clip.

    Args:
        seconds_per_clip: how long.
        notes: folder that the times are noted in, a file for each call.
    """

    version = 1

    def __init__(self, seconds_per_clip: float, notes: str) -> None:
        super().__init__(NoOptions())
        self.seconds_per_clip = seconds_per_clip
        self.notes = notes
        self._actor = ""

    def load(self) -> None:
        """See the base class."""
        self._actor = uuid.uuid4().hex

    def _separate(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        start = time.time()
        time.sleep(self.seconds_per_clip * len(waveforms))
        note = {"actor": self._actor, "start": start, "end": time.time(), "clips": len(waveforms)}
        Path(self.notes, f"{uuid.uuid4().hex}.json").write_text(json.dumps(note), encoding="utf-8")
        return [np.stack([samples, samples]) / np.float32(2) for samples in waveforms]


class SleepingStage(DenoiseStage):
    """The denoising stage on GPUs, with a sleeping separator and nobody to judge its streams."""

    def __init__(self, settings: Config, notes: str) -> None:
        super().__init__(MediaConfig(), DenoiseConfig(), clip_seconds=60.0)
        self.resources = Resources(cpus=0.1, gpus=1.0, batch_size=settings.batch_size)
        self.sleeper = Sleeper(settings.seconds_per_clip, notes)

    def setup(self) -> None:
        """See the base class."""
        self.sleeper.load()

    def _rows(self, waveforms: Sequence[NDArray[np.float32]]) -> list[dict[str, Any]]:
        self.sleeper.separate(waveforms)
        return super()._rows(waveforms)


def run(settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Make the clips, separate them, and tell how busy the actors were."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder, "notes")
        notes.mkdir()
        clips = made_clips.make(Path(folder, "clips"), settings.clips, settings.mean_seconds, settings.seed)
        stage = SleepingStage(settings, str(notes))
        step = Step(
            stage,
            Table(Store(f"{folder}/tables"), stage.name, stage.schema, stage.spec),
            {clip.clip_id: row_key(clip.clip_id) for clip in clips},
            {clip.clip_id: clip for clip in clips},
        )
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # as session does it; it knows no GPUs that are not there
        ray.init(
            address="local",
            num_cpus=settings.cpus,
            num_gpus=settings.gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            with session(RuntimeConfig()):
                materialise(step, {}, RuntimeConfig())
        finally:
            ray.shutdown()
        figures = told(json.loads(path.read_text(encoding="utf-8")) for path in notes.glob("*.json"))
    table(console, f"{settings.gpus} simulated GPUs", list(figures), [list(figures.values())])
    yield figures


def told(notes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The figures, from what the actors noted of each call."""
    calls = defaultdict(list)
    for note in notes:
        calls[note["actor"]].append(note)
    spans = {name: max(c["end"] for c in own) - min(c["start"] for c in own) for name, own in calls.items()}
    slept = {name: sum(c["end"] - c["start"] for c in own) for name, own in calls.items()}
    num_clips = sum(c["clips"] for own in calls.values() for c in own)
    return {
        "busy": float(np.mean([slept[name] / spans[name] for name in calls])),
        "actors": len(calls),
        "clips_per_s": num_clips / max(spans.values()),
    }

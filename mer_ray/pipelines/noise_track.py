"""The noise track (MER-NOISE): what is left of the scores when the test clips are heard in noise.

The clips' sound is corrupted before anything reads it, in tables of its own; transcripts and features are made anew
from it, and the finished ensemble is asked, once about the noisy clips as they are and once after denoising.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mer_ray.config import MineConfig, NoiseConfig
from mer_ray.data.ready import Loaded
from mer_ray.data.room import Room
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError
from mer_ray.evaluation import metrics
from mer_ray.pipelines import features, finished, planning
from mer_ray.pipelines.features import Extraction
from mer_ray.pipelines.finished import Finished
from mer_ray.pipelines.planning import AUDIO, TRANSCRIPT
from mer_ray.pipelines.source import Brought
from mer_ray.runtime.journal import Journal
from mer_ray.speech.noise import Noise
from mer_ray.stages.encode import EncodeStage
from mer_ray.types import Clip, Split

TRACK = "noise"
"""Before the names of its steps in the journal and on the console."""


@dataclass(frozen=True)
class Heard:
    """How well noisy clips were predicted; all figures None where they were not.

    Attributes:
        waf, macro_f1, accuracy: of the test clips; one of which nothing is left counts as of the commonest class.
        standard_error: of the difference of ``waf`` to that of the same clips without noise, by a paired bootstrap.
        errors: in making their features, that the clips without noise did not have.
    """

    waf: float | None = None
    macro_f1: float | None = None
    accuracy: float | None = None
    standard_error: float | None = None
    errors: int | None = None


@dataclass(frozen=True)
class Case:
    """One case of the track.

    Attributes:
        name: what it is called.
        kind: of the noise.
        snr_db: of the clips in it.
        num_clips: that were scored.
        clean: WAF of the same clips as they are.
        raw: of the noisy clips as they are.
        denoised: of the noisy clips after denoising; without figures where the run does not denoise.
    """

    name: str
    kind: str
    snr_db: float
    num_clips: int
    clean: float
    raw: Heard
    denoised: Heard

    def to_json(self) -> dict[str, Any]:
        """An entry of ``noise`` in ``metrics.json``."""
        figures = {"kind": self.kind, "snr_db": self.snr_db, "num_clips": self.num_clips, "clean": {"waf": self.clean}}
        return {**figures, "raw": asdict(self.raw), "denoised": asdict(self.denoised)}


def check(settings: MineConfig) -> None:
    """Hold what the cases name to being there, before anything is started.

    Raises:
        ConfigError: a folder holds no sound that can be read, or nothing that is learnt from hears the clips.
        PluginError: an encoder's options are wrong.
    """
    if not settings.evaluation.noise:
        return
    hear = {AUDIO, TRANSCRIPT} if settings.transcribe.enabled else {AUDIO}
    stages = (EncodeStage(name, encoder, 1.0) for name, encoder in settings.encoders.items())
    if not any(hear.intersection(stage.reads) for stage in stages):
        raise ConfigError("evaluation.noise is set, and no encoder hears the clips: noise would change nothing")
    for case in settings.evaluation.noise:
        try:
            _noise(case, settings).check()
        except ConfigError as error:
            raise ConfigError(f"evaluation.noise, {case.case}: {error}") from error


def check_clips(settings: MineConfig, brought: Brought) -> None:
    """Hold the clips to having some to score the cases by.

    Raises:
        ConfigError: no test clip has a label.
    """
    if settings.evaluation.noise and not _scored(brought, frozenset()):
        raise ConfigError(
            "evaluation.noise is set, and no clip of the split test has a label to score by; give some, or leave it out"
        )


def tell(settings: MineConfig, brought: Brought, console: Console) -> None:
    """Say what the cases will ask for, which a dry run does not count."""
    if cases := len(settings.evaluation.noise):
        ways = ", with and without denoising" if settings.denoise.enabled else ""
        told = f"{cases} case(s) of evaluation.noise, each of {len(_scored(brought, frozenset()))} test clips{ways}"
        console.print(f"Not counted: {told}, whose sound is read and encoded anew.", soft_wrap=True)


def _scored(brought: Brought, lost: frozenset[str]) -> list[Clip]:
    """The test clips whose label is known, but for those without a modality."""
    tested = (clip for clip in brought.clips if clip.split is Split.TEST and clip.clip_id not in lost)
    return [clip for clip in tested if clip.clip_id in brought.truth]


def _noise(case: NoiseConfig, settings: MineConfig) -> Noise:
    return Noise(case.kind, case.snr_db, str(Path(case.folder).expanduser().absolute()), settings.seed)


@dataclass(frozen=True)
class Track:
    """The cases of a run that is done. Ray is running.

    Attributes:
        settings: of the run; ``rounds/final.json`` is written.
        brought: its clips.
        extraction: their features as they are.
        clean: by clip, the class that the run gives it as it is.
        run_dir: of the run.
        tables: where tables are kept.
        journal: where the steps are told.
        console: where they are shown.
    """

    settings: MineConfig
    brought: Brought
    extraction: Extraction
    clean: Mapping[str, int]
    run_dir: Store
    tables: Store
    journal: Journal
    console: Console

    def measure(self) -> tuple[Case, ...]:
        """Every case, in the config's order; none where no test clip with a label has a modality left.

        Raises:
            MaterialiseError, StorageError, CorruptPartError: see ``features.run`` and ``Finished.ask``.
        """
        cases = self.settings.evaluation.noise
        if cases and not self.settings.denoise.enabled:
            told = "denoise.enabled=false: the clips of evaluation.noise are predicted without denoising alone"
            self.console.print(f"[yellow]note: {told}[/]", soft_wrap=True)
        return tuple(self._case(case) for case in cases) if self.clips else ()

    @cached_property
    def clips(self) -> list[Clip]:
        """Those that are scored."""
        return _scored(self.brought, self.extraction.lost)

    @cached_property
    def ensemble(self) -> Finished:
        """The run's."""
        return finished.read(self.run_dir)

    @cached_property
    def truth(self) -> NDArray[np.int64]:
        """Class of each clip, (N,)."""
        space, known = self.brought.manifest.label_space, self.brought.truth
        return np.array([space.index(known[clip.clip_id]) for clip in self.clips], dtype=np.int64)

    @cached_property
    def as_they_are(self) -> NDArray[np.int64]:
        """What the run takes each clip for without noise, (N,)."""
        return np.array([self.clean[clip.clip_id] for clip in self.clips], dtype=np.int64)

    def _case(self, case: NoiseConfig) -> Case:
        noise = _noise(case, self.settings)
        raw = self._heard(noise, f"{case.case}, as it is", denoise=False)
        denoised = Heard()
        if self.settings.denoise.enabled:
            denoised = self._heard(noise, f"{case.case}, denoised", denoise=True)
        clean = metrics.waf(self.truth, self.as_they_are)
        return Case(case.case, case.kind, case.snr_db, len(self.clips), clean, raw, denoised)

    def _heard(self, noise: Noise, told: str, *, denoise: bool) -> Heard:
        """What the ensemble makes of the clips in a noise."""
        update = {"denoise": self.settings.denoise.model_copy(update={"enabled": denoise})}
        settings = self.settings.model_copy(update=update)
        self.console.print(f"{told}:")
        steps = planning.plan(settings, self.clips, self.tables, noise=noise)
        room = Room(settings.fit.memory_bytes)
        gather = partial(features.collect, settings, self.clips, vectors=self._ready(room), room=room)
        found = features.read(steps, settings, self.journal, self.console, gather, self.extraction.made, TRACK)
        predicted = self._predicted(found, room)
        scores = metrics.score(self.truth, predicted, self.ensemble.final.class_names)
        assert scores is not None
        spread = metrics.paired_noise(self.truth, predicted, self.as_they_are, settings.seed)
        errors = len(set(found.quarantine).difference(self.extraction.quarantine))
        return Heard(scores.waf, scores.macro_f1, scores.accuracy, spread, errors)

    def _ready(self, room: Room) -> list[Loaded]:
        """The clips' ready features, which no noise changes."""
        place = {clip_id: row for row, clip_id in enumerate(self.extraction.features.clip_ids)}
        rows = np.array([place[clip.clip_id] for clip in self.clips], dtype=np.int64)
        taken = room.take(self.extraction.features, rows)
        return [Loaded(one, (), 0) for one in taken.features if one.name not in self.settings.encoders]

    def _predicted(self, found: Extraction, room: Room) -> NDArray[np.int64]:
        """Each clip's class, (N,); the commonest one for a clip of which nothing is left."""
        commonest = int(np.argmax(self.ensemble.final.prior))
        predicted = np.full(len(self.clips), commonest, dtype=np.int64)
        left = [row for row, clip in enumerate(self.clips) if clip.clip_id not in found.lost]
        if left:
            speakers = [self.clips[row].speaker for row in left]
            predicted[left] = self.ensemble.ask(self.run_dir, found.features, speakers, room).last_word.label
        return predicted

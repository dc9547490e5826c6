"""From clips to features: the tables that are made, and what comes of them."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa
from rich.console import Console

from mer_ray import config, registry
from mer_ray.data import ready
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.data.room import Room
from mer_ray.errors import CorruptPartError, Reason
from mer_ray.pipelines import source
from mer_ray.pipelines.planning import AUDIO, FACES
from mer_ray.runtime import nodes
from mer_ray.runtime.console import StepLine, step_line
from mer_ray.runtime.journal import Journal
from mer_ray.runtime.materialise import Made, Progress, Step, materialise
from mer_ray.runtime.sight import Sight
from mer_ray.runtime.stream import Fault
from mer_ray.runtime.visit import Visited, visit
from mer_ray.stages.denoise import DenoiseStage
from mer_ray.stages.faces import FacesStage
from mer_ray.stages.visit import MediaVisit
from mer_ray.types import Clip

_ROWS_AT_ONCE = 4096
_MOST_MENDED = 100
"""After so many damaged parts in one run it is the disk that is ill."""

T = TypeVar("T")


@dataclass(frozen=True)
class Quarantined:
    """One row of ``quarantine.parquet``: a clip, the step that failed, a ``Reason`` and what happened."""

    clip_id: str
    step: str
    error: str
    detail: str


@dataclass(frozen=True)
class Extraction:
    """What the learners and the report read.

    Attributes:
        features: of every clip with a modality left, in the manifest's order; those that no clip has are left out.
        digest: changes when any feature of any clip does.
        made: the tables, by step.
        quarantine: every error, and one ``no_modality`` row for each clip with nothing left and no error.
        lost: clips with no modality left.
    """

    features: FeatureSet
    digest: str
    made: Mapping[str, Made]
    quarantine: tuple[Quarantined, ...]
    lost: frozenset[str]


def run(
    steps: Sequence[Step],
    settings: config.ExtractionConfig,
    journal: Journal,
    console: Console,
    known: Mapping[str, Made] | None = None,
    track: str = "",
) -> dict[str, Made]:
    """Make the missing rows of each table, in order. Ray is running.

    Args:
        steps: what ``planning.plan`` gave.
        settings: of the job.
        journal: where it is told.
        console: where it is shown.
        known: tables that have been made; one that a step would make again is taken as it is.
        track: what the steps are for, if not for the job's own clips: ``<track>/`` stands before their names.

    Raises:
        ConfigError: see ``runtime.nodes``.
        MaterialiseError, StorageError: see ``runtime.materialise``.
    """
    return read(steps, settings, journal, console, dict, known, track)


def read(
    steps: Sequence[Step],
    settings: config.ExtractionConfig,
    journal: Journal,
    console: Console,
    reader: Callable[[Mapping[str, Made]], T],
    known: Mapping[str, Made] | None = None,
    track: str = "",
) -> T:
    """As ``run``, and what ``reader`` makes of the tables.

    A part that a step or the reader finds damaged is made again, and so is what found it.
    """
    sight = nodes.ask(steps, *source.stores(settings))
    makers = _Makers({step.stage.name: step for step in steps}, settings.runtime, sight, journal, console, track)
    for step in steps:
        name = step.stage.name
        if known and name in known and known[name].table.digest == step.table.digest:
            makers.made[name] = known[name]
        else:
            makers.make(name)
    return makers.mending(lambda: reader(makers.made))


@dataclass
class _Makers:
    """Makes tables by the names of their steps, and tells of it.

    Attributes:
        steps: by name.
        sight: what every node must see.
        made: what they made.
        mended: parts that were found damaged.
        visited: what one visit to the clips made of tables that are not made yet.
    """

    steps: Mapping[str, Step]
    runtime: config.RuntimeConfig
    sight: Sight | None
    journal: Journal
    console: Console
    track: str
    made: dict[str, Made] = field(default_factory=dict)
    mended: int = 0
    visited: dict[str, Visited] = field(default_factory=dict)

    def make(self, name: str) -> None:
        """Make the missing rows of a table."""
        step, told, started = self.steps[name], self._told(name), time.monotonic()
        self.journal.event("step_started", step=told, digest=step.table.digest)
        if name == AUDIO and FACES in self.steps and FACES not in self.made:
            self.visited = self._visit()
        made = self.mending(lambda: self._materialise(step, told))
        visited = self.visited.pop(name, Visited())
        rows, errors = made.rows_made + visited.rows, made.errors + visited.errors
        self.made[name] = made = replace(made, rows_made=rows, errors=errors, usage=made.usage or visited.usage)
        seconds = round(time.monotonic() - started, 3)
        self.journal.event("step_done", step=told, seconds=seconds, clips=rows, errors=dict(errors), **made.usage)

    def mending(self, act: Callable[[], T]) -> T:
        """What ``act`` gives; where it finds a part damaged, those rows are made again first.

        Raises:
            CorruptPartError: of no table of these, or there is no end of them.
        """
        while True:
            try:
                return act()
            except CorruptPartError as damage:
                self.mended += 1
                if damage.step not in self.made or self.mended > _MOST_MENDED:
                    raise
                self._corrupt(self._told(damage.step), str(damage))
                self.make(damage.step)

    def _materialise(self, step: Step, told: str) -> Made:
        def corrupt(part: str, why: str) -> None:
            self._corrupt(told, why, part)

        def note(what: str) -> None:
            self.console.print(f"[yellow]{told}: {what}[/]")

        upstream = {read: self.made[read] for read in step.stage.reads if read in self.made}
        with step_line(self.console, told) as line:
            told_of = partial(_show, line), corrupt, partial(self._fault, told), note
            return materialise(step, upstream, self.runtime, *told_of, self.sight)

    def _visit(self) -> dict[str, Visited]:
        """Make what sound and faces lack of a clip together, by the stages of both."""
        steps = {name: self.steps[name] for name in (AUDIO, FACES)}
        audio, faces = (step.stage for step in steps.values())
        if not isinstance(audio, DenoiseStage) or not isinstance(faces, FacesStage):
            return {}
        media = MediaVisit(audio, faces)
        told = self._told(media.name)
        with step_line(self.console, told) as line:
            told_of = partial(_show, line), partial(self._fault, told)
            return visit(steps, media, self.runtime, *told_of, self.sight, self._corrupt_of)

    def _fault(self, told: str, met: Fault) -> None:
        self.journal.event("machine_fault", step=told, node=met.host, detail=met.what)
        self.console.print(f"[yellow]{told}: node {met.host}: {met.what}; its batch is made again elsewhere[/]")

    def _corrupt_of(self, name: str, part: str, why: str) -> None:
        self._corrupt(self._told(name), why, part)

    def _corrupt(self, told: str, why: str, part: str = "") -> None:
        self.journal.event("corrupt_part", step=told, part=part, detail=why)
        self.console.print(f"[yellow]{told}: {why}; its rows are made again[/]")

    def _told(self, name: str) -> str:
        return f"{self.track}/{name}" if self.track else name


def collect(
    settings: config.ExtractionConfig,
    clips: Sequence[Clip],
    made: Mapping[str, Made],
    vectors: Iterable[ready.Loaded],
    room: Room,
) -> Extraction:
    """Bring the encoders' vectors and the user's ready features into one order, and count what is lost."""
    ids, loaded = tuple(clip.clip_id for clip in clips), list(vectors)
    encoded = {name: made[name] for name in settings.encoders if name in made}
    anything = np.zeros(len(ids), dtype=bool)
    for table in encoded.values():
        anything |= [table.refs[clip_id].present for clip_id in ids]
    for ready_feature in loaded:
        anything |= ready_feature.feature.present
    rows = np.flatnonzero(anything)
    left = tuple(ids[row] for row in rows)
    features = [
        *(_feature(name, _modality(settings.encoders[name]), table, left, room) for name, table in encoded.items()),
        *room.take(FeatureSet(ids, tuple(ready_feature.feature for ready_feature in loaded)), rows).features,
    ]
    whole = FeatureSet(left, tuple(feature for feature in features if feature.present.any()))
    lost = frozenset(ids).difference(left)
    errors = [Quarantined(**row) for ready_feature in loaded for row in ready_feature.quarantine]
    return Extraction(whole, _digest(whole), made, quarantine(ids, made, lost, errors), lost)


def held_bytes(
    settings: config.ExtractionConfig, steps: Sequence[Step], vectors: Sequence[ready.Loaded], num_clips: int
) -> int:
    """What the features of all clips take in memory, as ``collect`` will bring them together."""
    encoded = [
        step.table.schema.field("vector").type.list_size for step in steps if step.stage.name in settings.encoders
    ]
    ready_bytes = sum(int(one.feature.values.nbytes) for one in vectors)
    return 4 * num_clips * int(sum(encoded)) + ready_bytes


def without_features(settings: config.ExtractionConfig, ids: Iterable[str], made: Mapping[str, Made]) -> frozenset[str]:
    """The clips of which no encoder made anything."""
    tables = [made[name] for name in settings.encoders if name in made]
    return frozenset(clip_id for clip_id in ids if not any(table.refs[clip_id].present for table in tables))


def quarantine(
    ids: Iterable[str], made: Mapping[str, Made], lost: frozenset[str], others: Iterable[Quarantined] = ()
) -> tuple[Quarantined, ...]:
    """Every error of the tables and of ``others``, and a ``no_modality`` row for each lost clip without an error."""
    rows = [
        Quarantined(clip_id, step, ref.error, ref.detail or "")
        for step, table in made.items()
        for clip_id, ref in table.refs.items()
        if ref.error
    ]
    rows.extend(others)
    explained = {row.clip_id for row in rows}
    rows.extend(
        Quarantined(clip_id, "manifest", Reason.NO_MODALITY, "no sound, no face and no text")
        for clip_id in ids
        if clip_id in lost and clip_id not in explained
    )
    return tuple(rows)


def quarantine_table(rows: Iterable[Quarantined]) -> pa.Table:
    """``quarantine.parquet``, sorted by clip and step."""
    schema = pa.schema([(name, pa.string()) for name in ("clip_id", "step", "error", "detail")])
    ordered = sorted(rows, key=lambda row: (row.clip_id, row.step))
    return pa.Table.from_pylist([vars(row) for row in ordered], schema=schema)


def _modality(encoder: config.EncoderConfig) -> str:
    return str(registry.find("encoders", encoder.plugin).Encoder.modality)


def _feature(name: str, modality: str, made: Made, ids: Sequence[str], room: Room) -> Feature:
    """A table's vectors in the order of ``ids``; zeros stand where ``present`` is False and are never read."""
    refs = [made.refs[clip_id] for clip_id in ids]
    present = np.array([ref.present for ref in refs], dtype=bool)
    dim = made.table.schema.field("vector").type.list_size
    values = room.zeros((len(ids), dim), np.float32)
    by_part = sorted(np.flatnonzero(present).tolist(), key=lambda row: refs[row].part)
    for start in range(0, len(by_part), _ROWS_AT_ONCE):
        rows = by_part[start : start + _ROWS_AT_ONCE]
        column = made.table.take([refs[row] for row in rows], ["vector"])["vector"].combine_chunks()
        values[rows] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    return Feature(name, modality, values, present)


def _digest(features: FeatureSet) -> str:
    """A hash of the vectors themselves, whichever parts or files they came from."""
    digest = hashlib.blake2b("\n".join(features.clip_ids).encode(), digest_size=16)
    for feature in features.features:
        digest.update(f"{feature.name}\0{feature.modality}\0{feature.values.dtype}".encode())
        digest.update(feature.present.tobytes())
        digest.update(np.ascontiguousarray(feature.values).data)
    return digest.hexdigest()


def _show(line: StepLine, progress: Progress) -> None:
    line.update(progress.done, progress.total, _count(progress.errors))


def _count(errors: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in errors.most_common())

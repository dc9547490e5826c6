"""From clips to features: which tables a config asks for, in which order, and what comes of them."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from rich.console import Console

from mer_ray import config, registry
from mer_ray.data import ready
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.data.files import MISSING, stat_inputs
from mer_ray.data.retries import Retries
from mer_ray.data.room import Room
from mer_ray.data.storage import Store
from mer_ray.data.table import Table, row_key
from mer_ray.errors import ConfigError, InputError, NotHereError, PluginError, Reason
from mer_ray.pipelines import source
from mer_ray.runtime import nodes
from mer_ray.runtime.console import step_line
from mer_ray.runtime.journal import Journal
from mer_ray.runtime.materialise import Made, Progress, Step, materialise
from mer_ray.runtime.stream import Fault
from mer_ray.speech.noise import Noise
from mer_ray.stages.base import Stage
from mer_ray.stages.denoise import DenoiseStage
from mer_ray.stages.encode import EncodeStage
from mer_ray.stages.faces import FacesStage
from mer_ray.stages.llm_hint import LLMHintStage
from mer_ray.stages.transcribe import TranscribeStage
from mer_ray.types import Clip

AUDIO, FACES, TRANSCRIPT, HINT = "audio", "faces", "transcript", "hint"
NOT_HERE = "its weights are not on this machine yet"
"""Why a dry run cannot tell of a step, or time it."""
_ROWS_AT_ONCE = 4096


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


def check(settings: config.ExtractionConfig) -> None:
    """Find every plug-in that extraction needs, and hold its options to it, before anything is started.

    Raises:
        ConfigError, PluginError: one is unknown, an option is wrong, or an encoder's name cannot be used.
    """
    for name, encoder in settings.encoders.items():
        _check_name(name)
        registry.configure("encoders", encoder.plugin, encoder.options)
    if settings.faces.enabled:
        registry.configure("detectors", settings.faces.detector.name, settings.faces.detector.options)
    if settings.denoise.enabled:
        registry.configure("separators", settings.denoise.separator.name, settings.denoise.separator.options)
        registry.configure("recognisers", settings.denoise.recogniser.name, settings.denoise.recogniser.options)
    if settings.transcribe.enabled:
        registry.configure("recognisers", settings.transcribe.recogniser.name, settings.transcribe.recogniser.options)


def plan(
    settings: config.ExtractionConfig,
    clips: Sequence[Clip],
    tables: Store,
    reads: Sequence[str] | None = None,
    noise: Noise | None = None,
) -> tuple[Step, ...]:
    """The steps that the configured encoders need, or what makes the tables ``reads``, upstream first.

    Nothing is started or written. All clips are heard in ``noise``, if any; what does not hear them stays the same.

    Clips are ordered by the size of their media, so that similar lengths share a batch at every step.

    Raises:
        ConfigError, PluginError: an encoder or its options are wrong, or its weights are missing.
    """
    stages = _stages(settings, noise) if reads is None else _before(settings, reads, noise)
    _check_stall(settings.runtime, stages)
    _refuse(_faults(stages))
    return _steps(stages, clips, tables, settings.tables.retry_errors)


def plan_here(
    settings: config.ExtractionConfig, clips: Sequence[Clip], tables: Store, reads: Sequence[str] | None = None
) -> tuple[tuple[Step, ...], dict[str, str]]:
    """As ``plan``, for ``weights.only_here``: the steps, and of each that is not known here, by name, why not.

    Raises:
        ConfigError, PluginError: see ``plan``.
    """
    stages = _stages(settings) if reads is None else _before(settings, reads)
    faults = _faults(stages)
    unknown = {name: NOT_HERE for name, error in faults.items() if isinstance(error, NotHereError)}
    _refuse({name: error for name, error in faults.items() if name not in unknown})
    for stage in stages:
        if stage.name not in unknown and (unmade := [name for name in stage.reads if name in unknown]):
            unknown[stage.name] = f"it reads {', '.join(unmade)}"
    again = settings.tables.retry_errors
    return _steps([stage for stage in stages if stage.name not in unknown], clips, tables, again), unknown


def _steps(
    stages: Iterable[Stage], clips: Sequence[Clip], tables: Store, again: Sequence[Reason] | Literal["all"]
) -> tuple[Step, ...]:
    identities = stat_inputs(clips)
    ordered = sorted(clips, key=lambda clip: (_size(clip, identities), clip.clip_id))
    by_id = {clip.clip_id: replace(clip, seen=_seen(clip, identities)) for clip in clips}
    keys: dict[str, dict[str, str]] = {}
    made_of: dict[str, Table] = {}
    steps = []
    for stage in stages:
        name = stage.name
        first = {clip.clip_id: _key(stage, clip, identities, keys) for clip in ordered}
        upstream = [made_of[read] for read in stage.reads if read != "clip" and read in made_of]
        made_of[name] = Table(tables, name, stage.schema, stage.spec | {"version": stage.version}, upstream)
        retries = Retries.read(made_of[name])
        if again:
            retries = retries.again(made_of[name], first, again)
        keys[name] = retries.keys(first)
        steps.append(Step(stage, made_of[name], keys[name], by_id, retries))
    return tuple(steps)


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
        steps: what ``plan`` gave.
        settings: of the job.
        journal: where it is told.
        console: where it is shown.
        known: tables that have been made; one that a step would make again is taken as it is.
        track: what the steps are for, if not for the job's own clips: ``<track>/`` stands before their names.

    Raises:
        ConfigError: see ``runtime.nodes``.
        MaterialiseError, StorageError: see ``runtime.materialise``.
    """
    sight = nodes.ask(steps, *source.stores(settings))
    made: dict[str, Made] = {}
    for step in steps:
        name = step.stage.name
        if known and name in known and known[name].table.digest == step.table.digest:
            made[name] = known[name]
            continue
        started, told = time.monotonic(), f"{track}/{name}" if track else name
        journal.event("step_started", step=told, digest=step.table.digest)
        with step_line(console, told) as line:

            def show(progress: Progress, line=line) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
                line.update(progress.done, progress.total, _count(progress.errors))

            def corrupt(part: str, why: str, told: str = told) -> None:
                journal.event("corrupt_part", step=told, part=part, detail=why)
                console.print(f"[yellow]{told}: {why}; its rows are made again[/]")

            def fault(met: Fault, told: str = told) -> None:
                journal.event("machine_fault", step=told, node=met.host, detail=met.what)
                console.print(f"[yellow]{told}: node {met.host}: {met.what}; its batch is made again elsewhere[/]")

            def note(what: str, told: str = told) -> None:
                console.print(f"[yellow]{told}: {what}[/]")

            upstream = {read: made[read] for read in step.stage.reads if read in made}
            made[name] = materialise(step, upstream, settings.runtime, show, corrupt, fault, note, sight)
        seconds = round(time.monotonic() - started, 3)
        errors, usage = dict(made[name].errors), made[name].usage
        journal.event("step_done", step=told, seconds=seconds, clips=made[name].rows_made, errors=errors, **usage)
    return made


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


def _check_stall(runtime: config.RuntimeConfig, stages: Iterable[Stage]) -> None:
    for stage in stages:
        own = stage.resources
        if runtime.stall_seconds != "auto" and runtime.stall_seconds <= own.batch_seconds:
            raise ConfigError(
                f"runtime.stall_seconds={runtime.stall_seconds:g}: a batch of step {stage.name} may take "
                f"{own.batch_seconds:g} s ({own.batch_size} clips of {own.clip_seconds:g} s, runtime.clip_seconds); "
                "set it to auto, or to more than that"
            )


def _check_name(name: str) -> None:
    if not ready.NAME.fullmatch(name):
        raise ConfigError(
            f"encoders.{name}: the name of a feature has letters, digits, '.', '_' and '-', begins with a letter or a "
            "digit, and has at most 100 of them; rename it"
        )
    if name in (AUDIO, FACES, TRANSCRIPT, HINT):
        raise ConfigError(f"encoders.{name}: the table {name} is what encoders read; call the feature otherwise")


def _faults(stages: Iterable[Stage]) -> dict[str, InputError]:
    """Ask every stage for what it would write, which needs its weights' configuration; what is wrong, by stage."""
    faults = {}
    for stage in stages:
        try:
            _ = stage.schema, stage.spec
        except InputError as error:
            faults[stage.name] = error
    return faults


def _refuse(faults: Mapping[str, InputError]) -> None:
    """Tell all that is missing.

    Raises:
        PluginError: weights are missing, or of another model.
    """
    names: dict[str, list[str]] = {}
    for name, error in faults.items():
        names.setdefault(str(error), []).append(name)
    if names:
        raise PluginError("\n".join(f"encoders {', '.join(stages)}: {why}" for why, stages in names.items()))


def _stages(settings: config.ExtractionConfig, noise: Noise | None = None) -> list[Stage]:
    """The stages that the encoders need, upstream first."""
    limit = settings.runtime.clip_seconds
    encoders = [EncodeStage(name, encoder, limit) for name, encoder in settings.encoders.items()]
    if not settings.faces.enabled:
        encoders = [encoder for encoder in encoders if FACES not in encoder.reads]
    return [*_before(settings, {read for encoder in encoders for read in encoder.reads}, noise), *encoders]


def _before(settings: config.ExtractionConfig, reads: Collection[str], noise: Noise | None = None) -> list[Stage]:
    """The stages that make the tables ``reads``, upstream first."""
    limit = settings.runtime.clip_seconds
    stages: list[Stage] = []
    if AUDIO in reads or (TRANSCRIPT in reads and settings.transcribe.enabled):
        stages.append(DenoiseStage(settings.media, settings.denoise, limit, noise))
    if FACES in reads:
        stages.append(FacesStage(settings.media, settings.faces, limit))
    if TRANSCRIPT in reads:
        stages.append(TranscribeStage(settings.transcribe, settings.denoise, limit))
    if HINT in reads:
        stages.append(LLMHintStage(settings.hint))
    return stages


def _key(stage: Stage, clip: Clip, identities: Mapping[str, str], keys: Mapping[str, Mapping[str, str]]) -> str:
    """The identity of what a stage reads of a clip: addresses with their files' identity, text, upstream keys."""
    if stage.name == AUDIO:
        return _media_key(clip.audio or clip.video, identities)
    if stage.name == FACES:
        return _media_key(clip.faces or clip.video, identities)
    if stage.name == TRANSCRIPT:
        text = clip.text or ""
        upstream = keys[AUDIO][clip.clip_id] if AUDIO in stage.reads and AUDIO in keys and not text.strip() else ""
        return row_key(text, upstream)
    return row_key(*(keys[read][clip.clip_id] for read in stage.reads))


def _media_key(address: str | None, identities: Mapping[str, str]) -> str:
    return row_key(address, identities[address]) if address else row_key("")


def _seen(clip: Clip, identities: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(uri for uri in (clip.video, clip.audio, clip.faces) if uri and identities[uri] != MISSING)


def _size(clip: Clip, identities: Mapping[str, str]) -> int:
    for address in (clip.video, clip.audio, clip.faces):
        size = identities.get(address or "", "").partition("-")[0]
        if size.isdigit():
            return int(size)
    return len(clip.text or "")


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


def _count(errors: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in errors.most_common())

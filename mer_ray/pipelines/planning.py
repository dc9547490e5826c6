"""From a config and clips to steps: which tables the encoders need, in which order, and what each row is made from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from mer_ray import config, registry
from mer_ray.data import ready
from mer_ray.data.files import MISSING, stat_inputs
from mer_ray.data.retries import Retries
from mer_ray.data.rows import Ids, Keys, column_of
from mer_ray.data.storage import Store
from mer_ray.data.table import Table, row_key
from mer_ray.errors import ConfigError, InputError, NotHereError, PluginError, Reason
from mer_ray.runtime.materialise import Step
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
    ids = Ids(clip.clip_id for clip in ordered)
    by_id = {clip.clip_id: replace(clip, seen=_seen(clip, identities)) for clip in clips}
    keys: dict[str, Keys] = {}
    made_of: dict[str, Table] = {}
    steps = []
    for stage in stages:
        name = stage.name
        told = (_key(stage, clip, place, identities, keys) for place, clip in enumerate(ordered))
        first = Keys(ids, column_of(told, len(ids)))
        upstream = [made_of[read] for read in stage.reads if read != "clip" and read in made_of]
        made_of[name] = Table(tables, name, stage.schema, stage.spec | {"version": stage.version}, upstream)
        retries = Retries.read(made_of[name])
        if again:
            retries = retries.again(made_of[name], first, again)
        keys[name] = retries.keys(first)
        steps.append(Step(stage, made_of[name], keys[name], by_id, retries))
    return tuple(steps)


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


def _key(stage: Stage, clip: Clip, place: int, identities: Mapping[str, str], keys: Mapping[str, Keys]) -> str:
    """The identity of what a stage reads of the clip at a place: addresses with their files' identity, text, keys."""
    if stage.name == AUDIO:
        return _media_key(clip.audio or clip.video, identities)
    if stage.name == FACES:
        return _media_key(clip.faces or clip.video, identities)
    if stage.name == TRANSCRIPT:
        text = clip.text or ""
        upstream = keys[AUDIO].at(place) if AUDIO in stage.reads and AUDIO in keys and not text.strip() else ""
        return row_key(text, upstream)
    return row_key(*(keys[read].at(place) for read in stage.reads))


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

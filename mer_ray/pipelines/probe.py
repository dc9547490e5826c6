"""The layer probe: which hidden layer of a model tells the emotions best (P2 section 3.2.1).

Read ``run`` aloud: the labelled clips; one table with all layers side by side; each layer on the same folds; a page.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np
from rich.console import Console
from rich.table import Table

from mer_ray import __version__, config, registry
from mer_ray.config import EncoderConfig, ProbeConfig
from mer_ray.data.manifest import Manifest
from mer_ray.errors import ConfigError, MaterialiseError, NotHereError
from mer_ray.evaluation import probe_report
from mer_ray.evaluation.probe_report import Layer, ProbedModel, ProbeReport
from mer_ray.learners import folds as folds_
from mer_ray.learners import probe
from mer_ray.pipelines import estimate, features, planning, results, source, speech
from mer_ray.pipelines.results import EXIT_TOO_MANY_ERRORS
from mer_ray.pretrained.weights import only_here
from mer_ray.runtime.console import step_line
from mer_ray.runtime.journal import Journal, environment
from mer_ray.runtime.materialise import Made
from mer_ray.runtime.session import session
from mer_ray.types import Split


def run(settings: ProbeConfig, dry_run: bool = False) -> int:
    """Do the job, or continue it.

    Args:
        settings: what to do.
        dry_run: only say what would be made, and stop.

    Returns:
        The exit code: 0, or 3 when more than ``max_error_fraction`` of the labelled clips have no vector.

    Raises:
        InputError: bad input or config, before anything is started.
        MerRayError: the job failed; the same call continues it.
    """
    console = Console(highlight=False)
    settings = speech.settle(settings, console)
    if not settings.encoders:
        raise ConfigError("there is no model to probe: name encoders, e.g. encoders.hubert.plugin=hubert")
    planning.check(settings)
    layers = _layers(settings, dry_run)
    probed = {name: _all_layers(settings.encoders[name], chosen) for name, chosen in layers.items()}
    settings = settings.model_copy(update={"encoders": settings.encoders | probed})
    run_dir, tables = source.stores(settings)
    manifest = _labelled(source.clips(settings, run_dir, console, require_labels=True, dry_run=dry_run))
    source.warn(manifest, console)
    if dry_run:
        estimate.tell(settings, manifest.clips, tables, console)
        return 0
    steps = planning.plan(settings, manifest.clips, tables)
    journal = Journal(run_dir)
    journal.open(settings)
    console.print(f"run directory: {run_dir}", soft_wrap=True)

    def judge(made: Mapping[str, Made]) -> tuple[Mapping[str, Made], tuple[ProbedModel, ...]]:
        started = time.monotonic()
        models = tuple(_judge(name, chosen, settings, manifest, made, console) for name, chosen in layers.items())
        journal.event("step_done", step="probe", seconds=round(time.monotonic() - started, 3), clips=0)
        return made, models

    with session(settings.runtime):
        made, models = features.read(steps, settings, journal, console, judge)
    ids = [clip.clip_id for clip in manifest.clips]
    lost = features.without_features(settings, ids, made)
    results.write_quarantine(run_dir, features.quarantine(ids, made, lost))
    run_dir.write("probe.json", json.dumps({"models": [asdict(model) for model in models]}, indent=1).encode())
    run_dir.write("probe.html", probe_report.render(_report(settings, manifest, models)).encode())
    _show(console, models)
    for line in (f"{len(ids)} labelled clips, {len(lost)} quarantined", f"report: {run_dir.path('probe.html')}"):
        console.print(line, soft_wrap=True)
    journal.event("run_done", counts={"manifest": len(ids), "quarantined": len(lost)})
    return EXIT_TOO_MANY_ERRORS if len(lost) > settings.max_error_fraction * len(ids) else 0


def _layers(settings: ProbeConfig, dry_run: bool) -> dict[str, tuple[int, ...]]:
    """``layers_of`` each encoder; of a dry run, of those whose weights are on this machine."""
    layers = {}
    with only_here() if dry_run else nullcontext():
        for name, encoder in settings.encoders.items():
            with suppress(NotHereError):
                layers[name] = layers_of(name, encoder, settings)
    return layers


def layers_of(name: str, encoder: EncoderConfig, settings: ProbeConfig) -> tuple[int, ...]:
    """The hidden states of an encoder to judge; only its configuration is read.

    Raises:
        ConfigError, PluginError: it has no layers to read, none of these, or its weights are missing.
    """
    wanted = settings.probe.layers
    fields = registry.find("encoders", encoder.plugin).Config.model_fields
    if not {"layers", "combine"} <= fields.keys():
        raise ConfigError(
            f"encoders.{name}: the plug-in {encoder.plugin} has no layers to read out; probe one that has, like hubert"
        )
    if isinstance(wanted, list):
        return tuple(dict.fromkeys(wanted))
    model = registry.build("encoders", encoder.plugin, encoder.options).model_config
    num_layers = getattr(model, "num_hidden_layers", None)
    if num_layers is None:
        raise ConfigError(f"encoders.{name}: the number of layers is not known; give probe.layers as a list")
    if wanted == "all":
        return tuple(range(num_layers + 1))
    return tuple(range(max(1, num_layers - wanted + 1), num_layers + 1))


def _all_layers(encoder: EncoderConfig, layers: tuple[int, ...]) -> EncoderConfig:
    """The encoder with these layers side by side, averaged over time."""
    options = {**encoder.options, "layers": list(layers), "combine": "concat"}
    return encoder.model_copy(update={"options": options, "pooling": "mean", "sequences": None})


def _labelled(manifest: Manifest) -> Manifest:
    clips = tuple(clip for clip in manifest.clips if clip.split is Split.TRAIN)
    return Manifest(clips, manifest.label_space, manifest.path, manifest.warnings)


def _judge(
    name: str,
    layers: tuple[int, ...],
    settings: ProbeConfig,
    manifest: Manifest,
    made: Mapping[str, Made],
    console: Console,
) -> ProbedModel:
    table = made[name]
    clips = [clip for clip in manifest.clips if table.refs[clip.clip_id].present]
    labels = np.array([manifest.label_space.index(clip.label or "") for clip in clips], dtype=np.int64)
    if len(set(labels)) < 2:
        raise MaterialiseError(f"{name}: {len(clips)} labelled clips have a vector, of fewer than two classes")
    folds = folds_.make(labels, [clip.speaker for clip in clips], settings.probe.folds, settings.seed)
    for warning in folds.warnings:
        console.print(f"[yellow]note: {warning}[/]", soft_wrap=True)
    rows = table.table.take([table.refs[clip.clip_id] for clip in clips], ["vector"])["vector"].combine_chunks()
    vectors_nLD = rows.flatten().to_numpy(zero_copy_only=False).reshape(len(clips), len(layers), -1)
    scores: list[probe.LayerScore] = []
    with step_line(console, f"probe {name}", "layers") as line:
        for place, layer in enumerate(layers):
            chosen = vectors_nLD[:, place]
            scores.append(probe.score_layer(layer, chosen, labels, folds, settings.probe.penalty))
            line.update(len(scores), len(layers))
    ordered = tuple(sorted(scores, key=lambda score: score.layer))
    return ProbedModel(
        name=name,
        weights=registry.build("encoders", settings.encoders[name].plugin, settings.encoders[name].options).identity,
        num_clips=len(clips),
        num_folds=folds.num_folds,
        grouped=folds.grouped,
        layers=tuple(Layer(s.layer, s.mean, s.spread, s.fold_waf, s.oof_waf) for s in ordered),
        best=probe.best(ordered).layer,
        as_good=probe.as_good(ordered),
        warnings=folds.warnings,
    )


def _report(settings: ProbeConfig, manifest: Manifest, models: tuple[ProbedModel, ...]) -> ProbeReport:
    told = environment()
    classes = Counter(clip.label for clip in manifest.clips)
    return ProbeReport(
        title=settings.report.title,
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        seed=settings.seed,
        config_digest=config.digest(settings),
        versions={"mer_ray": __version__, "python": told["python"], **told["versions"]},
        classes={name: classes[name] for name in manifest.label_space.names},
        models=models,
        warnings=manifest.warnings,
    )


def _show(console: Console, models: Sequence[ProbedModel]) -> None:
    for model in models:
        grid = Table("layer", "WAF", "spread", "out of fold", "", title=f"Layers of {model.name}")
        for layer in model.layers:
            note = "best" if layer.layer == model.best else "as good" if layer.layer in model.as_good else ""
            figures = (f"{value:.4f}" for value in (layer.mean, layer.spread, layer.oof))
            grid.add_row(str(layer.layer), *figures, note)
        console.print(grid)

"""The extraction job: clips in, a table of features per encoder out, and what other tools read of them.

Read ``run`` aloud: the clips, labelled or not; the tables; what was left out; exports; a summary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from mer_ray.config import ExtractConfig
from mer_ray.data import export
from mer_ray.data.export import FeatureTable
from mer_ray.data.manifest import Manifest
from mer_ray.errors import ConfigError
from mer_ray.pipelines import estimate, features, planning, results, source, speech, summary
from mer_ray.pipelines.results import EXIT_TOO_MANY_ERRORS
from mer_ray.runtime.console import step_line
from mer_ray.runtime.journal import Journal
from mer_ray.runtime.materialise import Made, Step
from mer_ray.runtime.session import resolve_run_dir, session


def run(settings: ExtractConfig, dry_run: bool = False) -> int:
    """Do the job, or continue it.

    Args:
        settings: what to do.
        dry_run: only say what would be made, and stop.

    Returns:
        The exit code: 0, or 3 when more than ``max_error_fraction`` of the clips have no feature at all.

    Raises:
        InputError: bad input or config, before anything is started.
        MerRayError: the job failed; the same call continues it.
    """
    console = Console(highlight=False)
    settings = speech.settle(settings, console)
    check(settings)
    run_dir, tables = source.stores(settings)
    manifest = source.clips(settings, run_dir, console, require_labels=False, dry_run=dry_run)
    source.warn(manifest, console)
    if dry_run:
        estimate.tell(settings, manifest.clips, tables, console)
        return 0
    steps = planning.plan(settings, manifest.clips, tables)
    journal = Journal(run_dir)
    journal.open(settings)
    console.print(f"run directory: {run_dir}", soft_wrap=True)

    def write(made: Mapping[str, Made]) -> tuple[Mapping[str, Made], list[str]]:
        return made, _export(settings, manifest, steps, made, console)

    with session(settings.runtime):
        made, exported = features.read(steps, settings, journal, console, write)
    ids = [clip.clip_id for clip in manifest.clips]
    lost = features.without_features(settings, ids, made)
    left_out = features.quarantine(ids, made, lost)
    results.write_quarantine(run_dir, left_out)
    summary.show_extraction(console, made, journal.work(), left_out, tables)
    for line in (*exported, f"{len(ids)} clips = {len(ids) - len(lost)} with features + {len(lost)} quarantined"):
        console.print(line, soft_wrap=True)
    journal.event("run_done", counts={"manifest": len(ids), "quarantined": len(lost)})
    return EXIT_TOO_MANY_ERRORS if len(lost) > settings.max_error_fraction * len(ids) else 0


def check(settings: ExtractConfig) -> None:
    """Hold the config to what can be done, before anything is started.

    Raises:
        ConfigError, PluginError: no encoder, an unknown plug-in, a wrong option, or an export that cannot be written.
    """
    if not settings.encoders:
        raise ConfigError("there is nothing to extract: name encoders, e.g. encoders.voice.plugin=opensmile")
    planning.check(settings)
    export.check_names(settings.encoders, settings.export)
    if settings.export.huggingface:
        export.check_huggingface(resolve_run_dir(settings.export.huggingface))


def _export(
    settings: ExtractConfig, manifest: Manifest, steps: Sequence[Step], made: Mapping[str, Made], console: Console
) -> list[str]:
    """Write what ``settings.export`` asks for; a line about each."""
    wanted, told = settings.export, []
    tables = [
        FeatureTable(name, made[name].table, made[name].refs, encoder.sequences)
        for name, encoder in settings.encoders.items()
        if name in made
    ]
    order = list(steps[0].keys) if steps else []  # as the tables' parts were cut, so that each is read once
    by_id = {clip.clip_id: clip for clip in manifest.clips}
    if wanted.mertools:
        folder = resolve_run_dir(wanted.mertools)
        with step_line(console, "mertools", "features") as line:
            for i, table in enumerate(tables):
                written = export.to_mertools([table], order, folder)
                line.update(i + 1, len(tables), ", ".join(written))
        told.append(f"MERTools features: {folder}/features")
    if wanted.huggingface:
        folder = resolve_run_dir(wanted.huggingface)
        with step_line(console, "huggingface", "datasets") as line:
            splits = export.to_huggingface(tables, [by_id[i] for i in order], manifest.label_space.names, folder)
            line.update(len(splits), len(splits))
        told.append(f"Hugging Face dataset: {folder} ({', '.join(splits)}); datasets.load_from_disk reads it")
    return told

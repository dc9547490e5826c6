"""What a job starts from: the user's clips, or the demo's, made on the spot."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console

from mer_ray.config import ExtractionConfig, MineConfig
from mer_ray.data import layouts, ready
from mer_ray.data.layouts import Source
from mer_ray.data.manifest import Manifest
from mer_ray.data.ready import ReadyFeature
from mer_ray.data.room import Room
from mer_ray.data.storage import Store
from mer_ray.demo import files as demo_files
from mer_ray.demo import plan as demo_plan
from mer_ray.demo import render as demo_render
from mer_ray.errors import ConfigError
from mer_ray.evaluation import submission
from mer_ray.runtime.console import step_line
from mer_ray.runtime.session import resolve_run_dir
from mer_ray.types import Clip


@dataclass(frozen=True)
class Brought:
    """What there is to work on, checked.

    Attributes:
        manifest: the clips and their classes.
        features: ready features, not yet read.
        candidates: the clips of the submission, in its order.
        demo: the folder of the demo's clips, when it is the demo; only scoring and the report look into its truth.
    """

    manifest: Manifest
    features: tuple[ReadyFeature, ...]
    candidates: tuple[str, ...]
    demo: Path | None = None

    @property
    def clips(self) -> tuple[Clip, ...]:
        """The manifest's clips."""
        return self.manifest.clips

    @cached_property
    def truth(self) -> dict[str, str]:
        """True label by clip, for scoring alone: of the test clips that have one, and of all the demo's clips."""
        known = {clip.clip_id: clip.label for clip in self.clips if clip.label is not None}
        if self.demo is not None:
            table = pq.read_table(self.demo / demo_files.TRUTH, columns=["clip_id", "label"])
            known |= dict(zip(table["clip_id"].to_pylist(), table["label"].to_pylist(), strict=True))
        return known


def stores(settings: ExtractionConfig) -> tuple[Store, Store]:
    """The run directory, and the folder of the tables."""
    run_dir = Store(resolve_run_dir(settings.run.dir))
    return run_dir, Store(settings.tables.dir) if settings.tables.dir else run_dir / "tables"


def warn(manifest: Manifest, console: Console) -> None:
    """Print what the user should know about the manifest."""
    for warning in manifest.warnings:
        console.print(f"[yellow]note: {warning}[/]", soft_wrap=True)


def load(
    settings: MineConfig, run_dir: Store, console: Console, to_learn: bool = True, dry_run: bool = False
) -> Brought:
    """Read and check what the config points to; the demo's clips are made first.

    Args:
        settings: what it points to.
        run_dir: where the demo's clips are made.
        console: where their making is shown.
        to_learn: whether something is to be learnt; else clips need no label, and labelled ones are candidates too.
        dry_run: nothing is made; of the demo's clips those that are not there have no media.

    Raises:
        InputError: the manifest, a layout, a feature file or the candidates' list cannot be used.
    """
    source, folder = _read(settings, run_dir, console, to_learn, dry_run)
    manifest, listed = source.manifest, settings.submission.candidates
    candidates = submission.read_candidates(listed) if listed else source.candidates
    if candidates is None and not to_learn:
        candidates = tuple(clip.clip_id for clip in manifest.clips)
    return Brought(manifest, source.features, submission.check_candidates(manifest, candidates), folder)


def clips(
    settings: ExtractionConfig, run_dir: Store, console: Console, require_labels: bool, dry_run: bool = False
) -> Manifest:
    """As ``load``, of clips whose media are to be read: ready features do not count, nor does a candidates' list.

    Args:
        settings: what the config points to.
        run_dir: where the demo's clips are made.
        console: where their making is shown.
        require_labels: whether something is to be learnt from them.
        dry_run: see ``load``.

    Raises:
        InputError: the manifest or a layout cannot be used, or ready features are named.
    """
    if settings.data.features:
        raise ConfigError("data.features are vectors already: there is nothing to extract; name clips with media")
    return _read(settings, run_dir, console, require_labels, dry_run, use_features=False)[0].manifest


def sampled(settings: ExtractionConfig, clips: Sequence[Clip], folder: Path) -> dict[str, Clip]:
    """Some clips by id, for a dry run to try; those of the demo that are not there are made in ``folder``."""
    if settings.data.layout != "demo":
        return {clip.clip_id: clip for clip in clips}
    planned = {clip.clip_id: clip for clip in demo_plan.plan(*_made_of(settings))}
    found = {}
    for clip in clips:
        address = clip.video
        if address is None or not Path(address).exists():
            address = str(folder / f"{clip.clip_id}.mp4")
            demo_render.write(planned[clip.clip_id], Path(address))
        found[clip.clip_id] = replace(clip, video=address)
    return found


def vectors(brought: Brought, room: Room) -> tuple[ready.Loaded, ...]:
    """The ready features, read into ``room`` and checked whole.

    A file that cannot be used is refused before anything is started.

    Raises:
        FeatureFileError: see ``ready.load``.
        StorageError: S3 refused to be read.
    """
    clip_ids = [clip.clip_id for clip in brought.clips]
    return tuple(ready.load(feature, clip_ids, room) for feature in brought.features)


def _read(
    settings: ExtractionConfig,
    run_dir: Store,
    console: Console,
    require_labels: bool,
    dry_run: bool,
    use_features: bool = True,
) -> tuple[Source, Path | None]:
    """What the config points to; the demo's clips are made, and are then a manifest in the folder returned beside it.

    Raises:
        ConfigError: it is the demo, and clips of the user's are named; or there is no place for the demo's.
    """
    if settings.data.layout != "demo":
        return layouts.load(settings.data, settings.labels, require_labels, use_features), None
    if settings.data.manifest or settings.data.root:
        named, layout = ("manifest", "manifest") if settings.data.manifest else ("root", "mertools (or chsims)")
        raise ConfigError(f"data.{named} is set, but data.layout=demo makes its own clips; set data.layout={layout}")
    if settings.data.demo.dir is None and not run_dir.is_local:
        raise ConfigError("the demo's clips are made on a local disk; set data.demo.dir when run.dir is in S3")
    folder = Path(settings.data.demo.dir or run_dir.path("clips"))
    try:
        if dry_run:
            return _outlined(settings, folder, require_labels), folder
        with step_line(console, "demo clips") as line:
            num_clips, seed, labelled = _made_of(settings)
            manifest = demo_files.make(folder, num_clips, seed, line.update, labelled=labelled)
    except ValueError as error:
        raise ConfigError(f"data.demo: {error}") from error
    data = settings.data.model_copy(update={"layout": "manifest", "manifest": str(manifest)})
    return layouts.load(data, settings.labels, require_labels), folder


def _outlined(settings: ExtractionConfig, folder: Path, require_labels: bool) -> Source:
    """What the demo in ``folder`` would be, by a manifest that is gone again; nothing is made."""
    planned = demo_plan.plan(*_made_of(settings))
    text = demo_files.manifest(planned, demo_files.places(planned, *_made_of(settings)))
    with tempfile.TemporaryDirectory() as beside:
        manifest = Path(beside) / demo_files.MANIFEST
        manifest.write_text(text, encoding="utf-8")
        named = {"layout": "manifest", "manifest": str(manifest), "media_root": str(folder)}
        data = settings.data.model_copy(update=named)
        source = layouts.load(data, settings.labels, require_labels, require_media=False)
    return replace(source, manifest=replace(source.manifest, warnings=()))


def _made_of(settings: ExtractionConfig) -> tuple[int, int, float]:
    """The demo's number of clips, seed, and labelled share."""
    config = settings.data.demo
    return config.num_clips, settings.seed if config.seed is None else config.seed, config.labelled

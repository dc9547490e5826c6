"""What a job starts from: the user's clips, or the demo's, made on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console

from mer_ray.config import DataConfig, ExtractionConfig, MineConfig
from mer_ray.data import layouts, ready
from mer_ray.data.manifest import Manifest
from mer_ray.data.ready import ReadyFeature
from mer_ray.data.room import Room
from mer_ray.data.storage import Store
from mer_ray.demo import files as demo_files
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


def load(settings: MineConfig, run_dir: Store, console: Console, to_learn: bool = True) -> Brought:
    """Read and check what the config points to; the demo's clips are made first.

    Args:
        settings: what it points to.
        run_dir: where the demo's clips are made.
        console: where their making is shown.
        to_learn: whether something is to be learnt; else clips need no label, and labelled ones are candidates too.

    Raises:
        InputError: the manifest, a layout, a feature file or the candidates' list cannot be used.
    """
    data, folder = _with_demo(settings, run_dir, console)
    source = layouts.load(data, settings.labels, require_labels=to_learn)
    manifest, listed = source.manifest, settings.submission.candidates
    candidates = submission.read_candidates(listed) if listed else source.candidates
    if candidates is None and not to_learn:
        candidates = tuple(clip.clip_id for clip in manifest.clips)
    return Brought(manifest, source.features, submission.check_candidates(manifest, candidates), folder)


def clips(settings: ExtractionConfig, run_dir: Store, console: Console, require_labels: bool) -> Manifest:
    """As ``load``, of clips whose media are to be read: ready features do not count, nor does a candidates' list.

    Args:
        settings: what the config points to.
        run_dir: where the demo's clips are made.
        console: where their making is shown.
        require_labels: whether something is to be learnt from them.

    Raises:
        InputError: the manifest or a layout cannot be used, or ready features are named.
    """
    if settings.data.features:
        raise ConfigError("data.features are vectors already: there is nothing to extract; name clips with media")
    data, _ = _with_demo(settings, run_dir, console)
    return layouts.load(data, settings.labels, require_labels, use_features=False).manifest


def vectors(brought: Brought, room: Room) -> tuple[ready.Loaded, ...]:
    """The ready features, read into ``room`` and checked whole.

    A file that cannot be used is refused before anything is started.

    Raises:
        FeatureFileError: see ``ready.load``.
        StorageError: S3 refused to be read.
    """
    clip_ids = [clip.clip_id for clip in brought.clips]
    return tuple(ready.load(feature, clip_ids, room) for feature in brought.features)


def _with_demo(settings: ExtractionConfig, run_dir: Store, console: Console) -> tuple[DataConfig, Path | None]:
    """Where to read from; the demo's clips are made, and are then a manifest in the folder returned beside it.

    Raises:
        ConfigError: it is the demo, and clips of the user's are named; or there is no place for the demo's.
    """
    if settings.data.layout != "demo":
        return settings.data, None
    if settings.data.manifest or settings.data.root:
        named, layout = ("manifest", "manifest") if settings.data.manifest else ("root", "mertools (or chsims)")
        raise ConfigError(f"data.{named} is set, but data.layout=demo makes its own clips; set data.layout={layout}")
    folder = _make_demo(settings, run_dir, console)
    made = {"layout": "manifest", "manifest": str(folder / demo_files.MANIFEST)}
    return settings.data.model_copy(update=made), folder


def _make_demo(settings: ExtractionConfig, run_dir: Store, console: Console) -> Path:
    config = settings.data.demo
    if config.dir is None and not run_dir.is_local:
        raise ConfigError("the demo's clips are made on a local disk; set data.demo.dir when run.dir is in S3")
    folder = Path(config.dir or run_dir.path("clips"))
    seed = settings.seed if config.seed is None else config.seed
    with step_line(console, "demo clips") as line:
        try:
            demo_files.make(folder, config.num_clips, seed, line.update, labelled=config.labelled)
        except ValueError as error:
            raise ConfigError(f"data.demo: {error}") from error
    return folder

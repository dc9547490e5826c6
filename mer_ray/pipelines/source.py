"""What a job starts from: the user's clips, or the demo's, made on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console

from mer_ray.config import MineConfig
from mer_ray.data import demo, layouts, ready
from mer_ray.data.manifest import Manifest
from mer_ray.data.ready import ReadyFeature
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError
from mer_ray.evaluation import submission
from mer_ray.runtime.console import step_line
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
            table = pq.read_table(self.demo / demo.TRUTH, columns=["clip_id", "label"])
            known |= dict(zip(table["clip_id"].to_pylist(), table["label"].to_pylist(), strict=True))
        return known


def load(settings: MineConfig, run_dir: Store, console: Console) -> Brought:
    """Read and check what the config points to; the demo's clips are made first.

    Raises:
        InputError: the manifest, a layout, a feature file or the candidates' list cannot be used.
    """
    folder: Path | None = None
    data = settings.data
    if data.layout == "demo":
        folder = _make_demo(settings, run_dir, console)
        data = data.model_copy(update={"layout": "manifest", "manifest": str(folder / demo.MANIFEST)})
    source = layouts.load(data, settings.labels)
    listed = settings.submission.candidates
    candidates = submission.read_candidates(listed) if listed else source.candidates
    return Brought(source.manifest, source.features, submission.check_candidates(source.manifest, candidates), folder)


def vectors(brought: Brought) -> tuple[ready.Loaded, ...]:
    """The ready features, read and checked whole: a file that cannot be used is refused before anything is started.

    Raises:
        FeatureFileError: see ``ready.load``.
        StorageError: S3 refused to be read.
    """
    clip_ids = [clip.clip_id for clip in brought.clips]
    return tuple(ready.load(feature, clip_ids) for feature in brought.features)


def _make_demo(settings: MineConfig, run_dir: Store, console: Console) -> Path:
    config = settings.data.demo
    if config.dir is None and not run_dir.is_local:
        raise ConfigError("the demo's clips are made on a local disk; set data.demo.dir when run.dir is in S3")
    folder = Path(config.dir or run_dir.path("clips"))
    seed = settings.seed if config.seed is None else config.seed
    with step_line(console, "demo clips") as line:
        demo.make(folder, config.num_clips, seed, line.update)
    return folder

"""Where a job starts from: a manifest, or a public set's folder as it lies, with ready features or without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mer_ray.config import DataConfig
from mer_ray.data import chsims, manifest, mertools, ready
from mer_ray.data.manifest import Labels, Manifest
from mer_ray.data.ready import ReadyFeature
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, ManifestError


@dataclass(frozen=True)
class Source:
    """What the user brought.

    Attributes:
        manifest: the clips.
        features: ready features, not yet read.
        candidates: the clips of a submission in its order, when the folder has a list of them.
    """

    manifest: Manifest
    features: tuple[ReadyFeature, ...] = ()
    candidates: tuple[str, ...] | None = None


def load(
    config: DataConfig,
    labels: Labels,
    require_labels: bool = True,
    use_features: bool = True,
    require_media: bool = True,
) -> Source:
    """Read what ``config`` points to, and check all of it before any work.

    The demo's clips are made first (``data.demo``) and then read as a manifest.

    Args:
        config: where to look.
        labels: the classes; see ``manifest.read``, also for ``require_labels``.
        require_labels: whether something is to be learnt.
        use_features: look for ready features; without them the media must be there.
        require_media: False for clips of a manifest whose media are still to be made.

    Raises:
        ConfigError: ``data.manifest`` or ``data.root`` is missing, or the layout is ``demo``.
        ManifestError: see ``manifest.read``; or there is nothing to learn from.
        FeatureFileError: see ``ready.discover``.
        StorageError: S3 refused to be read.
    """
    features = _features(config) if use_features else ()
    if config.layout == "manifest":
        path = _needed(config.manifest, "data.manifest", "a CSV or Parquet file with a column clip_id")
        source = Source(
            manifest.read(path, config.media_root, labels, require_media and not features, require_labels), features
        )
    elif config.layout == "mertools":
        root = _needed(config.root, "data.root", "the folder of a MER2024, MER2025, MER2026 or MERTools set")
        clips, candidates = mertools.read(root, config.media_root, labels, not features, require_labels)
        source = Source(clips, features, candidates)
    elif config.layout == "chsims":
        root = _needed(config.root, "data.root", "the folder of a CH-SIMS or MOSI set")
        source = Source(chsims.read(root, config.media_root, labels, not features, require_labels), features)
    else:
        raise ConfigError(f"data.layout={config.layout} names nothing to read; set manifest, mertools or chsims")
    if not features and not any(clip.video or clip.audio or clip.text or clip.faces for clip in source.manifest.clips):
        raise ManifestError(
            f"{source.manifest.path} is refused: no clip has media or text, and there are no ready features; "
            "fill in the column video, audio or text, or set data.features"
        )
    return source


def _features(config: DataConfig) -> tuple[ReadyFeature, ...]:
    if config.features:
        return ready.discover(config.features, config.modalities)
    if config.layout == "mertools" and config.root and Store(config.root).folders("features"):
        return ready.discover(Store(config.root).path("features"), config.modalities)
    return ()


def _needed(value: str | None, key: str, what: str) -> str:
    if not value:
        raise ConfigError(f"{key} is not set; give {what}")
    return value if "://" in value else str(Path(value).expanduser())

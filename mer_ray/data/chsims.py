"""Folders of CH-SIMS v2 and MOSI, read as they lie (LAYOUTS): ``meta.csv`` or ``label.csv``, ``Raw/VIDEO/CLIP.mp4``."""

from __future__ import annotations

import hashlib
import math
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from mer_ray.data import sheet as sheets
from mer_ray.data.manifest import Labels, Manifest, build
from mer_ray.data.sheet import Problems, Sheet
from mer_ray.data.storage import Store
from mer_ray.errors import ManifestError
from mer_ray.registry import nearest
from mer_ray.types import SENTIMENT, Split

_FILES = ("meta.csv", "label.csv")
_NEEDED = ("video_id", "clip_id", "text", "label", "mode")
_VIDEOS = "Raw"
_VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".flv")
_SPLITS = {
    "train": Split.TRAIN,
    "valid": Split.TRAIN,
    "test": Split.TEST,
    "unsupervised": Split.UNLABELED,
}
"""``valid`` is for training: the learners hold clips out by themselves, fold by fold."""
_LABELS = {"valence": "label", "label_text": "label_T", "label_audio": "label_A", "label_video": "label_V"}
_MOST_ID_CHARACTERS = 180

Place = tuple[str, str]
"""A clip's ``video_id`` and ``clip_id``."""


def read(
    root: str, media_root: str | None, labels: Labels, require_media: bool = True, require_labels: bool = True
) -> Manifest:
    """Read a dataset's folder.

    The class is the cell of ``annotation``; where that is blank or there is no such column, the sign of ``label``
    gives it (negative, neutral, positive), which is also the ``valence``. Unsupervised rows carry no label at all.

    Raises:
        ManifestError: there is neither label file, a column is missing, or as ``manifest.read``.
    """
    store = Store(root)
    files = store.files()
    found = [name for name in _FILES if name in files]
    if not found:
        raise ManifestError(f"{root} is no CH-SIMS or MOSI folder: it holds neither {' nor '.join(_FILES)}")
    notes = [f"{store.path(name)} is not read: {found[0]} is" for name in found[1:]]
    given = sheets.read(store.path(found[0]))
    if missing := [name for name in _NEEDED if name not in given.columns]:
        raise ManifestError(
            f"{given.path} is refused: it has no column {', '.join(missing)} (it has: {', '.join(given.columns)})"
        )
    splits = _splits(given)
    if _VIDEOS not in store.folders():
        notes.append(f"{root} has no folder {_VIDEOS}: the clips are without video and sound")
    columns = _columns(given, splits, _videos(store))
    sheet = Sheet(given.path, columns, given.places)
    return build(sheet, media_root or root, labels, require_media, notes, require_labels)


def _splits(given: Sheet) -> list[Split]:
    problems = Problems(given.path)
    splits = []
    for cell, place in zip(given.columns["mode"], given.places, strict=True):
        mode = (cell or "").strip().lower()
        if mode not in _SPLITS:
            problems.add(place, f"mode {cell or ''!r} is none of {', '.join(_SPLITS)}{nearest(mode, list(_SPLITS))}")
        splits.append(_SPLITS.get(mode, Split.UNLABELED))
    for column in ("video_id", "clip_id"):
        for cell, place in zip(given.columns[column], given.places, strict=True):
            if not cell:
                problems.add(place, f"{column} is blank")
    problems.refuse()
    return splits


def _columns(
    given: Sheet, splits: Sequence[Split], videos: Mapping[str, Mapping[str, str]] | None
) -> dict[str, list[str | None]]:
    """The rows as columns of a manifest."""
    pairs = zip(given.columns["video_id"], given.columns["clip_id"], strict=True)
    places = [((video or "").strip(), (clip or "").strip()) for video, clip in pairs]
    columns: dict[str, list[str | None]] = {
        "clip_id": list(clip_ids(places)),
        "video": [None if videos is None else _video(place, videos) for place in places],
        "text": list(given.columns["text"]),
        "split": [split.value for split in splits],
        "label": _classes(given),
    }
    columns |= {name: list(given.column(theirs)) for name, theirs in _LABELS.items()}
    for name in ("label", *_LABELS):
        cells = zip(columns[name], splits, strict=True)
        columns[name] = [None if split is Split.UNLABELED else cell for cell, split in cells]
    return columns


def _classes(given: Sheet) -> list[str | None]:
    """The class of every row; signs stand in for blank annotations unless the annotations are no sentiments."""
    told = [cell.strip() if cell else None for cell in given.column("annotation")]
    if any(cell and SENTIMENT.canonical(cell) is None for cell in told):
        return told
    return [cell or _sign(number) for cell, number in zip(told, given.columns["label"], strict=True)]


def _sign(cell: str | None) -> str | None:
    """The class of ``types.SENTIMENT`` that a continuous label falls into; None for what is no number.

    >>> _sign("-0.2"), _sign("0.0"), _sign("3"), _sign("")
    ('negative', 'neutral', 'positive', None)
    """
    try:
        value = float(cell or "nan")
    except ValueError:
        return None
    return None if math.isnan(value) else SENTIMENT.names[1 + (value > 0) - (value < 0)]


def clip_ids(places: Sequence[Place]) -> list[str]:
    """A legal ``clip_id`` per row, ``VIDEO_CLIP``; different clips get different ones, one clip always the same.

    Where characters had to be replaced or two clips would share an id, a hash of both names is added.

    >>> clip_ids([("-3g5yACwYnA", "10"), ("video_0001", "0001")])
    ['-3g5yACwYnA_10', 'video_0001_0001']
    """
    legal = {place: _legal("_".join(place)) for place in places}
    sharing = Counter(legal.values())
    return [
        name if name == "_".join(place) and sharing[name] == 1 else _marked(name, place)
        for place, name in ((place, legal[place]) for place in places)
    ]


def _legal(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".")[:_MOST_ID_CHARACTERS]


def _marked(name: str, place: Place) -> str:
    digest = hashlib.sha256("\0".join(place).encode()).hexdigest()
    return f"{name}-{digest[:10]}"


def _videos(store: Store) -> dict[str, dict[str, str]] | None:
    """The files below ``Raw`` by video and stem, as URIs; None when there is no such folder."""
    if _VIDEOS not in store.folders():
        return None
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for file in sorted(store.details(_VIDEOS, deep=True), key=_rank):
        video, _, name = file.rpartition("/")
        if _rank(file) < len(_VIDEO_ENDINGS) and not name.startswith("."):
            found[video].setdefault(posixpath.splitext(name)[0], f"{_VIDEOS}/{file}")
    return found


def _rank(file: str) -> int:
    """Which of two files of one stem is meant: the one whose ending comes first; the last place is for no video."""
    ending = posixpath.splitext(file)[1].lower()
    return _VIDEO_ENDINGS.index(ending) if ending in _VIDEO_ENDINGS else len(_VIDEO_ENDINGS)


def _video(place: Place, videos: Mapping[str, Mapping[str, str]]) -> str:
    """Where a clip's video is; where it should lie when it is not there, so that it is quarantined as missing.

    Spreadsheets drop the zeros that a clip's number starts with: ``1`` is ``0001.mp4`` when only that is there.
    """
    video, clip = place
    stems = videos.get(video, {})
    if clip not in stems and clip.isdigit():
        same = [stem for stem in stems if stem.isdigit() and int(stem) == int(clip)]
        clip = same[0] if len(same) == 1 else clip
    return stems.get(clip, f"{_VIDEOS}/{video}/{clip}.mp4")

"""Folders of the MER challenges and of MERTools, read as they lie (LAYOUTS): MER2024, 2025, 2026 raw, processed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mer_ray.data import corpora
from mer_ray.data import sheet as sheets
from mer_ray.data.manifest import Labels, Manifest, build
from mer_ray.data.sheet import Sheet
from mer_ray.data.storage import Store
from mer_ray.errors import ManifestError
from mer_ray.types import Split

_CORPORA = "label-6way.npz"
_MER2024 = "label-disdim.csv"
_CANDIDATES = {
    _CORPORA: None,
    _MER2024: None,
    "track1_train_disdim.csv": "track_all_candidates.csv",
    "track1_train.csv": "track1_track2_candidate.csv",
}
"""By the label file that tells a layout, its list of the clips to submit. Of several label files the first is read."""
_POOL_2024 = "video-unlabeled-with-test2noise"
_VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".flv")
_TRANSCRIPTS = ("transcription-merge.csv", "label-transcription.csv", "subtitle_chieng.csv", "transcription.csv")
_TEXT_COLUMNS = ("chinese", "sentence", "english")
_TRAINED = ("train_corpus", "val_corpus", "whole_corpus")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One clip as a label file or a folder gives it; ``place`` is what messages call it."""

    place: str
    clip_id: str
    split: Split = Split.UNLABELED
    label: str | None = None
    valence: str | None = None


def read(
    root: str, media_root: str | None, labels: Labels, require_media: bool = True, require_labels: bool = True
) -> tuple[Manifest, tuple[str, ...] | None]:
    """Read a dataset's folder; which layout it is shows in its label file.

    Labels are those of the label file alone. A test corpus in which every clip is neutral is the toolbox's stand-in for
    having no labels: its clips are unlabeled. One with several emotions is scored and never trained on.

    Returns:
        The manifest, and the candidates of the layout's own list in its order, or None without one. The manifest's
        warnings say which list was read, and which other files look like one.

    Raises:
        ManifestError: no known layout, or as ``manifest.read``.
    """
    store = Store(root)
    files = store.files()
    notes: list[str] = []
    known = [name for name in _CANDIDATES if name in files]
    if not known:
        raise ManifestError(
            f"{root} is no MER2024, MER2025, MER2026 or MERTools folder: it holds none of {', '.join(_CANDIDATES)}"
        )
    label_file, *others = known
    notes += [f"{store.path(name)} is not read: labels are those of {label_file}" for name in others]
    candidates = _candidates(store, files, _CANDIDATES[label_file], notes)
    entries = _entries(store, label_file) + [_Entry(f"candidate {name}", name) for name in candidates or ()]
    entries = _without_shadows(entries)
    sheet = _sheet(store, entries, _transcripts(store, files, notes))
    return build(sheet, media_root or root, labels, require_media, notes, require_labels), candidates


def _candidates(store: Store, files: Sequence[str], own: str | None, notes: list[str]) -> tuple[str, ...] | None:
    """The clips of the layout's own list; another list may be of another year or track, so none is guessed."""
    for name in sorted(name for name in files if fnmatchcase(name, "*candidate*.csv")):
        path = store.path(name)
        if name == own:
            notes.append(f"{path} is read: its clips are submitted, unless you set submission.candidates")
        else:
            notes.append(f"{path} is not read unless you set submission.candidates={path}")
    return sheets.read_names(store.path(own)) if own and own in files else None


def _entries(store: Store, label_file: str) -> list[_Entry]:
    """The clips of the label file, and then those of the pool's folder."""
    if label_file == _CORPORA:
        return _processed(store)
    entries = _labelled(store, label_file)
    pool = "video"
    if label_file == _MER2024:
        _check_release(store, entries)
        pool = _POOL_2024
    return entries + [_Entry(f"{pool}/{name}", name) for name in _stems(store, pool)]


def _labelled(store: Store, file: str) -> list[_Entry]:
    """The rows of a CSV with ``name``, ``discrete`` and perhaps ``valence``."""
    sheet = sheets.read(store.path(file))
    if missing := {"name", "discrete"} - set(sheet.columns):
        raise ManifestError(f"{sheet.path} is refused: it has no column {min(missing)}")
    columns = (sheet.column(name) for name in ("name", "discrete", "valence"))
    return [
        _Entry(f"{file} {place}", (name or "").strip(), Split.TRAIN if label else Split.UNLABELED, label, valence)
        for place, name, label, valence in zip(sheet.places, *columns, strict=True)
    ]


def _check_release(store: Store, labelled: Sequence[_Entry]) -> None:
    """Refuse labels of another release than the videos: names differ between releases, and guessing would mislabel."""
    names = _stems(store, "video-labeled")
    if names and labelled and not any(entry.clip_id in names for entry in labelled):
        raise ManifestError(
            f"{store.path(_MER2024)} is refused: none of its {len(labelled)} names has a video in video-labeled "
            f"(it says {labelled[0].clip_id!r}, the folder has {min(names)!r}); "
            "take the label file of the same release as the videos"
        )


def _processed(store: Store) -> list[_Entry]:
    path = store.path(_CORPORA)
    entries = []
    for corpus, marks in sorted(
        corpora.read(store.read(_CORPORA), path).items(), key=lambda item: item[0] not in _TRAINED
    ):
        split = _split_of(corpus, marks)
        for name, mark in marks.items():
            valence = None if mark.valence is None else repr(mark.valence)
            known = split is not Split.UNLABELED and mark.emotion
            entry = _Entry(f"{_CORPORA} {corpus} {name}", name, split if known else Split.UNLABELED)
            if known:
                entry = _Entry(entry.place, name, split, mark.emotion, valence)
            entries.append(entry)
    return entries


def _split_of(corpus: str, marks: Mapping[str, corpora.Mark]) -> Split:
    if corpus in _TRAINED:
        return Split.TRAIN
    real = len({mark.emotion for mark in marks.values()}) > 1
    return Split.TEST if real else Split.UNLABELED


def _without_shadows(entries: Iterable[_Entry]) -> list[_Entry]:
    """Leave out the unlabeled entry of a clip that was named before: pools and candidates' lists repeat clips."""
    seen: set[str] = set()
    kept = []
    for entry in entries:
        if entry.split is not Split.UNLABELED or entry.clip_id not in seen:
            kept.append(entry)
        seen.add(entry.clip_id)
    return kept


def _sheet(store: Store, entries: Sequence[_Entry], texts: Mapping[str, str]) -> Sheet:
    """The entries with their media, as the columns of a manifest."""
    top = set(store.folders())
    pools = [name for name in ("video", "video-labeled", _POOL_2024) if name in top]
    videos = {clip: path for pool in reversed(pools) for clip, path in _stems(store, pool).items()}
    sounds = _stems(store, "audio", (".wav", ".flac", ".mp3", ".m4a")) if "audio" in top else {}
    faces = set(store.folders("openface_face")) if "openface_face" in top else set()
    columns: dict[str, list[str | None]] = {
        "clip_id": [e.clip_id for e in entries],
        "split": [e.split.value for e in entries],
        "label": [e.label for e in entries],
        "valence": [e.valence for e in entries],
        "text": [texts.get(e.clip_id) for e in entries],
        "video": [videos.get(e.clip_id) or _expected(e, pools) for e in entries],
        "audio": [
            sounds.get(e.clip_id) or (None if pools or not sounds else f"audio/{e.clip_id}.wav") for e in entries
        ],
        "faces": [f"openface_face/{e.clip_id}/{e.clip_id}.npy" if e.clip_id in faces else None for e in entries],
    }
    return Sheet(store.root, columns, [entry.place for entry in entries])


def _expected(entry: _Entry, pools: Sequence[str]) -> str | None:
    """Where the video of a clip should lie that is not there, so that it is quarantined as missing."""
    if not pools:
        return None
    pool = _POOL_2024 if entry.split is Split.UNLABELED and _POOL_2024 in pools else pools[0]
    return f"{pool}/{entry.clip_id}.mp4"


def _stems(store: Store, folder: str, endings: Sequence[str] = _VIDEO_ENDINGS) -> dict[str, str]:
    """The media of a folder by their name without its ending; of two the ending that comes first in ``endings``."""
    found: dict[str, tuple[int, str]] = {}
    for file in store.files(folder):
        stem, dot, ending = file.rpartition(".")
        rank = endings.index(f".{ending.lower()}") if f"{dot}{ending.lower()}" in endings else None
        if rank is not None and rank < found.get(stem, (len(endings), ""))[0]:
            found[stem] = (rank, f"{folder}/{file}")
    return {stem: path for stem, (_, path) in found.items()}


def _transcripts(store: Store, files: Sequence[str], notes: list[str]) -> dict[str, str]:
    """Each clip's transcript: from the first file that has one, corrected ones before recognised ones."""
    texts: dict[str, str] = {}
    others = sorted(name for name in files if name.startswith("transcription") and name.endswith(".csv"))
    for file in [name for name in dict.fromkeys([*_TRANSCRIPTS, *others]) if name in files]:
        sheet = sheets.read(store.path(file), damaged_text="mark")
        if "name" not in sheet.columns:
            notes.append(f"{sheet.path} has no column name and is not read")
            continue
        columns = [sheet.columns[name] for name in _TEXT_COLUMNS if name in sheet.columns]
        damaged = 0
        for name, *cells in zip(sheet.columns["name"], *columns, strict=True):
            text = next((cell for cell in cells if cell and "\ufffd" not in cell), None)
            damaged += text is None and any(cells)
            if name and text:
                texts.setdefault(name.strip(), text)
        if damaged:
            notes.append(f"{sheet.path}: {damaged} transcript(s) are not UTF-8; these clips are without a text from it")
    return texts

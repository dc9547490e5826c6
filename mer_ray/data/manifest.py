"""The manifest: which clips there are, where their media lie and what is known of them (DESIGN section 3).

It is refused whole, before any work, with every row at fault named.
"""

from __future__ import annotations

import difflib
import math
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mer_ray.data import sheet as sheets
from mer_ray.data import slips
from mer_ray.data.files import Place, locate, real_root
from mer_ray.data.sheet import Problems, Sheet
from mer_ray.errors import ConfigError, ManifestError
from mer_ray.registry import nearest
from mer_ray.types import NAMED_SPACES, SYNONYMS, Clip, LabelSpace, Split

COLUMNS = (
    "clip_id", "video", "audio", "text", "label", "valence",
    "label_text", "label_audio", "label_video", "split", "speaker",
)  # fmt: skip
"""The columns a manifest may have; only ``clip_id`` must be there. Others are ignored."""

Labels = Literal["auto"] | str | Sequence[str]
"""``auto``, the name of a space in ``types.NAMED_SPACES``, or the classes."""

_MEDIA = ("video", "audio", "faces")
_CLIP_ID = re.compile(r"[A-Za-z0-9._-]{1,200}")
_MISSING_WORDS = frozenset({"nan", "null", "n/a", "<na>"})


@dataclass(frozen=True)
class Manifest:
    """The clips of a job, in the order of the manifest.

    Attributes:
        clips: one per row; ids are unique.
        label_space: the classes; every ``Clip.label`` is one of its names.
        path: where the manifest was read from.
        warnings: what the user should know and nothing is refused for.
    """

    clips: tuple[Clip, ...]
    label_space: LabelSpace
    path: str
    warnings: tuple[str, ...] = ()


def read(
    uri: str,
    media_root: str | None = None,
    labels: Labels = "auto",
    require_media: bool = True,
    require_labels: bool = True,
) -> Manifest:
    """Read and check a manifest, CSV or Parquet.

    Args:
        uri: local path or ``s3://`` address.
        media_root: what the URIs in it are relative to and must stay beneath; default its own folder.
        labels: the classes; ``auto`` takes those of the labelled rows, and refuses one that looks misspelt (``slips``).
        require_media: refuse when media are named and none exists; else go on without them, with a warning.
        require_labels: refuse when there is nothing to train on: no labelled clip, one class only, a ``train`` clip
            without a label (which is taken as unlabeled else).

    Raises:
        ManifestError: anything is wrong with it; the message lists rows and reasons.
        ConfigError: ``labels`` names no label space.
        StorageError: S3 refused to be read.
    """
    sheet = sheets.read(uri)
    hints = _near_misses(sheet)
    if "clip_id" not in sheet.columns:
        raise ManifestError(
            f"{uri} is refused: there is no column clip_id (it has: {', '.join(sheet.columns)})"
            + "".join(f"; {h}" for h in hints)
        )
    if not sheet.places:
        raise ManifestError(f"{uri} is refused: it has a header and no rows")
    known = Sheet(sheet.path, {name: sheet.columns[name] for name in COLUMNS if name in sheet.columns}, sheet.places)
    return build(known, media_root or _folder(uri), labels, require_media, hints, require_labels)


def build(
    sheet: Sheet,
    media_root: str,
    labels: Labels,
    require_media: bool = True,
    warnings: Sequence[str] = (),
    require_labels: bool = True,
) -> Manifest:
    """Check rows of ``COLUMNS`` (and ``faces``, URIs of ready face arrays) and make clips of them; see ``read``.

    A face array that does not exist is an absent one: the tool that wrote the others found no face.
    """
    problems = Problems(sheet.path)
    notes = list(warnings)
    clip_ids = _check_ids(sheet, problems)
    splits = _read_splits(sheet, problems, require_labels)
    space, named = _read_labels(sheet, splits, labels, problems, notes)
    if require_labels:
        _check_training(splits, named, problems, notes)
    valences = [_number(c, p, problems) for c, p in zip(sheet.column("valence"), sheet.places, strict=True)]
    media = _read_media(sheet, media_root, require_media, problems, notes)
    problems.refuse(notes)
    text, root = sheet.column("text"), real_root(media_root)
    others = {
        n: [c and c.strip() for c in sheet.column(n)] for n in ("label_text", "label_audio", "label_video", "speaker")
    }
    clips = tuple(
        Clip(
            clip_id=clip_ids[row],
            split=splits[row],
            text=text[row],
            label=named[row],
            valence=valences[row],
            media_root=root,
            video=media["video"][row],
            audio=media["audio"][row],
            faces=media["faces"][row],
            label_text=others["label_text"][row],
            label_audio=others["label_audio"][row],
            label_video=others["label_video"][row],
            speaker=others["speaker"][row],
        )
        for row in range(len(sheet.places))
    )
    return Manifest(clips, space, sheet.path, tuple(notes))


def _folder(uri: str) -> str:
    return posixpath.dirname(uri) if "://" in uri else str(Path(uri).expanduser().absolute().parent)


def _near_misses(sheet: Sheet) -> list[str]:
    hints = []
    absent = [name for name in COLUMNS if name not in sheet.columns]
    for name in sheet.columns:
        folded = name.lower().replace(" ", "_")
        match = difflib.get_close_matches(folded, absent, n=1, cutoff=0.8)
        if name not in COLUMNS and match:
            hints.append(f"column {name!r} is not one that is read; did you mean {match[0]!r}?")
    return hints


def _check_ids(sheet: Sheet, problems: Problems) -> list[str]:
    first: dict[str, str] = {}
    clip_ids = []
    for cell, place in zip(sheet.column("clip_id"), sheet.places, strict=True):
        clip_id = cell or ""
        if reason := _id_fault(clip_id):
            problems.add(place, reason)
        elif clip_id in first:
            problems.add(place, f"duplicate clip_id {clip_id!r}, also in {first[clip_id]}")
        else:
            first[clip_id] = place
        clip_ids.append(clip_id)
    return clip_ids


def _id_fault(clip_id: str) -> str | None:
    """Why this is no clip id, or None.

    >>> _id_fault("a/b"), _id_fault("a_b.1")
    ("clip_id 'a/b' holds a path; use letters, digits, '.', '_' and '-'", None)
    """
    if not clip_id:
        return "clip_id is blank"
    if len(clip_id) > 200:
        return f"clip_id {clip_id[:30]!r}... is too long ({len(clip_id)} characters, at most 200)"
    if clip_id.startswith("."):
        return f"clip_id {clip_id!r} starts with a dot"
    if _CLIP_ID.fullmatch(clip_id):
        return None
    fault = "a path" if "/" in clip_id or "\\" in clip_id else "a NUL byte" if "\0" in clip_id else "other characters"
    return f"clip_id {clip_id!r} holds {fault}; use letters, digits, '.', '_' and '-'"


def _read_splits(sheet: Sheet, problems: Problems, require_labels: bool) -> list[Split]:
    splits = []
    words = {split.value: split for split in Split}
    for cell, label, place in zip(sheet.column("split"), sheet.column("label"), sheet.places, strict=True):
        word = cell.strip().lower() if cell else None
        split = words.get(word or "", Split.TRAIN if label else Split.UNLABELED)
        if word and word not in words:
            problems.add(place, f"split {cell!r} is none of {', '.join(words)}{nearest(word, list(words))}")
        elif split is Split.TRAIN and not label:
            if require_labels:
                problems.add(place, "split is train and there is no label")
            else:
                split = Split.UNLABELED
        splits.append(split)
    return splits


def _read_labels(
    sheet: Sheet, splits: Sequence[Split], labels: Labels, problems: Problems, notes: list[str]
) -> tuple[LabelSpace, list[str | None]]:
    """The label space, and the class of every row that has one for training or scoring."""
    cells = [c.strip() if c else None for c in sheet.column("label")]
    used = [c if split is not Split.UNLABELED else None for c, split in zip(cells, splits, strict=True)]
    dropped = sum(1 for c, u in zip(cells, used, strict=True) if c and not u)
    if dropped:
        notes.append(
            f"{dropped} clip(s) of split unlabeled have a label; it is not used, neither to train nor to score"
        )
    space = _space(labels, used)
    if labels == "auto":
        slips.check(used, sheet.places, problems)
    return space, [_class(c, place, space, problems) for c, place in zip(used, sheet.places, strict=True)]


def _check_training(splits: Sequence[Split], named: Sequence[str | None], problems: Problems, notes: list[str]) -> None:
    """Whether there is something to train on."""
    trained = {label for label, split in zip(named, splits, strict=True) if label and split is Split.TRAIN}
    if not any(split is Split.TRAIN for split in splits):
        problems.add("whole file", "no labelled clip: nothing to train on; fill in some labels")
    elif len(trained) == 1:
        problems.add("whole file", f"one class only: every label is {min(trained)!r}; two at least are needed")
    elif only_scored := sorted(set(filter(None, named)) - trained):
        notes.append(f"no training clip for {', '.join(only_scored)}: test clips of it will be missed")


def _space(labels: Labels, used: Sequence[str | None]) -> LabelSpace:
    if labels == "auto":
        return LabelSpace.of(filter(None, used))
    if isinstance(labels, str):
        if labels not in NAMED_SPACES:
            raise ConfigError(f"labels: no label space {labels!r}{nearest(labels, ['auto', *NAMED_SPACES])}")
        return NAMED_SPACES[labels]
    if len({SYNONYMS.get(name.lower(), name.lower()) for name in labels}) != len(labels) or len(labels) < 2:
        raise ConfigError(f"labels: {list(labels)} must name at least two classes, each once")
    return LabelSpace(tuple(labels))


def _class(label: str | None, place: str, space: LabelSpace, problems: Problems) -> str | None:
    if label is None:
        return None
    name = space.canonical(label)
    if label.lower() in _MISSING_WORDS:
        problems.add(place, f"label {label!r} looks like a missing value; leave the cell blank")
    elif name is None:
        hint = nearest(label.lower(), [*space.names, *(s for s in SYNONYMS if space.canonical(s))])
        problems.add(place, f"unknown label {label!r}{hint or '; known: ' + ', '.join(space.names)}")
    return name


def _number(cell: str | None, place: str, problems: Problems) -> float | None:
    if cell is None:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        problems.add(place, f"valence {cell!r} is not a finite number; leave it blank where it is missing")
    return value


def _read_media(
    sheet: Sheet, media_root: str, require_media: bool, problems: Problems, notes: list[str]
) -> dict[str, list[str | None]]:
    """The addresses of the media by column."""
    uris = {name: sheet.column(name) for name in _MEDIA}
    places = locate(media_root, (uri for cells in uris.values() for uri in cells if uri))
    for name, cells in uris.items():
        for uri, place in zip(cells, sheet.places, strict=True):
            if uri and places[uri].refused:
                problems.add(place, f"{name} {places[uri].refused}")
    wanted = [place for place in places.values() if not place.refused]
    if wanted and not any(place.exists for place in wanted):
        reason = f"none of the {len(wanted)} media files exist, for instance {wanted[0].address}"
        if require_media:
            problems.add("whole file", f"{reason}; set data.media_root (it is {media_root})")
        else:
            notes.append(f"{reason}; going on with the ready features alone")
            places = dict.fromkeys(places, Place())
    return {name: [_address(places[uri], name) if uri else None for uri in cells] for name, cells in uris.items()}


def _address(place: Place, name: str) -> str | None:
    if name == "faces" and not place.exists:
        return None
    return place.address or None

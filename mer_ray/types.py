"""The words everything else is written in: modalities, clips, label spaces and units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

SAMPLE_RATE_HZ = 16_000
"""Every waveform in the project is mono float32 in [-1, 1] at this rate."""


class Modality(StrEnum):
    """What a feature listens to. ``JOINT`` is audio and text read in one sequence (P1 section 2.3)."""

    AUDIO = "audio"
    VIDEO = "video"
    TEXT = "text"
    JOINT = "joint"


class Split(StrEnum):
    """What a clip is used for. The label of a ``TEST`` clip is for scoring only."""

    TRAIN = "train"
    UNLABELED = "unlabeled"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of a manifest (DESIGN section 3). ``None`` means that the clip lacks it.

    ``video``, ``audio`` and ``faces`` are absolute paths or ``s3://`` addresses, already held to the media root;
    ``faces`` is a ready ``.npy`` array of face crops (uint8, T x H x W x 3, BGR) as MERTools writes them.
    ``valence`` and the ``label_*`` columns carry sentiment or per-modality labels.
    ``media_root`` is that root on a disk, links resolved, to which a file is held again when it is opened. ``seen`` are
    those of the addresses at which the driver found a file: where a node finds none, the node is to blame.
    """

    clip_id: str
    split: Split
    video: str | None = None
    audio: str | None = None
    faces: str | None = None
    text: str | None = None
    label: str | None = None
    valence: float | None = None
    label_text: str | None = None
    label_audio: str | None = None
    label_video: str | None = None
    speaker: str | None = None
    media_root: str | None = None
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelSpace:
    """An ordered set of class names; a class's index is its place in ``names``.

    >>> MER2024.canonical("Happy"), MER2024.index("sad")
    ('happiness', 3)
    """

    names: tuple[str, ...]

    def canonical(self, label: str) -> str | None:
        """The class that ``label`` names, synonyms and capitals aside; ``None`` when it names no class here."""
        if label in self.names:
            return label
        folded = label.strip().lower()
        by_meaning = {SYNONYMS.get(name.lower(), name.lower()): name for name in self.names}
        return by_meaning.get(SYNONYMS.get(folded, folded))

    def index(self, label: str) -> int:
        """The index of ``label``'s class.

        Raises:
            KeyError: ``label`` names no class of this space.
        """
        name = self.canonical(label)
        if name is None:
            raise KeyError(label)
        return self.names.index(name)

    @classmethod
    def of(cls, labels: Iterable[str]) -> LabelSpace:
        """The space of the labels seen: the smallest named space that holds them all, else their sorted names.

        Spellings of one meaning are one class, as everywhere.
        """
        seen = set(labels)
        for space in NAMED_SPACES.values():
            if all(space.canonical(label) for label in seen):
                present = {space.canonical(label) for label in seen}
                return cls(tuple(name for name in space.names if name in present))
        by_meaning: dict[str, str] = {}
        for label in sorted(seen):
            folded = label.strip().lower()
            by_meaning.setdefault(SYNONYMS.get(folded, folded), label)
        return cls(tuple(sorted(by_meaning.values())))


SYNONYMS = {
    "angry": "anger",
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "worried": "worry",
    "surprised": "surprise",
    "fearful": "fear",
    "disgusted": "disgust",
    "calm": "neutral",
}
"""Spellings of the public sets (LAYOUTS) to the papers' nouns."""

MER2024 = LabelSpace(("neutral", "anger", "happiness", "sadness", "worry", "surprise"))
MER2023 = MER2024
SENTIMENT = LabelSpace(("negative", "neutral", "positive"))
NAMED_SPACES = {"mer2024": MER2024, "mer2023": MER2023, "sentiment": SENTIMENT}

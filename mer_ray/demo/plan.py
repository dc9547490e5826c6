"""What the demo's clips are to be: who says what, with which feeling in voice, face and words, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from mer_ray.demo.words import sentence
from mer_ray.types import Split

VERSION = 2
"""Raised when the same seed would give other clips."""


class Noise(StrEnum):
    """What disturbs a voice."""

    WHITE = "white"
    HUM = "hum"
    STREET = "street"
    BABBLE = "babble"


class Broken(StrEnum):
    """What is wrong with a clip's file or transcript (DESIGN section 4)."""

    NO_AUDIO = "no_audio"
    NOTHING_LEFT = "nothing_left"
    NO_VIDEO = "no_video"
    NO_FACE = "no_face"
    EMPTY_FILE = "empty_file"
    SILENT = "silent"
    TRUNCATED = "truncated"
    BLANK_TEXT = "blank_text"
    ZERO_SECONDS = "zero_seconds"
    WRONG_EXTENSION = "wrong_extension"
    TEXT_FILE = "text_file"


CLASS_SHARES = {"neutral": 0.27, "anger": 0.20, "happiness": 0.19, "sadness": 0.15, "worry": 0.11, "surprise": 0.08}
SPLIT_SHARES = {Split.TRAIN: 0.08, Split.UNLABELED: 0.65, Split.TEST: 0.27}
SPEAKERS = {Split.TRAIN: range(5), Split.UNLABELED: range(3, 14), Split.TEST: range(10, 14)}
"""Whose clips a split takes. No test speaker is labelled, but the pool has theirs, as in MER2024."""

NOISY_SHARE, BROKEN_SHARE, BLANK_TEXT_SHARE = 0.35, 0.05, 0.10
SHOWN_SHARE = {"voice": 0.82, "face": 0.80, "words": 0.90}
"""How often a clip's emotion shows in each modality. Else it is at rest, or looks like a neighbour."""

_NEIGHBOURS = {
    "neutral": ("anger", "happiness", "sadness", "worry", "surprise"),
    "anger": ("surprise", "worry"),
    "happiness": ("surprise", "neutral"),
    "sadness": ("worry", "neutral"),
    "worry": ("sadness", "anger"),
    "surprise": ("happiness", "anger"),
}
_NEIGHBOUR_SHARE = 0.2
_LEAST_PER_CLASS = {Split.TRAIN: 2, Split.UNLABELED: 1, Split.TEST: 1}


@dataclass(frozen=True)
class Shown:
    """The emotion that one modality shows, and how strongly (1 is full)."""

    emotion: str
    intensity: float


@dataclass(frozen=True)
class DemoClip:
    """Everything there is to know about one clip; ``files.make`` draws and speaks it.

    Attributes:
        seed, index: of the set and of the clip; all its randomness comes from them.
        speaker: index of the person.
        label: the true emotion.
        words: what is said.
        noise: None for a clean voice; then ``snr_db`` is infinite.
        broken: None for a sound clip.
        text_given: False when the manifest leaves the transcript to be recognised.
    """

    seed: int
    index: int
    split: Split
    speaker: int
    label: str
    words: tuple[str, ...]
    voice: Shown
    face: Shown
    text: Shown
    noise: Noise | None
    snr_db: float
    broken: Broken | None
    text_given: bool
    sample_rate_hz: int

    @property
    def clip_id(self) -> str:
        """The clip's name in the manifest, also of its file."""
        return f"demo_{self.index:05d}"

    def rng(self, part: str) -> np.random.Generator:
        """The generator of one part of the clip, independent of the others."""
        return np.random.default_rng([self.seed, self.index, *part.encode()])


def plan(num_clips: int, seed: int, labelled: float = SPLIT_SHARES[Split.TRAIN]) -> list[DemoClip]:
    """The clips of a demo, in random order; cheap and pure.

    Shares of splits and classes are exact to a clip; every split has each class, and the labelled one has it twice.

    Args:
        num_clips: how many.
        seed: of everything random.
        labelled: share of the clips that are labelled for training, at the cost of the unlabelled ones.

    Raises:
        ValueError: so few clips, or unlabelled ones, that a class would be left out of a split.
    """
    sizes = _split_sizes(num_clips, labelled)
    slots = [(split, label) for split, size in sizes.items() for label in _labels(size, _LEAST_PER_CLASS[split])]
    rng = np.random.default_rng([seed, num_clips])
    broken = _broken(num_clips, rng)
    clips = []
    for index, slot in enumerate(rng.permutation(num_clips)):
        split, label = slots[slot]
        clips.append(_clip((seed, index), split, label, broken.get(index), rng))
    return clips


def _split_sizes(num_clips: int, labelled: float) -> dict[Split, int]:
    least = {split: count * len(CLASS_SHARES) for split, count in _LEAST_PER_CLASS.items()}
    if num_clips < sum(least.values()):
        raise ValueError(f"the demo needs at least {sum(least.values())} clips, not {num_clips}")
    shares = {Split.TRAIN: labelled, Split.TEST: SPLIT_SHARES[Split.TEST]}
    train, test = (max(least[split], round(share * num_clips)) for split, share in shares.items())
    left = num_clips - train - test
    if left < least[Split.UNLABELED]:
        raise ValueError(f"labelled={labelled} leaves {left} of {num_clips} clips unlabelled; label fewer")
    return {Split.TRAIN: train, Split.UNLABELED: left, Split.TEST: test}


def _labels(size: int, least: int) -> list[str]:
    """``size`` labels in the classes' shares, each class at least ``least`` times; largest remainders first."""
    spare = size - least * len(CLASS_SHARES)
    wanted = {label: max(share * size - least, 0.0) for label, share in CLASS_SHARES.items()}
    exact = {label: want * spare / max(sum(wanted.values()), 1e-9) for label, want in wanted.items()}
    counts = {label: int(value) for label, value in exact.items()}
    by_remainder = sorted(exact, key=lambda label: counts[label] - exact[label])
    for label in by_remainder[: spare - sum(counts.values())]:
        counts[label] += 1
    return [label for label, count in counts.items() for _ in range(count + least)]


def _broken(num_clips: int, rng: np.random.Generator) -> dict[int, Broken]:
    indices = rng.permutation(num_clips)[: max(2, round(BROKEN_SHARE * num_clips))]
    kinds = list(Broken)
    return {int(index): kinds[place % len(kinds)] for place, index in enumerate(indices)}


def _clip(
    place: tuple[int, int], split: Split, label: str, broken: Broken | None, rng: np.random.Generator
) -> DemoClip:
    shows = {part: bool(rng.random() < share) for part, share in SHOWN_SHARE.items()}
    if not any(shows.values()):
        shows[list(shows)[rng.integers(len(shows))]] = True
    voice, face, text = (_shown(label, shows[part], rng) for part in ("voice", "face", "words"))
    noise = list(Noise)[rng.integers(len(Noise))] if rng.random() < NOISY_SHARE else None
    return DemoClip(
        seed=place[0],
        index=place[1],
        split=split,
        speaker=int(rng.choice(SPEAKERS[split])),
        label=label,
        words=sentence((text.emotion,), rng),
        voice=voice,
        face=face,
        text=text,
        noise=noise,
        snr_db=float(rng.uniform(0, 10)) if noise else float("inf"),
        broken=broken,
        text_given=bool(rng.random() >= BLANK_TEXT_SHARE),
        sample_rate_hz=(16_000, 44_100)[int(rng.random() < 0.25)],
    )


def _shown(label: str, shows: bool, rng: np.random.Generator) -> Shown:
    if shows:
        return Shown(label, float(rng.uniform(0.8, 1.2)))
    if rng.random() < _NEIGHBOUR_SHARE:
        neighbours = _NEIGHBOURS[label]
        return Shown(neighbours[rng.integers(len(neighbours))], float(rng.uniform(0.3, 0.6)))
    return Shown("neutral", 0.0)

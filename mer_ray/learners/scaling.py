"""Standardise features by who speaks: per speaker, or per group of similar voices where speakers are not known.

All of a speaker's clips count, labelled or not. A speaker of few clips is shrunk towards the whole: the mean towards
that of all clips, the variance towards that within speakers. A clip of no known group is standardised by the whole.

Shapes: N clips, D width of a feature, G groups (speakers or voices), and one more, the last, for clips of none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from mer_ray.data.features import Feature, FeatureSet
from mer_ray.data.moments import GroupMoments, Moments, by_group, one_over
from mer_ray.data.room import Room
from mer_ray.errors import CorruptPartError, FeatureFileError
from mer_ray.learners.voices import Voices

_CLIP = 10.0
"""Standardised values are held to this many standard deviations, so that float16 holds them too."""
_BLOCK = 4096

How = Literal["speaker", "voices"]


@dataclass(frozen=True)
class Scaling:
    """What is known of speakers or voices, to standardise any clips by.

    Attributes:
        how: ``speaker`` or ``voices``.
        shrink: clips of the whole that each group's statistics are mixed with.
        speakers: the name of each group by ``speaker``; empty by ``voices``.
        voices: tells the group of a clip by ``voices``.
        moments: by feature, of each group and of the clips of none.
        seen: uint64, marks of the clips learnt from, so that none counts twice.
    """

    how: How
    shrink: float
    speakers: tuple[str, ...]
    voices: Voices | None
    moments: Mapping[str, GroupMoments]
    seen: NDArray[np.uint64]

    @classmethod
    def learn(cls, features: FeatureSet, speakers: Sequence[str | None], how: How, shrink: float, seed: int) -> Scaling:
        """Measure every speaker or voice.

        Args:
            features: of all clips, labelled or not; values of absent ones are never read.
            speakers: of each clip, None where unknown; not read by ``voices``.
            how: ``speaker``, or ``voices`` for groups of similar clips, whoever speaks.
            shrink: clips of the whole that each group's statistics are mixed with, at least 0.
            seed: of the search for voices.
        """
        voices = Voices.learn(features, seed) if how == "voices" else None
        names = _names(speakers) if voices is None else ()
        group_N = _places(speakers, names) if voices is None else voices.assign(features)
        num_groups = len(names) if voices is None else voices.num_voices
        moments = {feature.name: _measure(feature, group_N, num_groups) for feature in features.features}
        return cls(how, shrink, names, voices, moments, _marks(features.clip_ids))

    def apply(
        self, features: FeatureSet, speakers: Sequence[str | None], room: Room | None = None, *, join: bool = True
    ) -> FeatureSet:
        """Standardise clips, those learnt from or others.

        Args:
            features: one or more of those learnt.
            speakers: of each clip, as in ``learn``.
            room: where the result goes; memory when None.
            join: what is known of a speaker or voice is joined with the clips given that were not learnt from; a
                speaker not heard before is known by the clips given alone. Without it what was learnt stays as it is,
                and a speaker not heard before is standardised by the whole: a clip comes out the same in any company.

        Returns:
            The same features, of the same float type, within ``±10``; rows of absent ones are as they were.

        Raises:
            FeatureFileError: a feature was not learnt, or had another width.
        """
        group_N, known_G, joins_N = self._groups(features, speakers, join=join)
        room = room or Room()
        scaled = (self._apply(feature, group_N, known_G, joins_N, room) for feature in features.features)
        return FeatureSet(features.clip_ids, tuple(scaled))

    def rests_on(self, features: FeatureSet, speakers: Sequence[str | None], *, join: bool = True) -> NDArray[np.int64]:
        """How many clips of its speaker or voice each clip is standardised by, int64 (N,); 0: by the whole.

        Args:
            features: see ``apply``; of several the one that most of these clips have counts.
            speakers: see ``apply``.
            join: see ``apply``.
        """
        group_N, known_G, joins_N = self._groups(features, speakers, join=join)
        most_G = np.zeros(len(known_G) + 1, dtype=np.int64)
        for feature in features.features:
            count_G = np.append(self.moments[feature.name].count[:, 0].astype(np.int64), 0)
            learnt_G = count_G[np.append(known_G, -1)]  # of a group not known the 0 behind them
            rows = feature.present & joins_N & (group_N >= 0)
            most_G = np.maximum(most_G, learnt_G + np.bincount(group_N[rows], minlength=len(most_G)))
        return np.where(group_N < 0, 0, most_G[group_N])

    def _groups(
        self, features: FeatureSet, speakers: Sequence[str | None], *, join: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Group of each clip, -1 for none (N,); place in ``moments`` of each group (G,); which clips join (N,)."""
        if self.voices is None:
            names = _names(speakers) if join else self.speakers
            group_N, known_G = _places(speakers, names), _places(names, self.speakers)
        else:
            group_N, known_G = self.voices.assign(features), np.arange(self.voices.num_voices)
        return group_N, known_G, ~np.isin(_marks(features.clip_ids), self.seen) & join

    def _apply(
        self,
        feature: Feature,
        group_N: NDArray[np.int64],
        known_G: NDArray[np.int64],
        joins_N: NDArray[np.bool_],
        room: Room,
    ) -> Feature:
        learnt = self.moments.get(feature.name)
        if learnt is None or learnt.mean.shape[1] != feature.values.shape[1]:
            raise FeatureFileError(
                f"feature {feature.name}, {feature.values.shape[1]} wide, is not one that was standardised in "
                f"training: {', '.join(f'{name} ({m.mean.shape[1]} wide)' for name, m in self.moments.items())}"
            )
        whole, within_D, nobody = learnt.merge(), learnt.within(), len(known_G)
        values = room.copy(feature.values, np.arange(len(group_N)))
        group_N = np.where(group_N < 0, nobody, group_N)
        for group, rows in by_group(np.where(feature.present, group_N, -1)):
            shift_D, scale_D = whole.mean, whole.scale
            if group != nobody:
                own = learnt[known_G[group]].join(Moments.of(feature.values, rows[joins_N[rows]]))
                shift_D, scale_D = _shift_and_scale(own, whole, within_D, self.shrink)
            for start in range(0, len(rows), _BLOCK):
                block = rows[start : start + _BLOCK]
                scaled = (values[block] - shift_D.astype(np.float32)) * scale_D.astype(np.float32)
                values[block] = scaled.clip(-_CLIP, _CLIP)
        return Feature(feature.name, feature.modality, values, feature.present)

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        arrays: dict[str, NDArray[np.generic]] = {"seen": self.seen}
        for number, one in enumerate(self.moments.values()):
            arrays |= {f"{number}.count": one.count, f"{number}.mean": one.mean, f"{number}.square": one.square}
        if self.voices is not None:
            arrays |= {f"voices.{name}": array for name, array in self.voices.to_arrays().items()}
        told = {
            "how": self.how,
            "shrink": self.shrink,
            "speakers": self.speakers,
            "features": list(self.moments),
            "voices": None if self.voices is None else self.voices.features,
        }
        return save_arrays(arrays, {"scaling": json.dumps(told, ensure_ascii=False)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Scaling:
        """From ``to_bytes``; standardises the same.

        Raises:
            CorruptPartError: the bytes are truncated or something else.
        """
        try:
            arrays = load_arrays(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            told = json.loads(header["__metadata__"]["scaling"])
            moments = {
                name: GroupMoments(*(arrays[f"{number}.{part}"] for part in ("count", "mean", "square")))
                for number, name in enumerate(told["features"])
            }
            voices = None
            if told["voices"] is not None:
                own = {name.removeprefix("voices."): x for name, x in arrays.items() if name.startswith("voices.")}
                voices = Voices.from_arrays(tuple(told["voices"]), own)
            return cls(told["how"], told["shrink"], tuple(told["speakers"]), voices, moments, arrays["seen"])
        except (KeyError, ValueError, TypeError, SafetensorError) as error:
            raise CorruptPartError(
                f"the statistics of the speakers are damaged ({error}); delete them to make them again"
            ) from error


def _measure(feature: Feature, group_N: NDArray[np.int64], num_groups: int) -> GroupMoments:
    """Of each group, and of the clips of none as the last."""
    group_N = np.where(group_N < 0, num_groups, group_N)
    return GroupMoments.of(feature.values, np.where(feature.present, group_N, -1), num_groups + 1)


def _shift_and_scale(
    own: Moments, whole: Moments, within_D: NDArray[np.float64], shrink: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What is taken from a group's values and what they are then multiplied by, both (D,).

    A column is silenced where it is constant.
    """
    both, free = own.count + shrink, own.free + shrink
    mean_D = whole.mean + (own.count / both) * (own.mean - whole.mean) if both else whole.mean
    variance_D = (own.square + shrink * within_D) / free if free else within_D
    return mean_D, one_over(np.sqrt(variance_D), whole.mean)


def _names(speakers: Sequence[str | None]) -> tuple[str, ...]:
    return tuple(sorted({name for name in speakers if name is not None}))


def _places(speakers: Sequence[str | None], names: Sequence[str]) -> NDArray[np.int64]:
    """The place of each speaker in ``names``, -1 where it is not there."""
    place = {name: number for number, name in enumerate(names)}
    return np.array([-1 if name is None else place.get(name, -1) for name in speakers], dtype=np.int64)


def _marks(clip_ids: Sequence[str]) -> NDArray[np.uint64]:
    """A number that stands for each clip."""
    marks = [int.from_bytes(blake2b(clip_id.encode(), digest_size=8).digest(), "little") for clip_id in clip_ids]
    return np.array(marks, dtype=np.uint64)

"""Clips, keys and places of rows as columns, so that a million clips fit beside a dozen tables.

Shapes: N clips.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

KEY_LENGTH = 24
"""Characters of a row's key, all ASCII."""


@dataclass(frozen=True, slots=True)
class RowRef:
    """Where the row of one clip stands, and what became of it.

    Attributes:
        part: name of the part.
        row: its place in the part.
        present: whether the step made something of the clip.
        error: why not, if it was an error; ``detail`` says more.
        num_bytes: size of the part; who knows it reads the part with one request less.
    """

    part: str
    row: int
    present: bool
    error: str | None
    detail: str | None
    num_bytes: int


class Ids(Sequence[str]):
    """Clips in the order that all steps of a run share, each once."""

    def __init__(self, clip_ids: Iterable[str]) -> None:
        self._ids = list(clip_ids)
        self._places = {clip_id: place for place, clip_id in enumerate(self._ids)}

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        return self._ids[place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._places

    def place(self, clip_id: str) -> int:
        """Where a clip stands; ``KeyError`` for one that is not there."""
        return self._places[clip_id]

    @cached_property
    def column(self) -> pa.StringArray:
        """All of them, for Arrow."""
        return pa.array(self._ids, pa.string())


class Keys(Mapping[str, str]):
    """The key of the row of each clip.

    Args:
        ids: the clips.
        keys: bytes of ``KEY_LENGTH`` (N,); see ``column_of``.
    """

    def __init__(self, ids: Ids, keys: NDArray[np.bytes_]) -> None:
        self.ids = ids
        self.column = keys

    @classmethod
    def of(cls, keys: Mapping[str, str]) -> Keys:
        """The same as columns; one that is so already is given back."""
        if isinstance(keys, Keys):
            return keys
        ids = Ids(keys)
        return cls(ids, column_of(keys.values(), len(ids)))

    def __getitem__(self, clip_id: str) -> str:
        return self.at(self.ids.place(clip_id))

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, place: int) -> str:
        """The key of the clip at a place."""
        return str(self.column[place].decode())

    def strings(self, places: NDArray[np.int64]) -> pa.StringArray:
        """The keys of the clips at some places, for Arrow; of a long NumPy array it would make several of its own."""
        return pa.array(self.column[places].tolist(), pa.binary()).cast(pa.string())


def column_of(keys: Iterable[str], number: int) -> NDArray[np.bytes_]:
    """Keys of rows as a column.

    Raises:
        ValueError: one is longer than ``KEY_LENGTH``.
    """
    column = np.empty(number, f"S{KEY_LENGTH}")
    for place, key in enumerate(keys):
        if len(key) > KEY_LENGTH:
            raise ValueError(f"{key}: longer than the key of a row")
        column[place] = key.encode()
    return column


class Refs(Mapping[str, RowRef]):
    """Where the rows of clips stand: of those that have one.

    Args:
        ids: the clips that are asked for.

    Attributes:
        part: int32 (N,), the place of its part in ``parts``; -1 for a clip without a row.
        row: int32 (N,), its place there.
        present: bool (N,), see ``RowRef``.
        parts: name and size of each part.
        errors: reason and detail of rows in error, by the clip's place.
    """

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.part = np.full(len(ids), -1, np.int32)
        self.row = np.zeros(len(ids), np.int32)
        self.present = np.zeros(len(ids), bool)
        self.parts: list[tuple[str, int]] = []
        self.errors: dict[int, tuple[str, str | None]] = {}
        self._part_places: dict[str, int] = {}

    def __getitem__(self, clip_id: str) -> RowRef:
        return self.at(self._known(clip_id))

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self.ids and bool(self.part[self.ids.place(str(clip_id))] >= 0)

    def __iter__(self) -> Iterator[str]:
        return (self.ids[place] for place in np.flatnonzero(self.part >= 0).tolist())

    def __len__(self) -> int:
        return int(np.count_nonzero(self.part >= 0))

    def at(self, place: int) -> RowRef:
        """Where the row of the clip at a place stands, which has one."""
        part, num_bytes = self.parts[self.part[place]]
        error, detail = self.errors.get(place, (None, None))
        return RowRef(part, int(self.row[place]), bool(self.present[place]), error, detail, num_bytes)

    def put(self, refs: Mapping[str, RowRef]) -> None:
        """Take the rows of clips that are asked for; ones that were known before are forgotten."""
        for clip_id, ref in refs.items():
            place = self.ids.place(clip_id)
            self.part[place] = self.part_place(ref.part, ref.num_bytes)
            self.row[place], self.present[place] = ref.row, ref.present
            self.errors.pop(place, None)
            if ref.error:
                self.errors[place] = (ref.error, ref.detail)

    def part_place(self, part: str, num_bytes: int) -> int:
        """Where a part stands in ``parts``, at whose end it is put if it is new."""
        if part not in self._part_places:
            self._part_places[part] = len(self.parts)
            self.parts.append((part, num_bytes))
        return self._part_places[part]

    def _known(self, clip_id: str) -> int:
        place = self.ids.place(clip_id)
        if self.part[place] < 0:
            raise KeyError(clip_id)
        return place

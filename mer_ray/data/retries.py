"""Rows in error that are made anew (``tables.retry_errors``): how often, beside the rows of their table.

A row is never changed. A row that is made anew has another key, made of its first one and the number of times, and so
has whatever is made from it: keys hold the keys upstream. The numbers stand in ``_retries/``, so that every later
command knows which row counts.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mer_ray.data.table import Table, row_key

_FOLDER = "_retries"

Reasons = Collection[str] | Literal["all"]


@dataclass(frozen=True)
class Retries:
    """Of one table.

    Attributes:
        counts: how often each row is made anew, by its first key.
        new: of these the numbers that are not written yet.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    new: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, table: Table) -> Retries:
        """What commands before this one have written."""
        counts: dict[str, int] = {}
        for name in table.store.files(_FOLDER):
            for key, count in json.loads(table.store.read(f"{_FOLDER}/{name}")).items():
                counts[key] = max(count, counts.get(key, 0))
        return cls(counts)

    def keys(self, first: Mapping[str, str]) -> dict[str, str]:
        """The key that counts of each clip, from its first one."""
        return {
            clip_id: row_key(key, f"again {self.counts[key]}") if key in self.counts else key
            for clip_id, key in first.items()
        }

    def again(self, table: Table, first: Mapping[str, str], reasons: Reasons) -> Retries:
        """The same, with the rows in error for one of ``reasons`` to be made anew once more."""
        refs = table.index(self.keys(first), touch=False)
        wrong = [clip_id for clip_id, ref in refs.items() if ref.error and (reasons == "all" or ref.error in reasons)]
        new = {first[clip_id]: self.counts.get(first[clip_id], 0) + 1 for clip_id in wrong}
        return Retries({**self.counts, **new}, new)

    def write(self, table: Table) -> None:
        """Let later commands know what is new."""
        if self.new:
            table.store.write(f"{_FOLDER}/{uuid.uuid4().hex}.json", json.dumps(dict(self.new)).encode())

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

from mer_ray.data.rows import Keys
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

    def keys(self, first: Keys) -> Keys:
        """The key that counts of each clip, from its first one."""
        if not self.counts:
            return first
        column = first.column.copy()
        for place, key in enumerate(first.column.astype(str).tolist()):
            if key in self.counts:
                column[place] = row_key(key, f"again {self.counts[key]}").encode()
        return Keys(first.ids, column)

    def again(self, table: Table, first: Keys, reasons: Reasons) -> Retries:
        """The same, with the rows in error for one of ``reasons`` to be made anew once more."""
        errors = table.index(self.keys(first), touch=False).errors
        wrong = [first.at(place) for place, (error, _) in errors.items() if reasons == "all" or error in reasons]
        new = {key: self.counts.get(key, 0) + 1 for key in wrong}
        return Retries({**self.counts, **new}, new)

    def write(self, table: Table) -> None:
        """Let later commands know what is new."""
        if self.new:
            table.store.write(f"{_FOLDER}/{uuid.uuid4().hex}.json", json.dumps(dict(self.new)).encode())

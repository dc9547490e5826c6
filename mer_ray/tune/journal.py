"""Optuna's memory of a search in a ``Store``, local or in S3: one file per entry, none of them ever changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from mer_ray import config as configs
from mer_ray.data.storage import Store

_DAMAGED = "damaged"


class StoreJournal(BaseJournalBackend):
    """The entries of a journal, numbered from 0.

    An entry is put under the next number that is free, which of several writers one gets, and has a checksum. Opened,
    the journal ends before the first entry that is missing or damaged; what is left is moved into ``damaged/``.

    Args:
        store: the journal's own folder.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._entries: list[dict[str, Any]] = []
        self._mend()

    def __reduce__(self) -> tuple[type[StoreJournal], tuple[Store]]:
        """Pickle as the folder."""
        return type(self), (self.store,)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """See ``BaseJournalBackend``.

        Raises:
            StorageError: the storage refused.
            ValueError: an entry was damaged since the journal was opened.
        """
        for number in count(log_number_from):
            if number == len(self._entries):
                try:
                    self._entries.append(self._read(name_of(number)))
                except FileNotFoundError:
                    return
            yield self._entries[number]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See ``BaseJournalBackend``.

        Raises:
            StorageError: the storage refused.
        """
        number = len(self._entries)
        for entry in logs:
            data = json.dumps({"entry": entry, "sha256": configs.digest(entry)}, ensure_ascii=False).encode()
            while not self.store.put_if_absent(name_of(number), data):
                number += 1

    def _read(self, name: str) -> dict[str, Any]:
        told = json.loads(self.store.read(name))
        entry: dict[str, Any] = told["entry"]
        if told["sha256"] != configs.digest(entry):
            raise ValueError(f"{self.store.path(name)} is not as it was written")
        return entry

    def _mend(self) -> None:
        """Read every entry up to the first that is not right, and move what is left."""
        names = self.store.files()
        for number, name in enumerate(names):
            try:
                if name != name_of(number):
                    raise ValueError(f"{name_of(number)} is missing")
                self._entries.append(self._read(name))
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                for left in names[number:]:
                    self.store.move_aside(left, _DAMAGED)
                return


def name_of(number: int) -> str:
    """The file of an entry.

    >>> name_of(12)
    '000012.json'
    """
    return f"{number:06d}.json"

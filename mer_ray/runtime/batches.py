"""Cut a step's missing rows into batches whose parts have the same names whoever makes them, and whenever.

Batches are cut from all wanted clips in a fixed order, not from the missing ones: a run that was killed, or a second
driver on the same table, cuts the same batches and makes parts of the same names. Only clips of batches that are partly
done (clips were added, or a batch had been halved) are gathered and cut anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mer_ray.data.table import part_name


@dataclass(frozen=True)
class Batch:
    """Clips to be processed together, and where their inputs stand.

    Attributes:
        clip_ids, keys: the rows to make, aligned.
        inputs: for each name in the stage's ``reads``, one entry per clip: a ``RowRef`` of the upstream table or None
            where it has nothing, or for ``clip`` the fields of ``types.Clip`` as a dict.
    """

    clip_ids: tuple[str, ...]
    keys: tuple[str, ...]
    inputs: Mapping[str, tuple[Any, ...]]

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def name(self) -> str:
        """The name of the part it makes."""
        return part_name(self.clip_ids, self.keys)

    def slice(self, start: int, stop: int) -> Batch:
        """The clips from ``start`` up to ``stop``."""
        inputs = {name: values[start:stop] for name, values in self.inputs.items()}
        return Batch(self.clip_ids[start:stop], self.keys[start:stop], inputs)

    def halves(self) -> tuple[Batch, Batch]:
        """The batch cut in two; it must have at least two clips."""
        middle = len(self) // 2
        return self.slice(0, middle), self.slice(middle, len(self))


def cut(wanted: Sequence[str], done: Collection[str], batch_size: int) -> list[list[str]]:
    """The batches, as lists of clip ids, of those ``wanted`` that are not ``done``.

    >>> cut(["a", "b", "c", "d", "e", "f"], {"c"}, 2)
    [['a', 'b'], ['e', 'f'], ['d']]
    """
    whole, rest = [], []
    for start in range(0, len(wanted), batch_size):
        batch = list(wanted[start : start + batch_size])
        missing = [clip_id for clip_id in batch if clip_id not in done]
        if len(missing) == len(batch):
            whole.append(batch)
        else:
            rest.extend(missing)
    return whole + [rest[start : start + batch_size] for start in range(0, len(rest), batch_size)]

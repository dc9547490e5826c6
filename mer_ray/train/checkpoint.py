"""Checkpoints of a training run: whole or not there, and never chosen when damaged.

``<folder>/<steps, eight digits>/`` holds ``state-<worker>-<number>.safetensors``, each worker's share of the trained
parameters (``train.state``), and last of all ``complete.json``: how far the run is, and each file's size and SHA-256.
A folder without it is what a kill left, and is removed by the next save. Nothing in it depends on the number of workers
or on how they share the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from mer_ray.data.storage import Store
from mer_ray.errors import CorruptPartError
from mer_ray.train.state import Trained, from_tensors, num_bytes, to_tensors

COMPLETE = "complete.json"
_FILE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: steps done.
        best_step: the step after which it scored best, None before the first score.
        best_score: what it scored then.
        history: a row for each epoch done.
    """

    step: int
    best_step: int | None = None
    best_score: float | None = None
    history: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """One that is complete and unaltered.

    Attributes:
        folder: where it is.
        progress: how far the run was.
        files: names of its files.
    """

    folder: Store
    progress: Progress
    files: tuple[str, ...]

    def state(self) -> Iterator[Trained]:
        """Every trained parameter, one file after the other in memory."""
        for name in self.files:
            yield from from_tensors(load(self.folder.read(name)))


class Checkpoints:
    """Those of one run.

    Args:
        folder: where they are; belongs to this run alone.
        keep: how many of the newest stay, beside the best.
    """

    def __init__(self, folder: Store, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(
        self,
        state: Iterable[Trained],
        progress: Progress,
        rank: int,
        world: int,
        gather: Callable[[dict[str, Any]], list[dict[str, Any]]],
    ) -> None:
        """Write one, all workers together; each writes every ``world``-th parameter.

        Args:
            state: every trained parameter; taken whole by every worker.
            progress: how far the run is, the same for all.
            rank: of this worker.
            world: workers.
            gather: what every worker gives, in order, for all; all must come to it.
        """
        name = name_of(progress.step)
        if rank == 0:
            self._tidy(progress)
        gather({})
        written: dict[str, dict[str, Any]] = {}
        for number, part in enumerate(_packs(state, rank, world)):
            file = f"state-{rank:04d}-{number:04d}.safetensors"
            data = save(to_tensors(part))
            self.folder.write(f"{name}/{file}", data)
            written[file] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        files = {file: about for each in gather(written) for file, about in each.items()}
        if rank == 0:
            text = json.dumps({"progress": asdict(progress), "files": files}, indent=1)
            self.folder.write(f"{name}/{COMPLETE}", text.encode())
        gather({})

    def newest(self, on_damaged: Callable[[str, str], None] = lambda folder, why: None) -> Checkpoint | None:
        """The newest that is complete and unaltered; damaged ones are moved aside.

        Args:
            on_damaged: told the folder's name and what is wrong with it.
        """
        for name in reversed(self._complete()):
            try:
                return self.load(name)
            except CorruptPartError as error:
                self.folder.move_aside(name, "damaged")
                on_damaged(name, str(error))
        return None

    def load(self, name: str) -> Checkpoint:
        """One by its name, every file of it checked.

        Raises:
            CorruptPartError: a file is missing, truncated or altered.
        """
        folder = self.folder / name
        try:
            told = json.loads(folder.read(COMPLETE))
            for file, about in told["files"].items():
                data = folder.read(file)
                if len(data) != about["size"] or hashlib.sha256(data).hexdigest() != about["sha256"]:
                    raise CorruptPartError(f"{folder}/{file} is truncated or altered")
            progress = told["progress"] | {"history": tuple(told["progress"]["history"])}
            return Checkpoint(folder, Progress(**progress), tuple(told["files"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CorruptPartError(f"{folder} is damaged: {error}") from error

    def _complete(self) -> list[str]:
        return [name for name in self.folder.folders() if name.isdigit() and COMPLETE in self.folder.files(name)]

    def _tidy(self, progress: Progress) -> None:
        """Remove what a kill left unfinished and what need not stay, before a new one is begun: one is always left."""
        complete = self._complete()
        best = None if progress.best_step is None else name_of(progress.best_step)
        stay = {*complete[max(0, len(complete) - self.keep) :], best}
        for name in self.folder.folders():
            if name.isdigit() and name not in stay:
                self.folder.remove(name)


def name_of(step: int) -> str:
    """The folder of a checkpoint.

    >>> name_of(12)
    '00000012'
    """
    return f"{step:08d}"


def _packs(state: Iterable[Trained], rank: int, world: int) -> Iterator[list[Trained]]:
    """This worker's share of the parameters, in files of bounded size."""
    pack: list[Trained] = []
    size = 0
    for number, part in enumerate(state):
        if number % world != rank:
            continue
        if pack and size + num_bytes(part) > _FILE_BYTES:
            yield pack
            pack, size = [], 0
        pack.append(part)
        size += num_bytes(part)
    if pack:
        yield pack

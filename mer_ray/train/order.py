"""Which clips each step takes, and which of them each worker.

It depends on the seed and the step alone: not on how many workers there are, and not on where a run was taken up again.

Shapes: N clips, B clips of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Order:
    """Which clips each step takes: every one once an epoch, shuffled; an epoch is filled up from its own beginning.

    Attributes:
        num_clips: N, at least 1.
        batch_size: B.
        seed: of the shuffling and of what is drawn of the clips.
    """

    num_clips: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-self.num_clips // self.batch_size)

    def rows(self, step: int) -> NDArray[np.int64]:
        """The clips of a step, int64 (B,)."""
        epoch, number = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_clips)
        places = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
        return order[places % self.num_clips]


@dataclass(frozen=True)
class Share:
    """A worker's part of every step: every ``world``-th clip, in micro-batches.

    Attributes:
        rank, world: of the worker.
        micro_batch: clips of a forward.
    """

    rank: int
    world: int
    micro_batch: int

    def cut(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Rows of each micro-batch of this worker."""
        own = rows[self.rank :: self.world]
        return [own[start : start + self.micro_batch] for start in range(0, len(own), self.micro_batch)]


@dataclass(frozen=True)
class Draw:
    """What a worker is given at once.

    Attributes:
        rows: of each micro-batch, int64.
        seeds: of each clip of each, for what is drawn of it.
    """

    rows: list[NDArray[np.int64]]
    seeds: list[list[list[int]]]


@dataclass(frozen=True)
class Once:
    """Some clips once, for every worker as many draws of one micro-batch: at the end the first clips come again.

    Attributes:
        rows: int64, the clips.
        share: of the worker.
        seed: of what is drawn of each.
    """

    rows: NDArray[np.int64]
    share: Share
    seed: int

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / (self.share.world * self.share.micro_batch))

    def draw(self, number: int) -> Draw:
        """The one of this number, counted from 0."""
        filled = np.arange(len(self) * self.share.world * self.share.micro_batch) % len(self.rows)
        own = self.rows[self.share.cut(filled)[number]]
        return Draw([own], [[[self.seed, int(row)] for row in own]])


@dataclass(frozen=True)
class Timeline:
    """What a worker is given, from a step on: the steps of an epoch, then the clips to score, epoch after epoch.

    Attributes:
        rows: int64, the clips to train on.
        order: in which they are taken.
        share: of the worker.
        scored: what comes behind each epoch.
        first_step: where the run goes on.
        epochs: of the whole run.
    """

    rows: NDArray[np.int64]
    order: Order
    share: Share
    scored: Once
    first_step: int
    epochs: int

    def __len__(self) -> int:
        steps = self.epochs * self.order.steps_per_epoch - self.first_step
        return steps + len(self.scored) * -(-steps // self.order.steps_per_epoch)

    def draw(self, number: int) -> Draw:
        """The one of this number, counted from 0."""
        steps = self.order.steps_per_epoch
        begun = self.first_step % steps
        epoch, place = divmod(number + begun, steps + len(self.scored))
        if place >= steps:
            return self.scored.draw(place - steps)
        step = self.first_step - begun + epoch * steps + place
        cut = self.share.cut(self.order.rows(step))
        seeds = [[[self.order.seed, step, int(row)] for row in part] for part in cut]
        return Draw([self.rows[part] for part in cut], seeds)

"""Mean and deviation of clips, and of groups of clips, of features that are read a block at a time.

They are summed in float64. Those of many groups are kept in float32, and worked on a group at a time: nothing else of
the size of groups x columns is made.

Shapes: N clips, D width of a feature, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK = 512


@dataclass(frozen=True)
class Moments:
    """Statistics of some clips, which can be joined with those of others (Chan, Golub and LeVeque 1983).

    Attributes:
        count: clips that have the feature.
        mean: float64 (D,), 0 of no clip.
        square: float64 (D,), summed squares of the deviations from ``mean``.
    """

    count: float
    mean: NDArray[np.float64]
    square: NDArray[np.float64]

    @classmethod
    def none(cls, width: int) -> Moments:
        """Of no clip."""
        return cls(0.0, np.zeros(width), np.zeros(width))

    @classmethod
    def of(cls, values_ND: NDArray[np.floating], rows: NDArray[np.int64]) -> Moments:
        """Measure some rows, each read once."""
        found = cls.none(values_ND.shape[1])
        for start in range(0, len(rows), _BLOCK):
            block = values_ND[rows[start : start + _BLOCK]].astype(np.float64)
            mean_D = block.mean(axis=0)
            found = found.join(cls(float(len(block)), mean_D, ((block - mean_D) ** 2).sum(axis=0)))
        return found

    def join(self, other: Moments) -> Moments:
        """Of the clips of both."""
        count = self.count + other.count
        share = other.count / max(count, 1.0)
        apart_D = other.mean - self.mean
        square_D = self.square + other.square + self.count * share * apart_D**2
        return Moments(count, self.mean + share * apart_D, square_D)

    @property
    def free(self) -> float:
        """Degrees of freedom of ``square``."""
        return max(self.count - 1, 0.0)

    @property
    def variance(self) -> NDArray[np.float64]:
        """Of each column (D,), over all clips as they are."""
        return self.square / max(self.count, 1.0)

    @property
    def scale(self) -> NDArray[np.float64]:
        """What standardises the columns beside the mean (D,); see ``one_over``."""
        return one_over(np.sqrt(self.variance), self.mean)


@dataclass(frozen=True)
class GroupMoments:
    """The moments of groups of clips.

    Attributes:
        count: float64 (G, 1), clips of each group that have the feature.
        mean, square: float32 (G, D), of each, see ``Moments``.
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float32]
    square: NDArray[np.float32]

    @classmethod
    def of(cls, values_ND: NDArray[np.floating], group_N: NDArray[np.int64], num_groups: int) -> GroupMoments:
        """Measure groups; rows of ``group_N`` below 0 are not read."""
        shape = num_groups, values_ND.shape[1]
        found = cls(np.zeros((num_groups, 1)), np.zeros(shape, np.float32), np.zeros(shape, np.float32))
        for group, rows in by_group(group_N):
            one = Moments.of(values_ND, rows)
            found.count[group], found.mean[group], found.square[group] = one.count, one.mean, one.square
        return found

    def __getitem__(self, group: int) -> Moments:
        """Of one group; below 0: of no clip."""
        if group < 0:
            return Moments.none(self.mean.shape[1])
        count, mean_D, square_D = self.count[group, 0], self.mean[group], self.square[group]
        return Moments(float(count), mean_D.astype(np.float64), square_D.astype(np.float64))

    def merge(self) -> Moments:
        """Of the clips of all groups."""
        whole = self[-1]
        for group in np.flatnonzero(self.count).tolist():
            whole = whole.join(self[group])
        return whole

    def within(self) -> NDArray[np.float64]:
        """Variance of each column within the groups (D,); of all clips where each is a group of its own."""
        free = np.maximum(self.count - 1, 0).sum()
        return self.square.sum(axis=0, dtype=np.float64) / free if free else self.merge().variance


def one_over(spread: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / deviation, and 0 of a column that is constant: it is silenced.

    >>> one_over(np.array([0.5, 1e-9]), np.array([0.0, 1.0])).tolist()
    [2.0, 0.0]
    """
    steady = spread <= 1e-6 * np.abs(mean) + 1e-12
    return np.divide(1.0, spread, out=np.zeros_like(spread), where=~steady)


def by_group(group_N: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each group's rows, ascending; those below 0 are left out."""
    order = np.argsort(group_N, kind="stable")
    groups, starts = np.unique(group_N[order], return_index=True)
    for group, rows in zip(groups.tolist(), np.split(order, starts[1:]), strict=True):
        if group >= 0:
            yield group, rows

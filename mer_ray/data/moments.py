"""Mean and deviation of groups of clips, in float64, of features that are read a block at a time.

Shapes: N clips, D width of a feature, G groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK = 512


@dataclass(frozen=True)
class Moments:
    """Statistics of groups of clips that can be joined (Chan, Golub and LeVeque 1983).

    Attributes:
        count: float64 (G, 1), clips of each group that have the feature.
        mean: float64 (G, D), 0 where there is none.
        square: float64 (G, D), summed squares of the deviations from ``mean``.
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    square: NDArray[np.float64]

    @classmethod
    def of(cls, values_ND: NDArray[np.floating], group_N: NDArray[np.int64], num_groups: int) -> Moments:
        """Measure groups; rows of ``group_N`` below 0 are not read."""
        return cls._joined(values_ND, _pieces(group_N), num_groups)

    @classmethod
    def of_rows(cls, values_ND: NDArray[np.floating], rows: NDArray[np.int64]) -> Moments:
        """Measure some rows as one group."""
        blocks = ((0, rows[start : start + _BLOCK]) for start in range(0, len(rows), _BLOCK))
        return cls._joined(values_ND, blocks, 1)

    @classmethod
    def _joined(
        cls, values_ND: NDArray[np.floating], pieces: Iterable[tuple[int, NDArray[np.int64]]], num_groups: int
    ) -> Moments:
        """Of rows that are read once, a block of one group at a time."""
        count_G1 = np.zeros((num_groups, 1))
        mean_GD = np.zeros((num_groups, values_ND.shape[1]))
        square_GD = np.zeros_like(mean_GD)
        for group, rows in pieces:
            block = values_ND[rows].astype(np.float64)
            own_D, before, joint = block.mean(axis=0), count_G1[group, 0], count_G1[group, 0] + len(block)
            gap_D = own_D - mean_GD[group]
            square_GD[group] += ((block - own_D) ** 2).sum(axis=0) + gap_D**2 * (before * len(block) / joint)
            mean_GD[group] += gap_D * (len(block) / joint)
            count_G1[group] = joint
        return cls(count_G1, mean_GD, square_GD)

    def join(self, other: Moments) -> Moments:
        """Of the clips of both, group by group."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        apart = other.mean - self.mean
        square = self.square + other.square + self.count * share * apart**2
        return Moments(count, self.mean + share * apart, square)

    def merge(self) -> Moments:
        """Of the clips of all groups as one group."""
        count = self.count.sum(axis=0, keepdims=True)
        mean = (self.count * self.mean).sum(axis=0, keepdims=True) / np.maximum(count, 1)
        square = (self.square + self.count * (self.mean - mean) ** 2).sum(axis=0, keepdims=True)
        return Moments(count, mean, square)

    def take(self, groups: NDArray[np.int64]) -> Moments:
        """The groups at ``groups``; an index below 0 gives a group of no clips."""
        known = (groups >= 0)[:, None]
        return Moments(*(np.where(known, x[groups], 0.0) for x in (self.count, self.mean, self.square)))

    @property
    def free(self) -> NDArray[np.float64]:
        """Degrees of freedom of ``square``, (G, 1)."""
        return np.maximum(self.count - 1, 0)

    @property
    def scale(self) -> NDArray[np.float64]:
        """What standardises each group's columns beside its mean, (G, D); see ``one_over``."""
        return one_over(np.sqrt(self.square / np.maximum(self.count, 1)), self.mean)


def one_over(spread: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / deviation, and 0 of a column that is constant: it is silenced.

    >>> one_over(np.array([0.5, 1e-9]), np.array([0.0, 1.0])).tolist()
    [2.0, 0.0]
    """
    steady = spread <= 1e-6 * np.abs(mean) + 1e-12
    return np.divide(1.0, spread, out=np.zeros_like(spread), where=~steady)


def _pieces(group_N: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each group's rows, a block at a time; those below 0 are left out."""
    order = np.argsort(group_N, kind="stable")
    groups, starts = np.unique(group_N[order], return_index=True)
    for group, rows in zip(groups.tolist(), np.split(order, starts[1:]), strict=True):
        for start in range(0, len(rows) if group >= 0 else 0, _BLOCK):
            yield group, rows[start : start + _BLOCK]

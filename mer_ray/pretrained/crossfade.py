"""A long sound cut into windows that overlap, and what was made of the windows put together again.

Shapes: S samples, W samples of a window, K streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, permutations

import numpy as np
from numpy.typing import NDArray

Streams = NDArray[np.float32]


def starts(num_samples: int, window: int, stride: int) -> list[int]:
    """Where windows begin: every ``stride``, and the last so that it ends with the sound; no sample is made up.

    A sound no longer than a window is one window, as short as it is.

    >>> starts(10, window=4, stride=3), starts(11, window=4, stride=3), starts(3, window=4, stride=3)
    ([0, 3, 6], [0, 3, 6, 7], [0])
    """
    last = max(0, num_samples - window)
    return [*range(0, last, stride), last]


def join(parts: Sequence[Streams], begins: Sequence[int], num_samples: int, fade: int) -> Streams:
    """Windows put together, each faded in and out where another covers the same samples.

    A separator does not know which voice is the first: a window's streams are put into the order in which they fit
    those of the window before.

    Args:
        parts: (K, W) of each window, in time order.
        begins: of ``starts``.
        num_samples: S.
        fade: samples over which a window fades; at the sound's two ends nothing is lost.

    Returns:
        (K, S).

    >>> join([np.array([[1, 1, 1]], np.float32), np.array([[3, 3, 3]], np.float32)], [0, 1], 4, fade=2).tolist()
    [[1.0, 1.5, 2.5, 3.0]]
    """
    ordered = _in_one_order(parts, begins)
    total = np.zeros((len(parts[0]), num_samples), np.float64)
    weight = np.zeros(num_samples, np.float64)
    for part, begin in zip(ordered, begins, strict=True):
        length = part.shape[1]
        ramp = np.minimum(1.0, (np.arange(length) + 0.5) / max(1, fade))
        ramp = np.minimum(ramp, ramp[::-1])
        total[:, begin : begin + length] += ramp * part
        weight[begin : begin + length] += ramp
    return (total / weight).astype(np.float32)


def _in_one_order(parts: Sequence[Streams], begins: Sequence[int]) -> list[Streams]:
    ordered = [parts[0]]
    for (begin, following), part in zip(pairwise(begins), parts[1:], strict=True):
        before = ordered[-1]
        shared = max(0, begin + before.shape[1] - following)
        likeness = before[:, before.shape[1] - shared :].astype(np.float64) @ part[:, :shared].astype(np.float64).T
        orders = permutations(range(len(part)))
        best = max(orders, key=lambda order: sum(likeness[k, other] for k, other in enumerate(order)))
        ordered.append(part[list(best)])
    return ordered

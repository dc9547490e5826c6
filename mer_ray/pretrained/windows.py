"""A clip's frames cut into windows of the length that a video model takes.

Shapes: F frames, K frames of a window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mer_ray.pretrained.images import evenly


def windows(frames: NDArray[np.uint8], size: int) -> list[NDArray[np.uint8]]:
    """Runs of ``size`` frames side by side that cover a clip, as few as that takes.

    They overlap evenly where the clip's length is no multiple of ``size``: no frame is left out and none is made up. Of
    a clip with fewer frames than ``size`` they are repeated in order, as ``evenly`` does.

    Args:
        frames: (F, ...), F at least 1.
        size: K, at least 1.

    Returns:
        ceil(F / K) arrays (K, ...), at least one, in time order.

    >>> [window.tolist() for window in windows(np.arange(7), 3)]
    [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    >>> windows(np.arange(2), 4)[0].tolist()
    [0, 0, 1, 1]
    """
    if len(frames) <= size:
        return [evenly(frames, size)]
    last = len(frames) - size
    count = -(-len(frames) // size)
    return [frames[start : start + size] for start in (last * i // (count - 1) for i in range(count))]

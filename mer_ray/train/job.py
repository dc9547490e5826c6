"""What the workers of Ray Train are given; light, as its controller reads it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_ray.config import OptimizationConfig, PluginConfig
from mer_ray.data.storage import Store
from mer_ray.train.clips import Clips

WEIGHTS = "weights"
"""Folder of the run directory that holds what was trained."""


@dataclass(frozen=True)
class Job:
    """What a worker is to do; travels to it.

    Attributes:
        task: name and options.
        class_names: of the labels.
        clips: all that are used.
        train, valid, test: rows of them, int64: to train on, to choose the best epoch by, to score the best one on.
        optimization: how.
        seed: of everything drawn.
        run_dir: where checkpoints and weights go.
        digest: of all the above but the number of workers: checkpoints of another one are not gone on from.
        device: ``cuda`` or ``cpu``.
        board: told of progress, a Ray queue; None for nobody.
    """

    task: PluginConfig
    class_names: tuple[str, ...]
    clips: Clips
    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]
    optimization: OptimizationConfig
    seed: int
    run_dir: Store
    digest: str
    device: str
    board: Any = None


def work(given: Mapping[str, Job]) -> None:
    """One worker, from the newest checkpoint to the exported weights."""
    from mer_ray.train import loop  # noqa: PLC0415 - torch and transformers, not for the controller

    loop.run(given["job"])

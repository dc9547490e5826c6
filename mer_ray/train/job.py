"""What the workers of Ray Train are given; light, as its controller reads it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.train import UserCallback

from mer_ray.config import OptimizationConfig, PluginConfig
from mer_ray.data.storage import Store
from mer_ray.errors import MerRayError, StorageError
from mer_ray.train.clips import Clips

WEIGHTS = "weights"
"""Folder of the run directory that holds what was trained."""
NOT_IN_DIGEST = {"workers", "gpus_per_worker", "cpus_per_worker", "max_failures", "keep", "zero_stage", "offload"}
"""Fields of ``optimization`` that change where and how a training is run, and not what comes of it."""


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


class Refusal(UserCallback):  # type: ignore[misc]
    """Ends training where the workers say what is wrong: another attempt would come to the same, and cost the same.

    A lost worker, and a disk or bucket that may be well again by then, are left to Ray Train's attempts.
    """

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, BaseException]) -> None:  # noqa: ANN401
        """Raise the error of ours that every failed worker has, which Ray Train then gives up on."""
        told = [own_error(error) for error in worker_exceptions.values()]
        if told and told[0] and all(error and type(error) is not StorageError for error in told):
            raise told[0]


def own_error(error: BaseException) -> MerRayError | None:
    """The project's own error inside what Ray Train wraps it in, if there is one."""
    inner: Any = error
    for _ in range(10):
        if inner is None or isinstance(inner, MerRayError):
            return inner
        failures = getattr(inner, "worker_failures", None)
        if failures:
            inner = next(iter(failures.values()))
        else:
            inner = getattr(inner, "controller_failure", None) or getattr(inner, "cause", None) or inner.__cause__
    return None

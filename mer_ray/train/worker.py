"""The function that Ray Train runs on each worker; light, as its controller unpickles it too."""

from __future__ import annotations

from collections.abc import Mapping

from mer_ray.train.job import Job


def work(given: Mapping[str, Job]) -> None:
    """One worker, from the newest checkpoint to the exported weights."""
    from mer_ray.train import loop  # noqa: PLC0415 - torch and transformers, not for the controller

    loop.run(given["job"])

"""What the results of an experiment depend on: two that differ in nothing of this come to the same results."""

from __future__ import annotations

from typing import Any

from mer_ray.config import FitConfig
from mer_ray.learners.experiment import Experiment


def of(experiment: Experiment, fit: FitConfig) -> dict[str, Any]:
    """As plain values, for a digest.

    Everything of the experiment is in it but ``splits``, of which labels and pool hold all that is read. The speakers
    are those of all clips: the statistics that standardise features are of unlabelled ones too. Of ``fit``
    ``memory_bytes`` is left out: it says where arrays lie, not what is in them.
    """
    valence = experiment.valence if fit.valence else None
    return {
        "features": experiment.features_digest,
        "labels": experiment.labels.tolist(),
        "valence": None if valence is None else valence.tolist(),
        "speakers": list(experiment.speakers),
        "pool": experiment.pool.tolist(),
        "classes": list(experiment.class_names),
        "seed": experiment.seed,
        "fit": fit.model_dump(mode="json", exclude={"memory_bytes"}),
    }

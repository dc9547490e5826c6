"""What the parts of a mined ensemble are worth: each modality alone, and pseudo-labels that are shuffled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mer_ray.config import LearnerConfig
from mer_ray.errors import LearnerError
from mer_ray.learners.learner import Predictions
from mer_ray.tune.controller import Controller, tell
from mer_ray.tune.mined import Mined


@dataclass(frozen=True)
class Ablations:
    """What the parts are worth.

    Attributes:
        modalities: by modality, the predictions (N,) of one learner with that modality alone, on the labelled data.
        control: predictions (N,) of the last round's ensemble refitted with its pseudo-labels shuffled; None when no
            clip was adopted.
    """

    modalities: Mapping[str, NDArray[np.int64]]
    control: NDArray[np.int64] | None


def ablate(controller: Controller, mined: Mined) -> Ablations:
    """Fit each modality alone on the labelled data, and the last round's learners on shuffled pseudo-labels.

    Args:
        controller: that mined, its features standardised. Ray is running.
        mined: what it found.

    Raises:
        LearnerError: a learner failed twice.
    """
    by_modality: dict[str, list[str]] = {}
    for feature in controller.experiment.features.features:
        by_modality.setdefault(feature.modality, []).append(feature.name)
    alone = {
        modality: LearnerConfig(name=f"only_{modality}", features=names) for modality, names in by_modality.items()
    }
    trials = [controller.trial(f"ablations/{one.name}", one, controller.nothing) for one in alone.values()]
    learners, shuffled = mined.last.learners, mined.last.trained_on.shuffled(controller.experiment.seed)
    controls = [f"control_{name}" for name in learners] if len(shuffled) else []
    trials += [
        controller.trial(f"ablations/{control}", controller.learners[name], shuffled)
        for control, name in zip(controls, learners, strict=False)
    ]
    predictions, failed = controller.fit(controller.context, trials, lambda folder: None)
    if failed:
        raise LearnerError(f"ablations: {tell(failed)}")
    return Ablations(
        {modality: _said(controller, predictions, [one.name]) for modality, one in alone.items()},
        _said(controller, predictions, controls) if controls else None,
    )


def _said(controller: Controller, predictions: Mapping[str, Predictions], names: Sequence[str]) -> NDArray[np.int64]:
    """The label of each clip (N,) by learners of these names, best first."""
    votes = {name: controller.committee.hear(predictions[f"ablations/{name}"]).votes for name in names}
    return controller.committee.final(votes, names).label

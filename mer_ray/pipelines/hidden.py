"""What hiding a modality does to a clip's label: the final ensemble asked again (METHODS P0, interpretability).

A learner is asked again only about clips from which something that it reads is hidden; for a pool of any size that is
less than one prediction of it per modality, and no copy of the features.

Shapes: N clips, M modalities, K learners, C classes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mer_ray.data.features import FeatureSet
from mer_ray.evaluation import explain
from mer_ray.pipelines.finished import Finished


def effects(
    ensemble: Finished,
    features: FeatureSet,
    votes_KNC: NDArray[np.float64],
    label_N: NDArray[np.int64],
    held_out_N: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """How much the probability of each clip's label falls when all features of a modality are marked absent.

    A learner that is left without features abstains, as it does everywhere.

    Args:
        ensemble: whose votes they are.
        features: of the clips, standardised as in training.
        votes_KNC: what the voters say with everything shown, in the ensemble's order.
        label_N: the label of each clip.
        held_out_N: see ``Finished.vote``.

    Returns:
        By modality, float64 (N,): see ``explain.leave_one_out``.
    """
    modalities = list(dict.fromkeys(feature.modality for feature in features.features))
    present_NM = np.stack([_present(features, modality) for modality in modalities], axis=1)

    def predict(shown_NM: NDArray[np.bool_]) -> NDArray[np.float64]:
        votes = votes_KNC.copy()
        for place, learner in enumerate(ensemble.learners):
            own = {feature.modality for feature in features.only(learner.config.features).features}
            touched_N: NDArray[np.bool_] = np.any((present_NM & ~shown_NM)[:, [m in own for m in modalities]], axis=1)
            if touched_N.any():
                left = _only(features, shown_NM & touched_N[:, None], modalities)
                votes[place, touched_N] = ensemble.vote(place, left, held_out_N).probabilities[touched_N]
        return ensemble.final.combine(votes).probabilities

    deltas_NM = explain.leave_one_out(predict, present_NM, label_N)
    return {modality: deltas_NM[:, m] for m, modality in enumerate(modalities)}


def _only(features: FeatureSet, shown_NM: NDArray[np.bool_], modalities: list[str]) -> FeatureSet:
    """The same vectors, those that are not shown marked absent."""
    shown = {modality: shown_NM[:, m] for m, modality in enumerate(modalities)}
    return FeatureSet(
        features.clip_ids, tuple(replace(f, present=f.present & shown[f.modality]) for f in features.features)
    )


def _present(features: FeatureSet, modality: str) -> NDArray[np.bool_]:
    """Which clips have any feature of a modality, bool (N,)."""
    found: NDArray[np.bool_] = np.any([f.present for f in features.features if f.modality == modality], axis=0)
    return found

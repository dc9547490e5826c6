"""What hiding a modality does to a clip's label: the finished ensemble asked again (METHODS P0, interpretability).

Shapes: N clips, M modalities, K learners, C classes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mer_ray.data.features import FeatureSet
from mer_ray.data.storage import Store
from mer_ray.evaluation import explain
from mer_ray.learners.experiment import Experiment
from mer_ray.learners.learner import Learner
from mer_ray.rounds import ensemble
from mer_ray.rounds.state import name_of
from mer_ray.tune.controller import Mined

_FILES = ("model.safetensors", "config.json")


def effects(
    experiment: Experiment, mined: Mined, rounds: Store, rows: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """How much the probability of each clip's final label falls when all features of a modality are marked absent.

    The models of the last round kept answer again, out of fold for clips labelled for training. A learner that is left
    without features abstains, as it does everywhere.

    Args:
        experiment: what was learnt from.
        mined: the finished loop.
        rounds: the folder ``rounds/`` that it left.
        rows: int64 (N,), the clips to ask about, as rows of the experiment.

    Returns:
        By modality, float64 (N,): see ``explain.leave_one_out``.

    Raises:
        CorruptPartError: a learner's files are damaged.
        StorageError: the run directory cannot be read.
    """
    last, features = mined.last, experiment.features.take(rows)
    learners = [_learner(rounds, f"{name_of(last.number)}/{name}") for name in last.learners]
    held_out = np.full(len(experiment.labels), -1, dtype=np.int64)
    held_out[experiment.labelled] = mined.folds.held_out
    modalities = list(dict.fromkeys(feature.modality for feature in features.features))
    present_NM = np.stack([_present(features, modality) for modality in modalities], axis=1)

    def predict(shown_NM: NDArray[np.bool_]) -> NDArray[np.float64]:
        left = FeatureSet(
            features.clip_ids,
            tuple(replace(f, present=f.present & shown_NM[:, modalities.index(f.modality)]) for f in features.features),
        )
        votes_KNC = np.stack([learner.predict(left).clean(held_out[rows])[0] for learner in learners])
        mean = ensemble.combine("mean", votes_KNC, range(len(learners)), experiment.prior)
        return mean.probabilities

    deltas_NM = explain.leave_one_out(predict, present_NM, mined.final.label[rows])
    return {modality: deltas_NM[:, m] for m, modality in enumerate(modalities)}


def _learner(rounds: Store, folder: str) -> Learner:
    return Learner.from_files({name: rounds.read(f"{folder}/{name}") for name in _FILES})


def _present(features: FeatureSet, modality: str) -> NDArray[np.bool_]:
    """Which clips have any feature of a modality, bool (N,)."""
    found: NDArray[np.bool_] = np.any([f.present for f in features.features if f.modality == modality], axis=0)
    return found

"""Fit classifiers that are no networks: learners that differ in their features alone share what is read.

Shapes: n training clips, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mer_ray import registry
from mer_ray.classifiers import base
from mer_ray.config import LearnerConfig
from mer_ray.data.features import FeatureSet
from mer_ray.errors import LearnerError
from mer_ray.learners import spec
from mer_ray.learners.fit import TrainingRows


def fit(
    features: FeatureSet,
    folds: Sequence[TrainingRows],
    configs: Sequence[LearnerConfig],
    num_classes: int,
    seeds: Sequence[int],
) -> list[base.Classifier]:
    """Fit the classifiers of learners that are alike but for name, features and seed.

    Args:
        features: of all clips; the learners' own are taken from it.
        folds: what each fold of each of them learns from.
        configs: the learners.
        num_classes: C.
        seeds: of each.

    Raises:
        LearnerError: no training clip of a fold has any feature of a learner.
    """
    names = [feature.name for feature in features.features if any(feature.name in one.features for one in configs)]
    read = features.only(names)
    rows = [_rows(fold, num_classes) for fold in folds]
    for one in configs:
        seen = np.asarray(features.only(one.features).present.any(axis=1))
        if not all(seen[fold.clip].any() for fold in folds):
            raise LearnerError(
                f"no labelled clip of a fold has any of the features {', '.join(one.features)}; give the learner others"
            )
    models: list[base.Classifier] = [
        registry.build("classifiers", one.model.name, spec.classifier_config(one, features, num_classes, len(folds)))
        for one in configs
    ]
    places = [tuple(names.index(name) for name in one.features) for one in configs]
    type(models[0]).fit_together(models, places, read, rows, seeds)
    return models


def _rows(fold: TrainingRows, num_classes: int) -> base.Rows:
    """True and adopted labels as targets."""
    eye = np.eye(num_classes, dtype=np.float32)
    return base.Rows(
        np.concatenate([fold.clip, fold.pseudo_clip]),
        np.concatenate([eye[fold.label], fold.pseudo_target]),
        np.concatenate([np.ones(len(fold.clip), np.float32), fold.pseudo_weight]),
        fold.pool,
    )

"""Which features a learner is given: the best of each modality by what each alone tells (MERBench's top-n fusion).

Shapes: N clips, M features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mer_ray.config import LearnerConfig
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.evaluation import metrics
from mer_ray.learners import probe
from mer_ray.learners.folds import Folds

_PENALTY = 10.0


def scores(features: FeatureSet, labels: NDArray[np.int64], folds: Folds) -> dict[str, float]:
    """Out-of-fold WAF of a logistic regression on each feature alone, by the feature's name.

    A clip that lacks the feature is answered with the commonest class of its training part, so that a feature which few
    clips have is not the best for being right on these.

    Args:
        features: of all clips, standardised or not.
        labels: int64 (N,), -1 where not labelled for training.
        folds: of the labelled clips, in their order; the learners' own, by which these are scored too.
    """
    rows = np.flatnonzero(labels >= 0).astype(np.int64)
    labelled = features.take(rows)
    return {feature.name: _score(feature, labels[rows], folds) for feature in labelled.features}


def narrow(
    learners: Sequence[LearnerConfig], features: FeatureSet, labels: NDArray[np.int64], folds: Folds
) -> list[LearnerConfig]:
    """The learners, those with ``top`` set reading only the best of their features.

    Which ones is chosen once, on all folds: a choice among a few, by labels that each fold's models do not train on.

    Args:
        learners: their features are among those given.
        features: see ``scores``, as for the others.
        labels: int64 (N,).
        folds: of the labelled clips.
    """
    asked = {name for learner in learners if learner.top for name in learner.features}
    scored = scores(features.only(sorted(asked)), labels, folds)
    return [
        learner.model_copy(update={"features": best(features.only(learner.features), scored, learner.top)})
        if learner.top
        else learner
        for learner in learners
    ]


def best(features: FeatureSet, scored: Mapping[str, float], count: int) -> list[str]:
    """Names of the ``count`` best features of each modality, in the order of ``features``; of two alike the first.

    >>> from mer_ray.data.features import Feature, FeatureSet
    >>> given = [Feature(n, m, np.zeros((1, 1)), np.ones(1, bool)) for n, m in [("a", "x"), ("b", "x"), ("c", "y")]]
    >>> best(FeatureSet(("clip",), tuple(given)), {"a": 0.4, "b": 0.5, "c": 0.3}, 1)
    ['b', 'c']
    """
    by_modality: dict[str, list[str]] = {}
    for feature in features.features:
        by_modality.setdefault(feature.modality, []).append(feature.name)
    ranked = (sorted(names, key=lambda name: -scored[name])[:count] for names in by_modality.values())
    chosen = {name for names in ranked for name in names}
    return [feature.name for feature in features.features if feature.name in chosen]


def _score(feature: Feature, labels: NDArray[np.int64], folds: Folds) -> float:
    here = np.flatnonzero(feature.present)
    predicted = np.empty_like(labels)
    for fold in range(folds.num_folds):
        test = folds.held_out == fold
        predicted[test] = np.bincount(labels[~test]).argmax()
    if len(here):
        own = replace(folds, held_out=folds.held_out[here])
        said = probe.predict(feature.values[here], labels[here], own, _PENALTY)
        predicted[here] = np.where(said >= 0, said, predicted[here])
    return metrics.waf(labels, predicted)

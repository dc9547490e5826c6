"""How well each hidden layer of a model tells the classes by itself (P2 section 3.2.1).

Shapes: n labelled clips, D width of one layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mer_ray.evaluation import metrics
from mer_ray.learners.folds import Folds

_MOST_STEPS = 1000


@dataclass(frozen=True)
class LayerScore:
    """One layer's worth.

    Attributes:
        layer: the hidden state; 0 is what enters layer 1.
        fold_waf: WAF on each fold's held-out clips.
        oof_waf: WAF of all held-out predictions together.
    """

    layer: int
    fold_waf: tuple[float, ...]
    oof_waf: float

    @property
    def mean(self) -> float:
        """Mean of the folds' WAF."""
        return float(np.mean(self.fold_waf))

    @property
    def spread(self) -> float:
        """Standard deviation over the folds."""
        return float(np.std(self.fold_waf, ddof=1))


def score_layer(
    layer: int, vectors_nD: NDArray[np.floating], labels: NDArray[np.int64], folds: Folds, penalty: float, seed: int
) -> LayerScore:
    """Fit a logistic regression on each fold's training part and score it where it was held out.

    Vectors are standardised by the mean and deviation of the training part alone.

    Args:
        layer: its number, for the result.
        vectors_nD: float (n, D), finite.
        labels: int64 (n,), classes.
        folds: of these clips; the same for all layers, so that they can be compared fold by fold.
        penalty: of the squared weights, 1 / C in scikit-learn's words.
        seed: of the solver.
    """
    predicted = np.full(len(labels), -1, dtype=np.int64)
    scores = []
    for fold in range(folds.num_folds):
        test = folds.held_out == fold
        predicted[test] = predict(vectors_nD[~test], labels[~test], vectors_nD[test], penalty, seed)
        scores.append(metrics.waf(labels[test], predicted[test]))
    return LayerScore(layer, tuple(scores), metrics.waf(labels, predicted))


def best(scores: tuple[LayerScore, ...]) -> LayerScore:
    """The layer of the highest mean; of two alike the lower."""
    return max(scores, key=lambda score: (score.mean, -score.layer))


def as_good(scores: tuple[LayerScore, ...]) -> tuple[int, ...]:
    """The layers that are not told from the best: behind it by at most one standard error of the folds' differences."""
    top = best(scores)
    found = []
    for score in scores:
        behind = np.subtract(top.fold_waf, score.fold_waf)
        if score is not top and behind.mean() <= behind.std(ddof=1) / math.sqrt(len(behind)):
            found.append(score.layer)
    return tuple(found)


def predict(
    train: NDArray[np.floating], labels: NDArray[np.int64], test: NDArray[np.floating], penalty: float, seed: int
) -> NDArray[np.int64]:
    """What a logistic regression fitted on ``train``, one row or more, says of ``test``; see ``score_layer``."""
    if len(np.unique(labels)) == 1:  # few clips of one speaker: nothing to separate
        return np.full(len(test), labels[0], dtype=np.int64)
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=_MOST_STEPS, random_state=seed)
    ).fit(train, labels)
    predicted: NDArray[np.int64] = model.predict(test)
    return predicted

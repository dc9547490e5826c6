"""How well each hidden layer of a model tells the classes by itself (P2 section 3.2.1).

Shapes: n labelled clips, D width of one layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mer_ray.classifiers import linear
from mer_ray.evaluation import metrics
from mer_ray.learners.folds import Folds


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
    layer: int, vectors_nD: NDArray[np.floating], labels: NDArray[np.int64], folds: Folds, penalty: float
) -> LayerScore:
    """Fit a logistic regression on each fold's training part and score it where it was held out.

    Vectors are standardised by the mean and deviation of the training part alone.

    Args:
        layer: its number, for the result.
        vectors_nD: float (n, D), finite.
        labels: int64 (n,), classes.
        folds: of these clips; the same for all layers, so that they can be compared fold by fold.
        penalty: of the squared weights, 1 / C in scikit-learn's words.
    """
    predicted, parts = predict(vectors_nD, labels, folds, penalty), range(folds.num_folds)
    scores = [metrics.waf(labels[(test := folds.held_out == fold)], predicted[test]) for fold in parts]
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
    vectors_nD: NDArray[np.floating], labels: NDArray[np.int64], folds: Folds, penalty: float
) -> NDArray[np.int64]:
    """What logistic regressions say of the clips that they were not fitted on, int64 (n,); see ``score_layer``.

    -1 where a fold has no clip to be fitted on.
    """
    train_Fn = folds.held_out != np.arange(folds.num_folds)[:, None]
    counts_FnC = np.eye(labels.max() + 1)[labels] * train_Fn[:, :, None]
    x_nD = torch.from_numpy(_centred(vectors_nD))
    fitted = linear.solve(x_nD, torch.ones(len(labels), 1), [x_nD.shape[1]], torch.from_numpy(counts_FnC), penalty)
    scores_FnC = x_nD.float() @ fitted.weight + (fitted.constant - fitted.offset[:, 0]).unsqueeze(1)
    predicted = scores_FnC.argmax(dim=2).numpy()[folds.held_out, np.arange(len(labels))]
    return np.where(train_Fn.any(axis=1)[folds.held_out], predicted, -1)


def _centred(vectors_nD: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of deviation 1 around 0; a column that is constant is 0."""
    centred: NDArray[np.float64] = vectors_nD.astype(np.float64) - vectors_nD.mean(axis=0, dtype=np.float64)
    spread = centred.std(axis=0)
    centred *= np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    return centred

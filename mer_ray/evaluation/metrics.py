"""Scores of predicted classes against true ones. WAF, the weighted-average F1, is the task's metric (METHODS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One row of the per-class table, all in [0, 1] but ``support``, the number of clips of the class."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class Scores:
    """How well classes were predicted.

    Attributes:
        waf: mean of the classes' F1 weighted by their support, in [0, 1].
        macro_f1: mean of the F1 of the classes that occur, unweighted.
        accuracy: share of clips predicted right.
        classes: one row per class of the label space, also those that do not occur.
        confusion: ``confusion[i][j]`` clips of true class i were predicted as j.
    """

    waf: float
    macro_f1: float
    accuracy: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers."""
        plain = asdict(self)
        return {**plain, "classes": list(plain["classes"]), "confusion": [list(row) for row in self.confusion]}


@dataclass(frozen=True)
class Judged:
    """A way of labelling the clips, by its answers for labelled clips that it has not seen.

    Attributes:
        oof_waf: weighted F1, in [0, 1].
        log_loss: of its probabilities, in nats.
        ece: expected calibration error, in [0, 1].
        gain: of ``oof_waf`` over the plain learners.
        noise: standard error of ``gain``.
        chosen: whether it is taken.
    """

    oof_waf: float
    log_loss: float
    ece: float
    gain: float
    noise: float
    chosen: bool


def waf(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Weighted-average F1, in [0, 1]: scikit-learn's ``f1_score(average="weighted")``, fast enough for every epoch.

    >>> waf(np.array([0, 0, 1]), np.array([0, 0, 1]))
    1.0
    """
    num_classes = int(max(truth.max(), predicted.max())) + 1
    support = np.bincount(truth, minlength=num_classes)
    claimed = np.bincount(predicted, minlength=num_classes)
    right = np.bincount(truth[truth == predicted], minlength=num_classes)
    f1 = 2 * right / np.maximum(support + claimed, 1)
    return float((f1 * support).sum() / support.sum())


def paired_noise(
    truth: NDArray[np.int64],
    one: NDArray[np.int64],
    other: NDArray[np.int64],
    seed: int,
    groups: NDArray[np.int64] | None = None,
    num_samples: int = 200,
) -> float:
    """Standard error of the difference in WAF of two predictions of the same clips, by a paired bootstrap.

    Args:
        truth: int64 (n,), classes.
        one: int64 (n,), predicted.
        other: int64 (n,), predicted.
        seed: of the draws.
        groups: int64 (n,), of clips that rise and fall together, as a speaker's do: whole groups are drawn; None:
            clips are.
        num_samples: how often.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        draws = iter(rng.integers(len(truth), size=(num_samples, len(truth))))
    else:
        members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        drawn = rng.integers(len(members), size=(num_samples, len(members)))
        draws = (np.concatenate([members[group] for group in groups]) for groups in drawn)
    return float(np.std([waf(truth[rows], one[rows]) - waf(truth[rows], other[rows]) for rows in draws]))


def log_loss(probabilities_nC: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    """Mean negative log-probability of the true classes, each held to a millionth at least, in nats."""
    right_n = probabilities_nC[np.arange(len(truth)), truth].astype(np.float64)
    return float(-np.log(np.maximum(right_n, 1e-6)).mean())


def reliability(
    probabilities_nC: NDArray[np.floating], predicted: NDArray[np.int64], truth: NDArray[np.int64], num_bins: int = 15
) -> list[tuple[float, float, int]]:
    """How sure and how right predictions are, in bins of equally many clips: mean confidence, accuracy, clips.

    Fewer bins where there are fewer clips; the least sure first (Nixon et al. 2019, section 3, adaptive bins).
    """
    sure_n = probabilities_nC[np.arange(len(truth)), predicted].astype(np.float64)
    order = np.argsort(sure_n, kind="stable")
    bins = [rows for rows in np.array_split(order, num_bins) if len(rows)]
    return [(float(sure_n[b].mean()), float((predicted[b] == truth[b]).mean()), len(b)) for b in bins]


def calibration_error(
    probabilities_nC: NDArray[np.floating], predicted: NDArray[np.int64], truth: NDArray[np.int64], num_bins: int = 15
) -> float:
    """Expected calibration error, in [0, 1]: mean distance of confidence and accuracy over ``reliability``'s bins.

    >>> calibration_error(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 0]), np.array([0, 1]), 1)
    0.30000000000000004
    """
    bins = reliability(probabilities_nC, predicted, truth, num_bins)
    return sum(abs(sure - right) * count for sure, right, count in bins) / len(truth)


def score(truth: NDArray[np.int64], predicted: NDArray[np.int64], class_names: Sequence[str]) -> Scores | None:
    """Score the clips that have a label.

    Args:
        truth: int64 (N,), class indices; -1 where the label is unknown, and such clips are left out.
        predicted: int64 (N,), class indices.
        class_names: the label space, in order.

    Returns:
        The scores, or None when no clip has a label.
    """
    known = truth >= 0
    if not known.any():
        return None
    truth, predicted = truth[known], predicted[known]
    labels = np.arange(len(class_names))
    table = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    classes = tuple(
        ClassScore(name, float(p), float(r), float(f), int(s))
        for name, p, r, f, s in zip(class_names, *table, strict=True)
    )
    confusion = confusion_matrix(truth, predicted, labels=labels)
    return Scores(
        waf=waf(truth, predicted),
        macro_f1=float(f1_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0)),
        accuracy=float(accuracy_score(truth, predicted)),
        classes=classes,
        confusion=tuple(tuple(int(n) for n in row) for row in confusion),
    )

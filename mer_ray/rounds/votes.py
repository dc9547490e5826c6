"""What the learners' votes are worth, before the ensemble or a strategy sees them: temperature and class shares.

All is learnt from labelled clips out of fold, and for the models of fold f from the clips that the *other* folds hold
out. The models which answered for those clips were trained on fold f's labels, so a temperature still depends a little
on these: it tempers what learners say in the end, and strategies are given the votes as they are.

Shapes: K learners, F folds, N clips, n labelled clips, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from mer_ray.errors import ConfigError
from mer_ray.mining import base

_LEAST_CLIPS = 20
_TINY = 1e-7


def temperatures(
    oof_nC: NDArray[np.floating], labels_n: NDArray[np.int64], held_out_n: NDArray[np.int64], num_models: int
) -> NDArray[np.float64]:
    """What the votes of each model of a learner are tempered by (Guo et al. 2017, section 4.2), float64 (F,).

    Of least cross-entropy over the clips that the other folds hold out; 1 where those are fewer than 20.

    Args:
        oof_nC: probabilities of the labelled clips, by the models that did not see them; NaN rows where it abstains.
        labels_n: their classes.
        held_out_n: the fold that holds each out.
        num_models: F, a model that holds nothing out behind those of the folds included.
    """
    return np.array([_temperature(oof_nC[rows], labels_n[rows]) for rows in _others(held_out_n, num_models)])


def temper(votes: NDArray[np.floating], temperature: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities whose logits are divided by ``temperature``; NaN rows stay.

    >>> temper(np.array([[0.8, 0.2]]), 0.5).round(3).tolist()
    [[0.941, 0.059]]
    """
    powers = np.maximum(votes.astype(np.float64), _TINY) ** (1 / temperature)
    tempered: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return tempered


def align_pool(
    votes_KFNC: NDArray[np.floating], pool_FN: NDArray[np.bool_], prior_FC: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Votes whose mean over a fold's pool moves to the class shares it expects, by learner; see ``base.align``."""
    aligned_KFNC = votes_KFNC.astype(np.float64)
    for votes_FNC in aligned_KFNC:
        for votes_NC, pool, prior_C in zip(votes_FNC, pool_FN, prior_FC, strict=True):
            votes_NC[pool] = base.align(votes_NC[pool], prior_C)
    return aligned_KFNC


def priors(
    asked: str | Mapping[str, float],
    labels_n: NDArray[np.int64],
    held_out_n: NDArray[np.int64],
    class_names: Sequence[str],
    num_models: int,
) -> NDArray[np.float64]:
    """The class shares that each model expects of the pool, float64 (F, C), rows summing to 1.

    Args:
        asked: ``uniform``, shares by class name, or anything else for those of the clips that the model trains on.
        labels_n: of the labelled clips.
        held_out_n: the fold that holds each out.
        class_names: in order.
        num_models: F, see ``temperatures``.

    Raises:
        ConfigError: shares are not of exactly the classes, or none is above 0.
    """
    num_classes = len(class_names)
    if isinstance(asked, Mapping):
        shares_C = np.array([asked.get(name, 0.0) for name in class_names], dtype=np.float64)
        if set(asked) != set(class_names) or shares_C.min() < 0 or not shares_C.sum():
            raise ConfigError(
                f"mining.prior gives shares of {', '.join(asked)}; give one, 0 or more, of each class: "
                f"{', '.join(class_names)}"
            )
        counts_FC = np.tile(shares_C, (num_models, 1))
    elif asked == "uniform":
        counts_FC = np.ones((num_models, num_classes))
    else:
        parts = _others(held_out_n, num_models)
        counts_FC = np.stack([np.bincount(labels_n[rows], minlength=num_classes) for rows in parts]).astype(np.float64)
    shares_FC: NDArray[np.float64] = counts_FC / counts_FC.sum(axis=1, keepdims=True)
    return shares_FC


def _temperature(votes_nC: NDArray[np.floating], labels_n: NDArray[np.int64]) -> float:
    votes = ~np.isnan(votes_nC).any(axis=1)
    if votes.sum() < _LEAST_CLIPS:
        return 1.0
    probabilities_nC, truth_n = votes_nC[votes], labels_n[votes]
    rows = np.arange(len(truth_n))

    def surprise(log_temperature: float) -> float:
        right_n = temper(probabilities_nC, float(np.exp(log_temperature)))[rows, truth_n]
        return float(-np.log(np.maximum(right_n, _TINY)).mean())

    found = minimize_scalar(surprise, bounds=(-2.0, 2.0), method="bounded")
    return float(np.exp(found.x))


def _others(held_out_n: NDArray[np.int64], num_models: int) -> Iterator[NDArray[np.bool_]]:
    """For each model the labelled clips that other folds than its own hold out."""
    return (held_out_n != fold for fold in range(num_models))

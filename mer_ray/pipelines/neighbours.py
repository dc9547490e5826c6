"""The labelled clips most like each clip, as the best learner sees them.

The space is the learner's: of a network the penultimate one, what the last layer of its first fold reads before it
tells the classes apart, of another classifier the parts of its scores; likeness is the cosine. A clip that the best
learner abstains on is seen by the best one that does not.

Shapes: N clips, L labelled ones, D width of the space, n neighbours.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mer_ray.data.features import FeatureSet
from mer_ray.learners.fit import reproducible
from mer_ray.learners.learner import Learner
from mer_ray.pipelines.finished import Finished

_BLOCK = 1024


def nearest(
    ensemble: Finished, features: FeatureSet, labelled: NDArray[np.int64], num_neighbours: int
) -> NDArray[np.int64]:
    """Rows of the labelled clips nearest to each clip, the nearest first; a clip is no neighbour of its own.

    Args:
        ensemble: its learners are asked.
        features: of all clips, standardised as in training.
        labelled: int64 (L,), rows of the labelled clips.
        num_neighbours: n.

    Returns:
        int64 (N, n), -1 where there are fewer.
    """
    found_Nn = np.full((len(features.clip_ids), num_neighbours), -1, dtype=np.int64)
    open_N = np.ones(len(features.clip_ids), dtype=bool)
    for learner in ensemble.learners:
        own = features.only(learner.config.features)
        seen_N = np.asarray(own.present.any(axis=1))
        candidates, rows = labelled[seen_N[labelled]], np.flatnonzero(seen_N & open_N)
        if len(candidates) and len(rows):
            found_Nn[rows] = _nearest(learner, own, candidates, rows, num_neighbours)
            open_N[rows] = False
    return found_Nn


def _nearest(
    learner: Learner,
    own: FeatureSet,
    candidates: NDArray[np.int64],
    rows: NDArray[np.int64],
    num_neighbours: int,
) -> NDArray[np.int64]:
    """Blocks of clips against all candidates; no more than a block's likenesses are in memory."""
    kept = min(num_neighbours, len(candidates))
    found = np.full((len(rows), num_neighbours), -1, dtype=np.int64)
    with reproducible(0), torch.no_grad():
        among_LD = torch.cat([_embed(learner, own, part) for part in _blocks(candidates)])
        for start, part in zip(range(0, len(rows), _BLOCK), _blocks(rows), strict=True):
            likeness_BL = _embed(learner, own, part) @ among_LD.T
            likeness_BL[torch.from_numpy(part[:, None] == candidates)] = -torch.inf
            values, places = (x.numpy() for x in likeness_BL.topk(kept, dim=1))
            found[start : start + len(part), :kept] = np.where(np.isinf(values), -1, candidates[places])
    return found


def _blocks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]


def _embed(learner: Learner, own: FeatureSet, rows: NDArray[np.int64]) -> Tensor:
    """The clips at ``rows`` in the learner's space, float32 (B, D) of length 1."""
    return functional.normalize(learner.embed(own, rows), dim=1)

"""How long ``lda_em`` takes, how near it comes to the machine's rate of multiplying matrices, and the memory it needs.

Shapes: N clips, D width of all features, F folds.
"""

from __future__ import annotations

import time
from itertools import chain, combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_ray.benchmarks.harness import Memory, peak_memory
from mer_ray.classifiers import base, lda_em
from mer_ray.data.features import FeatureSet
from mer_ray.learners.folds import Folds


def measure(
    features: FeatureSet, labels: NDArray[np.int64], folds: Folds, num_classes: int, flops_per_s: float
) -> dict[str, Any]:
    """Fit the classifier on labelled clips and a pool: a model of each fold, and the last, that holds nothing out.

    Args:
        features: of all clips, each with every feature; memory-mapped and not read yet.
        labels: int64 (n,), of the first clips; the others are the pool.
        folds: of the first clips.
        num_classes: there are.
        flops_per_s: what the machine does on a large matrix product.
    """
    dims = tuple(feature.values.shape[1] for feature in features.features)
    config = lda_em.Config(dims=dims, num_classes=num_classes, num_folds=folds.num_folds + 1)
    pool = np.arange(len(labels), len(features.clip_ids))
    held_bytes = sum(feature.values.nbytes for feature in features.features)
    before = Memory()
    before.sample()
    with peak_memory() as memory:
        started = time.perf_counter()
        lda_em.Classifier(config).fit(features, _rows(labels, folds, num_classes, pool), seed=0)
        seconds = time.perf_counter() - started
    return {
        "lda_em_seconds": seconds,
        "lda_em_matrix_rate_share": flops(config, len(features.clip_ids)) / seconds / flops_per_s,
        "lda_em_peak_memory_bytes": memory.peak_bytes - before.peak_bytes - held_bytes,
    }


def flops(config: lda_em.Config, num_clips: int) -> float:
    """Operations of the second moments and of the solves: of a model one a step, and in the end of every pattern.

    >>> flops(lda_em.Config(dims=(2, 1), num_classes=2, num_folds=1, steps=2), 100)
    1830.0
    """
    patterns = chain.from_iterable(combinations(config.dims, n) for n in range(1, len(config.dims) + 1))
    solved = config.steps * sum(config.dims) ** 3 + sum(sum(pattern) ** 3 for pattern in patterns)
    return 2.0 * num_clips * sum(config.dims) ** 2 + config.num_folds * solved / 3


def _rows(labels: NDArray[np.int64], folds: Folds, num_classes: int, pool: NDArray[np.int64]) -> list[base.Rows]:
    """What each model learns from."""
    eye, found = np.eye(num_classes, dtype=np.float32), []
    for fold in range(folds.num_folds + 1):
        clip = np.flatnonzero(folds.held_out != fold)
        found.append(base.Rows(clip, eye[labels[clip]], np.ones(len(clip), np.float32), pool))
    return found

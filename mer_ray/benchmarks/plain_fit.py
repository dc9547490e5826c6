"""The baseline toolbox's way to fit a learner, written plainly: what ours is measured against.

Five folds one after the other, Adam with one tensor at a time, batches of 32, 100 epochs, the held-out fold scored in
every epoch, no early stopping. The toolbox then reports the best of these scores, which the held-out clips themselves
chose; both that one and the last epoch's are given. The fusion model is ours, and its inputs are standardised as ours
are, so that the protocols alone differ.

Shapes: n labelled clips, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mer_ray.data.features import FeatureSet
from mer_ray.evaluation.metrics import waf
from mer_ray.fusion import base
from mer_ray.learners.folds import Folds
from mer_ray.learners.model import FoldModel, tensors

BATCH_SIZE = 32
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Scores:
    """Out-of-fold WAF.

    Attributes:
        last_epoch: of every fold's last epoch.
        best_epoch: of the epoch of each fold that its own held-out clips score best: no honest figure.
    """

    last_epoch: float
    best_epoch: float


def fit_plainly(
    features: FeatureSet, labels: NDArray[np.int64], folds: Folds, fusion: str, config: base.Config, epochs: int
) -> Scores:
    """Fit and score every fold.

    Args:
        features: of the n labelled clips.
        labels: int64 (n,).
        folds: of these clips.
        fusion: name of the fusion model.
        config: its config.
        epochs: of each fold.
    """
    last, best = np.empty_like(labels), np.empty_like(labels)
    for fold in range(folds.num_folds):
        torch.manual_seed(fold)
        held_out = folds.held_out == fold
        predicted = _fit(features, labels, held_out, FoldModel(fusion, config), epochs)
        scores = [waf(labels[held_out], epoch) for epoch in predicted]
        last[held_out], best[held_out] = predicted[-1], predicted[int(np.argmax(scores))]
    return Scores(waf(labels, last), waf(labels, best))


def _fit(
    features: FeatureSet, labels: NDArray[np.int64], held_out: NDArray[np.bool_], model: FoldModel, epochs: int
) -> list[NDArray[np.int64]]:
    """Fit one fold; what each epoch predicts of the clips held out."""
    train, test = features.take(np.flatnonzero(~held_out)), features.take(np.flatnonzero(held_out))
    model.learn_scales(train)
    (raw, present), (test_raw, test_present) = tensors(train), tensors(test)
    values, test_values = model.prepare(raw), model.prepare(test_raw)
    truth = torch.from_numpy(labels[~held_out])
    optimizer = torch.optim.Adam(model.fusion.parameters(), lr=LEARNING_RATE, foreach=False, fused=False)
    predicted = []
    for _ in range(epochs):
        model.train()
        for rows in torch.split(torch.randperm(len(truth)), BATCH_SIZE):
            logits, _ = model.fusion([x[rows] for x in values], present[rows])
            optimizer.zero_grad()
            functional.cross_entropy(logits, truth[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        model.eval()
        with torch.no_grad():
            parts = [
                model.fusion([x[rows] for x in test_values], test_present[rows])[0].argmax(dim=1)
                for rows in torch.split(torch.arange(len(test_present)), BATCH_SIZE)
            ]
        predicted.append(torch.cat(parts).numpy())
    return predicted

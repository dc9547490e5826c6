"""Fit one learner on one fold, in memory.

The held-out fold is not looked at, not even to stop early: out-of-fold scores stay honest, and a held-out label cannot
come back through the clips that a fold's models adopt. Early stopping watches an inner split of the fold's own training
part, and only where that split is large enough to rank epochs: of 15 clips one is 7 points of WAF, and choosing by
them cost about 7 points against running the whole schedule.

Shapes: n training clips, C classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mer_ray.config import FitConfig
from mer_ray.data.features import FeatureSet
from mer_ray.errors import LearnerError
from mer_ray.evaluation.metrics import waf
from mer_ray.fusion import base
from mer_ray.learners.model import FoldModel, tensors


@dataclass(frozen=True)
class TrainingRows:
    """What one fold trains on: rows of the clips with true labels, and of the pseudo-labelled ones.

    Attributes:
        clip, label: int64 (n,), row in the ``FeatureSet`` and class.
        pseudo_clip, pseudo_label: the same of the adopted clips; empty in round 0.
    """

    clip: NDArray[np.int64]
    label: NDArray[np.int64]
    pseudo_clip: NDArray[np.int64]
    pseudo_label: NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """Standardised tensors of some clips."""

    features: list[Tensor]
    present: Tensor
    labels: Tensor

    def take(self, rows: Tensor) -> Data:
        """The clips at ``rows``."""
        return Data([x[rows] for x in self.features], self.present[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)


def fit_fold(
    features: FeatureSet, rows: TrainingRows, fusion: str, model_config: base.Config, fit: FitConfig, seed: int
) -> FoldModel:
    """Fit the model of one fold. Same input and seed: same bits, whatever else the process did before.

    Args:
        features: the learner's features of all clips.
        rows: what to train on; clips that have none of the learner's features are left out.
        fusion: name of the fusion model.
        model_config: its config.
        fit: epochs, patience, batch size, learning rate, weight decay.
        seed: of initialisation, batches and dropout.

    Raises:
        LearnerError: no training clip has any of the learner's features, or the loss is not finite.
    """
    seen = features.present.any(axis=1)
    true, pseudo = np.asarray(seen)[rows.clip], np.asarray(seen)[rows.pseudo_clip]
    clip = np.concatenate([rows.clip[true], rows.pseudo_clip[pseudo]])
    label = np.concatenate([rows.label[true], rows.pseudo_label[pseudo]])
    if not true.any():
        names = ", ".join(feature.name for feature in features.features)
        raise LearnerError(f"no labelled clip of a fold has any of the features {names}; give the learner others")
    with reproducible(seed):
        training = features.take(clip)
        model = FoldModel(fusion, model_config)
        model.learn_scales(training)
        raw, present = tensors(training)
        data = Data(model.prepare(raw), present, torch.from_numpy(label))
        inner = inner_split(rows.label[true], fit.inner_share, fit.inner_least, seed)
        train = np.setdiff1d(np.arange(len(label)), inner)
        _train(model.fusion, data.take(torch.from_numpy(train)), data.take(torch.from_numpy(inner)), fit)
    return model.eval()


def inner_split(labels: NDArray[np.int64], share: float, least: int, seed: int) -> NDArray[np.int64]:
    """Rows, ascending, set aside of a fold's own training part for early stopping: ``share`` of each class, rounded.

    A class keeps at least one clip to train on. Empty when they would be fewer than ``least``.

    >>> inner_split(np.array([0] * 10 + [1] * 5), 0.2, least=3, seed=0).size
    3
    """
    rng = np.random.default_rng(seed)
    parts = []
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        parts.append(members[: min(round(share * len(members)), len(members) - 1)])
    inner = np.sort(np.concatenate(parts))
    return inner if len(inner) >= least else inner[:0]


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """One thread and a fresh random state inside; the process's own afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _train(model: base.Model, train: Data, inner: Data, fit: FitConfig) -> None:
    """Minimise class-weighted cross-entropy; with an inner split keep its best epoch (WAF, then lower loss)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=fit.learning_rate, weight_decay=fit.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, fit.epochs)
    class_weights = _class_weights(train.labels, model.config.num_classes)
    best, best_state, best_epoch = (-1.0, -float("inf")), model.state_dict(), 0
    for epoch in range(fit.epochs):
        loss = _epoch(model, train, optimizer, class_weights, fit)
        schedule.step()
        if not math.isfinite(loss):
            raise LearnerError(f"the loss became {loss} in epoch {epoch}; lower fit.learning_rate")
        if not len(inner):
            continue
        score = _score(model, inner)
        if score > best:
            best, best_state, best_epoch = score, copy.deepcopy(model.state_dict()), epoch
        elif epoch - best_epoch >= fit.patience:
            break
    model.load_state_dict(best_state)


def _epoch(
    model: base.Model, train: Data, optimizer: torch.optim.Optimizer, class_weights: Tensor, fit: FitConfig
) -> float:
    """One pass over the training clips in random order; the mean loss of its steps."""
    model.train()
    total, steps = 0.0, 0
    for batch in torch.split(torch.randperm(len(train)), fit.batch_size):
        part = train.take(batch)
        logits, _ = model(part.features, part.present)
        loss = functional.cross_entropy(logits, part.labels, class_weights, label_smoothing=fit.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total, steps = total + float(loss.detach()), steps + 1
    return total / steps


@torch.no_grad()
def _score(model: base.Model, data: Data) -> tuple[float, float]:
    model.eval()
    logits, _ = model(data.features, data.present)
    loss = float(functional.cross_entropy(logits, data.labels))
    return waf(data.labels.numpy(), logits.argmax(dim=1).numpy()), -loss


def _class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Inverse square root of each class's count, of mean 1 over the clips; 0 for a class that does not occur."""
    counts = torch.bincount(labels, minlength=num_classes).float()
    weights = torch.where(counts > 0, counts.clamp(min=1).rsqrt(), 0.0)
    return weights * counts.sum() / (weights * counts).sum()

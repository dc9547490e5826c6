"""Train the models of several folds as one batched program: one forward, one backward, one step for all of them.

A fold that stops early leaves the program; its best epoch is kept. On one CPU thread this takes about half the time of
one fold after the other with wide features, and a third to a fifth with narrow ones, where most of it is overhead.

Shapes: G folds, B clips, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional

from mer_ray import progress
from mer_ray.config import FitConfig
from mer_ray.data.features import FeatureSet
from mer_ray.errors import LearnerError
from mer_ray.evaluation.metrics import waf
from mer_ray.learners.batches import Batches, Part, Table, padded
from mer_ray.learners.loss import Balance
from mer_ray.learners.model import FoldModel
from mer_ray.learners.stack import Stack, load

_SCORED_AT_ONCE = 256


def device() -> torch.device:
    """Where learners are fitted: a GPU where this process sees one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    models: Sequence[FoldModel],
    parts: Sequence[Part],
    inners: Sequence[Part],
    features: FeatureSet,
    fit: FitConfig,
    seeds: Sequence[int],
    num_steps: int | None = None,
) -> None:
    """Fit the models in place, each on its part. With an inner split the best epoch is kept (WAF, then lower loss).

    Args:
        models: of one shape, standardisation learnt.
        parts: what each trains on.
        inners: what early stopping watches of each, apart from its part; may be empty.
        features: of all clips.
        fit: how.
        seeds: of each model's batches.
        num_steps: that many instead of ``fit.epochs``.

    Raises:
        LearnerError: a loss is not finite.
    """
    table = Table(features, models, device())
    batches = Batches(parts, table, fit, seeds)
    _Program(models, parts, inners, table, batches, fit, num_steps).run()


class _Program:
    """The folds that still train, side by side."""

    def __init__(
        self,
        models: Sequence[FoldModel],
        parts: Sequence[Part],
        inners: Sequence[Part],
        table: Table,
        batches: Batches,
        fit: FitConfig,
        num_steps: int | None,
    ) -> None:
        self.steps_left = fit.epochs * batches.steps if num_steps is None else num_steps
        self.epochs = -(-self.steps_left // batches.steps)
        self.models, self.inners, self.table, self.batches, self.fit = models, inners, table, batches, fit
        self.stack = Stack([model.fusion for model in models], table.device)
        self.active = torch.arange(len(models))
        counts = torch.stack([_counts(part) for part in parts]).to(table.device)
        self.balance = Balance.of(fit.balance, counts)
        self.optimizer = torch.optim.AdamW(
            self.stack.parameters.values(), lr=fit.learning_rate, weight_decay=fit.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, self.epochs)
        self.best = [(-1.0, -float("inf"))] * len(models)
        self.best_epoch = [0] * len(models)

    def run(self) -> None:
        """All epochs, or until every fold has stopped."""
        for epoch in range(self.epochs):
            loss_G = self._epoch(epoch)
            self.schedule.step()
            if not torch.isfinite(loss_G).all():
                raise LearnerError(f"the loss became {loss_G.sum()} in epoch {epoch}; lower fit.learning_rate")
            self._watch(epoch)
            if not len(self.active):
                return
        for place, fold in enumerate(self.active.tolist()):
            if not len(self.inners[fold]):
                load(self.models[fold].fusion, self.stack.state, place)

    def _epoch(self, epoch: int) -> Tensor:
        """One pass over every fold's clips; the mean loss of each fold's steps, (G,)."""
        total_G = torch.zeros(len(self.active), device=self.table.device)
        for step, batch in enumerate(islice(self.batches.epoch(self.active), self.steps_left)):
            self.steps_left -= 1
            progress.tell((epoch + step / self.batches.steps) / self.epochs, f"epoch {epoch + 1} of {self.epochs}")
            with self._autocast():
                outputs_GBX = self.stack(batch.features, batch.present_GBM, training=True)
            loss_G = batch.loss(outputs_GBX.float(), self.balance, self.fit)
            self.optimizer.zero_grad(set_to_none=True)
            loss_G.sum().backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total_G += loss_G.detach()
        return total_G / self.batches.steps

    def _watch(self, epoch: int) -> None:
        """Score the folds that have an inner split, keep what is best, and go on without those that have stopped."""
        watched = [place for place, fold in enumerate(self.active.tolist()) if len(self.inners[fold])]
        stopped = set()
        for place, score in zip(watched, self._scores(watched), strict=True):
            fold = int(self.active[place])
            if score > self.best[fold]:
                self.best[fold], self.best_epoch[fold] = score, epoch
                load(self.models[fold].fusion, self.stack.state, place)
            elif epoch - self.best_epoch[fold] >= self.fit.patience:
                stopped.add(place)
        if stopped:
            self._keep([place for place in range(len(self.active)) if place not in stopped])

    @torch.no_grad()
    def _scores(self, places: list[int]) -> list[tuple[float, float]]:
        """WAF and negative loss of the folds at ``places`` on their inner splits."""
        if not places:
            return []
        folds = self.active[places]
        parts = [self.inners[fold] for fold in folds.tolist()]
        rows = folds.to(self.table.device)
        state = {name: tensor[places] for name, tensor in self.stack.state.items()}
        clip_Gn = padded([part.clip for part in parts], self.table.device)
        outputs = []
        for clip_GB in torch.split(clip_Gn, _SCORED_AT_ONCE, dim=1):
            features, present = self.table.take(clip_GB, rows)
            with self._autocast():
                outputs.append(self.stack(features, present, training=False, state=state).float())
        logits_GnC = torch.cat(outputs, dim=1).cpu()
        model = self.models[0]
        return [_score(model.classes(x)[: len(part)], part) for x, part in zip(logits_GnC, parts, strict=True)]

    def _keep(self, places: list[int]) -> None:
        left = torch.tensor(places, dtype=torch.int64)
        on_device = left.to(self.table.device)
        self.active = self.active[left]
        self.stack.keep(on_device, self.optimizer)
        self.balance = self.balance.keep(on_device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.table.device.type, torch.bfloat16, enabled=self.fit.dtype == "bfloat16")


def _score(logits_nC: Tensor, inner: Part) -> tuple[float, float]:
    """WAF and negative loss, true labels against logits."""
    labels = inner.target.argmax(axis=1)
    loss = float(functional.cross_entropy(logits_nC, torch.from_numpy(labels)))
    return waf(labels, logits_nC.argmax(dim=1).numpy()), -loss


def _counts(part: Part) -> Tensor:
    """Weighted number of clips of each class, float32 (C,)."""
    return torch.from_numpy(part.weight @ part.target)

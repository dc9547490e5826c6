"""What each worker of Ray Train does: go on from the newest checkpoint, train, score each epoch, leave the best.

Every worker runs this same function to the same step; what they exchange are gradients, scores and the shares of a
checkpoint.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from mer_ray import registry
from mer_ray.errors import LearnerError
from mer_ray.evaluation.metrics import waf
from mer_ray.tasks.base import Task, to
from mer_ray.train import data
from mer_ray.train.checkpoint import Checkpoint, Checkpoints, Progress, name_of
from mer_ray.train.engine import Engine, connect
from mer_ray.train.job import WEIGHTS, Job
from mer_ray.train.order import Once, Order, Share, Timeline


def run(job: Job) -> None:
    """All that one worker does."""
    if job.device == "cpu":
        torch.set_num_threads(1)
    task = registry.build("tasks", job.task.name, job.task.options, class_names=job.class_names)
    connect(job.device)
    _Worker(job, task).run()
    dist.barrier()


class _Worker:
    """Its place among the others, the engine and how far it is."""

    def __init__(self, job: Job, task: Task) -> None:
        self.job, self.task = job, task
        settings = job.optimization
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.share = Share(self.rank, self.world, settings.micro_batch)
        self.order = Order(len(job.train), settings.batch_size, job.seed)
        self.total_steps = settings.epochs * self.order.steps_per_epoch
        self.checkpoints = Checkpoints(job.run_dir / f"checkpoints/{job.digest}", settings.keep)
        found = self._newest()
        self.progress = found.progress if found else Progress(0)
        self.engine = self._engine(found)
        scored = Once(job.valid, self.share, job.seed)
        timeline = Timeline(job.train, self.order, self.share, scored, self.progress.step, settings.epochs)
        self.batches = data.batches(job.clips, task, timeline)
        self.flops_per_step = 0.0

    def run(self) -> None:
        """Train to the end, or to where it no longer gets better; then leave the best weights."""
        trained, total = self.engine.num_parameters
        self._tell("started", trained=trained, total=total, step=self.progress.step, steps=self.total_steps)
        while self.engine.step < self.total_steps and not self._is_stale():
            self._epoch()
        self.batches.close()
        best = self.progress.best_step
        if best is not None and best != self.engine.step:
            del self.engine  # two of them might not fit
            self.engine = self._engine(self.checkpoints.load(name_of(best)))
        once = Once(self.job.test, self.share, self.job.seed)
        test = self._score(self.job.test, data.batches(self.job.clips, self.task, once)) if len(once) else None
        self._tell("scored", step=self.engine.step, valid=self.progress.best_score, test=test)
        self._export()

    def _epoch(self) -> None:
        """To the end of the epoch that is begun, its score, and a checkpoint."""
        steps, first = self.order.steps_per_epoch, self.engine.step
        last = (first // steps + 1) * steps
        losses, parts_seen, started = [], [], time.monotonic()
        for _ in range(first, last):
            placed = [to(batch, self.engine.device) for batch in next(self.batches)]
            if not self.flops_per_step:
                loss, parts = self._counted(placed)
            else:
                loss, parts = self.engine.train(placed)
            losses.append(self._mean(loss))
            if not np.isfinite(losses[-1]):
                raise LearnerError(
                    f"the loss became {losses[-1]} in step {self.engine.step}; lower optimization.learning_rate"
                )
            parts_seen.append({name: float(part) for name, part in parts.items()})
            self._tell("step", step=self.engine.step, loss=losses[-1])
        seconds = time.monotonic() - started
        row = {
            "epoch": self.engine.step // steps,
            "step": self.engine.step,
            "loss": float(np.mean(losses)),
            **{name: float(np.mean([seen[name] for seen in parts_seen])) for name in parts_seen[0]},
            "valid": self._score(self.job.valid, self.batches),
            "samples_per_s": (last - first) * self.order.batch_size / seconds,
            "model_flops_per_s": (last - first) * self.flops_per_step / seconds,
        }
        self._keep(row)

    def _counted(self, batches: list[Any]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """A step whose floating-point operations are counted, over all workers."""
        with FlopCounterMode(display=False) as counter:
            made = self.engine.train(batches)
        self.flops_per_step = self._mean(torch.tensor(float(counter.get_total_flops()))) * self.world
        return made

    def _score(self, rows: NDArray[np.int64], batches: Iterator[list[Any]]) -> float | None:
        """WAF of some clips, or the negative loss where the task tells no classes apart; None without any."""
        label = self.job.clips.label
        if not len(rows):
            return None
        logits, losses = [], []
        for _ in range(len(Once(rows, self.share, self.job.seed))):
            (batch,) = next(batches)
            outcome = self.engine.score(to(batch, self.engine.device))
            logits.append(outcome.scores.float().cpu())
            losses.append(float(outcome.loss))
        everyone = self._gather((torch.cat(logits).numpy(), losses))
        if not everyone[0][0].shape[1]:
            return -float(np.mean([loss for _, own in everyone for loss in own]))
        guessed = np.empty(len(everyone) * len(everyone[0][0]), dtype=np.int64)
        for rank, (own, _) in enumerate(everyone):
            guessed[rank :: self.world] = own.argmax(axis=1)
        return waf(label[rows], guessed[: len(rows)])

    def _keep(self, row: dict[str, Any]) -> None:
        """A checkpoint, and the news of it."""
        progress = replace(self.progress, step=self.engine.step, history=(*self.progress.history, row))
        score = row["valid"]
        if score is not None and (progress.best_score is None or score > progress.best_score):
            progress = replace(progress, best_step=self.engine.step, best_score=score)
        self.checkpoints.save(self.engine.state(), progress, self.rank, self.world, self._gather)
        self.progress = progress
        self._tell("epoch", **row)
        ray.train.report({name: value for name, value in row.items() if value is not None})

    def _is_stale(self) -> bool:
        """Whether it has not got better for ``patience`` epochs."""
        best, steps = self.progress.best_step, self.order.steps_per_epoch
        return best is not None and self.engine.step - best >= self.job.optimization.patience * steps

    def _export(self) -> None:
        """The encoder's files, by the first worker; all take part in bringing the tensors together."""
        weights = self.engine.weights()
        if self.rank:
            for _ in weights:
                pass
            return
        with tempfile.TemporaryDirectory() as name:
            entry = self.task.save(weights, Path(name), self.job.run_dir.path(WEIGHTS))
            for path in sorted(Path(name).rglob("*")):
                if path.is_file():
                    self.job.run_dir.write(f"{WEIGHTS}/{path.relative_to(name)}", path.read_bytes())
        self._tell("exported", entry=entry)

    def _newest(self) -> Checkpoint | None:
        """The checkpoint to go on from, the same for all; the first worker looks."""
        name: list[str | None] = [None]
        if self.rank == 0:
            found = self.checkpoints.newest(lambda folder, why: self._tell("damaged", checkpoint=folder, why=why))
            name = [name_of(found.progress.step) if found else None]
        dist.broadcast_object_list(name)
        return self.checkpoints.load(name[0]) if name[0] else None

    def _engine(self, found: Checkpoint | None) -> Engine:
        resumed = (found.state, found.progress.step) if found else None
        return Engine(
            self.task.build, self.job.optimization, self.job.seed, self.total_steps, resumed, self.task.shareable
        )

    def _mean(self, value: torch.Tensor) -> float:
        return float(np.mean(self._gather(float(value))))

    def _gather(self, mine: Any) -> list[Any]:  # noqa: ANN401 - anything that pickles
        everyone: list[Any] = [None] * self.world
        dist.all_gather_object(everyone, mine)
        return everyone

    def _tell(self, kind: str, **fields: Any) -> None:  # noqa: ANN401
        if self.rank == 0 and self.job.board is not None:
            self.job.board.put((kind, fields))

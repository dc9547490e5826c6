"""A full round of mining at MER2024's size, and one learner's fit beside the baseline toolbox's protocol.

Four learners of five folds, each with one more model that holds nothing out, are fitted on synthetic labelled clips,
predict the whole pool, vote, and the clips adopted are divided and written. One process per core, of one thread, as the
learners of a run are; the features are memory-mapped, so that the processes share them.

JSON: ``fit_seconds`` and ``predict_seconds``, wall-clock of the phase, all learners together; ``vote_seconds`` of
averaging the votes, ``split_seconds`` of selecting and dividing the clips, ``write_seconds`` of votes, selection and
predictions; ``predict_matrix_rate_share``, the floating-point operations of the predictions over those that the machine
does in that time on a large matrix product (``matrix_flops_per_s``); ``peak_memory_bytes``, PSS of all processes over
the round, features included; ``clips.<number>``: ``predict_seconds``, ``vote_seconds``, ``split_seconds``,
``write_seconds``, their sum ``seconds`` and ``seconds_per_clip`` at each size of the pool, which should be the same at
each; ``adopted``, clips. The figures outside ``clips`` are of the largest pool.

What follows on it: ``refit_seconds``, all learners fitted anew on the labels and what they adopted, a fit bounded by
``fit.most_steps``; ``final_seconds``, their predictions of all clips, the final ensemble, and ``predictions.parquet``.

What ``mining.strategy=auto`` fits in their stead, ``lda_em`` on all features, its models together on all cores:
``lda_em_seconds``; ``lda_em_matrix_rate_share``, of its 2 N D^2 operations and those of its solves, as above (a product
with itself is symmetric, and half of it need not be done, so that the share may exceed 1);
``lda_em_peak_memory_bytes``, over the features and what the process held before. ``put_bytes``: what the features take
in Ray's object store, where a run puts them once.

Then, on the same learner, labelled clips and folds, each with the machine to itself: ``ours_seconds`` and ``ours_waf``,
out of fold, and those of the toolbox's protocol (``plain_fit``): ``peer_seconds``, ``peer_waf`` as of its last epoch,
and ``peer_best_epoch_waf``, which its held-out clips chose. Ours runs on one thread, the peer on all cores.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from mer_ray import registry
from mer_ray.benchmarks import lda_em_fit, planted
from mer_ray.benchmarks.harness import matrix_rate, peak_memory, table, timed
from mer_ray.benchmarks.plain_fit import fit_plainly
from mer_ray.config import FitConfig, LearnerConfig, RuntimeConfig, Section
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.data.storage import Store
from mer_ray.evaluation.metrics import waf
from mer_ray.learners import folds as folding
from mer_ray.learners import spec
from mer_ray.learners.experiment import Experiment
from mer_ray.learners.fit import TrainingRows
from mer_ray.learners.folds import Folds
from mer_ray.learners.learner import Learner, Predictions, fit_learner
from mer_ray.learners.networks import Networks
from mer_ray.mining.base import Context
from mer_ray.pipelines import predictions as written
from mer_ray.rounds.final import Final, Read, Voter
from mer_ray.rounds.split import Adoptions, adopt
from mer_ray.rounds.state import Rounds
from mer_ray.runtime.session import session
from mer_ray.tune.trials import FitContext
from mer_ray.types import Split

_MODALITIES = {"audio": "audio", "video": "video", "text": "text"}


class Config(Section):
    """How much of everything."""

    labelled: int = Field(5030, ge=10, description="labelled clips (MER2024: 5,030)")
    pools: list[int] = Field([10_000, 115_595], min_length=1, description="unlabelled clips, one round each")
    audio: int = Field(1024, ge=1, description="width of the audio feature")
    video: int = Field(768, ge=1, description="width of the video feature")
    text: int = Field(5120, ge=1, description="width of the text feature")
    classes: int = Field(6, ge=2, description="classes")
    workers: int = Field(len(os.sched_getaffinity(0)), ge=1, description="processes, each of one thread")
    fit: FitConfig = FitConfig()
    peer_epochs: int = Field(100, ge=1, description="epochs of the baseline toolbox's protocol")
    seed: int = Field(0, ge=0, description="seed of the clips and of the learners")

    @property
    def widths(self) -> dict[str, int]:
        """By feature."""
        return {"audio": self.audio, "video": self.video, "text": self.text}


@dataclass(frozen=True)
class Round:
    """What the phases work on: the labelled clips come first in the files, the pool behind them."""

    folder: Path
    settings: Config
    labels: NDArray[np.int64]
    folds: Folds
    learners: tuple[LearnerConfig, ...]

    @property
    def class_names(self) -> list[str]:
        """Made up."""
        return [f"class{c}" for c in range(self.settings.classes)]

    @property
    def num_clips(self) -> int:
        """All that there are: the labelled ones and the largest pool."""
        return self.settings.labelled + max(self.settings.pools)

    @property
    def num_models(self) -> int:
        """Of a learner: one for each fold, and by ``fit.final=all`` one that holds nothing out."""
        return self.folds.num_folds + (self.settings.fit.final == "all")

    def held_out(self, num_clips: int) -> NDArray[np.int64]:
        """The fold that holds each of the first clips out, -1 of the pool's, (N,)."""
        held_out = np.full(num_clips, -1, dtype=np.int64)
        held_out[: self.settings.labelled] = self.folds.held_out
        return held_out

    def features(self, first: int, end: int) -> FeatureSet:
        """Clips first..end-1."""
        return planted.read(self.folder, _MODALITIES, slice(first, end))

    def fit(self, learner: int, adopted: Adoptions | None = None) -> dict[str, bytes]:
        """The models of a learner, on the labelled clips and those that it has adopted; its files."""
        torch.set_num_threads(1)
        settings = self.settings
        adopted = adopted or Adoptions.none(settings.classes)
        training = []
        for fold in range(self.num_models):
            clip, own = np.flatnonzero(self.folds.held_out != fold), adopted.of(fold, learner)
            training.append(TrainingRows(clip, self.labels[clip], own.clip, own.target, own.weight))
        given, config, final = self.features(0, self.num_clips), self.learners[learner], settings.fit.final
        names, seed = self.class_names, settings.seed
        return fit_learner(given, training, config, settings.fit, names, seed, final=final).to_files()

    def predict(self, files: dict[str, bytes], first: int, end: int) -> Predictions:
        """What a learner says of clips first..end-1."""
        torch.set_num_threads(1)
        return Learner.from_files(files).predict(self.features(first, end))


def run(settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Make the clips, time the round at each size of the pool, then ours beside the peer; prints tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_clips = settings.labelled + max(settings.pools)
        labels = planted.make(folder, num_clips, settings.widths, settings.classes, settings.seed)[: settings.labelled]
        folds = folding.make(labels, [None] * len(labels), settings.fit.folds, settings.seed)
        given = planted.read(folder, _MODALITIES, slice(0, 1))
        learners = spec.resolve("auto", given, settings.fit, settings.classes)
        one = Round(folder, settings, labels, folds, tuple(learners))
        figures = measure_round(one, console)
        yield figures
        figures |= _lda_em(one, figures["matrix_flops_per_s"]) | {"put_bytes": put_bytes(one)}
        columns = [*(name for name in figures if name.startswith("lda_em")), "put_bytes"]
        table(console, "lda_em of all folds on all clips", columns, [[figures[column] for column in columns]])
        yield figures
        figures |= beside_the_peer(one)
        columns = ["ours_seconds", "peer_seconds", "ours_waf", "peer_waf", "peer_best_epoch_waf"]
        table(console, "one learner over its folds", columns, [[figures[column] for column in columns]])
        yield figures


def measure_round(one: Round, console: Console) -> dict[str, Any]:
    """The figures of the round itself."""
    rate = matrix_rate("cpu", torch.float32)
    with peak_memory() as memory, _executor(one.settings.workers) as executor:
        list(executor.map(_warm_up, range(one.settings.workers)))
        places = range(len(one.learners))
        started = time.perf_counter()
        files = list(executor.map(one.fit, places))
        fit_seconds = time.perf_counter() - started
        pools = {pool: _mine_pool(one, executor, files, pool) for pool in sorted(one.settings.pools)}
        clips = {str(pool): found for pool, (found, _) in pools.items()}
        adopted = pools[max(pools)][1]
        started = time.perf_counter()
        again = list(executor.map(one.fit, places, [adopted.where(adopted.learner == learner) for learner in places]))
        refit_seconds = time.perf_counter() - started
        final_seconds = timed(lambda: _finish(one, executor, again))
    last = clips[str(max(pools))]
    flops = one.num_clips * sum(_flops_per_clip(Learner.from_files(learner)) for learner in files)
    table(
        console,
        f"a round of {len(files)} learners, fitted in {fit_seconds:.0f} s, with what they adopted in "
        f"{refit_seconds:.0f} s, and the final ensemble in {final_seconds:.0f} s",
        ["pool", *last],
        [[pool, *values.values()] for pool, values in clips.items()],
    )
    phases = {name: value for name, value in last.items() if name not in {"seconds", "seconds_per_clip"}}
    return phases | {
        "fit_seconds": fit_seconds,
        "refit_seconds": refit_seconds,
        "final_seconds": final_seconds,
        "predict_matrix_rate_share": flops / last["predict_seconds"] / rate,
        "matrix_flops_per_s": rate,
        "peak_memory_bytes": memory.peak_bytes,
        "clips": clips,
    }


def put_bytes(one: Round) -> int:
    """What the data of a run take in Ray's object store, of which nearly all are the features."""
    mapped = one.features(0, one.num_clips)
    # plain arrays, as a run has them
    features = (Feature(f.name, f.modality, np.asarray(f.values), f.present) for f in mapped.features)
    held_out = one.held_out(one.num_clips)
    labels = np.where(held_out >= 0, np.resize(one.labels, one.num_clips), -1)
    experiment = Experiment(
        features=FeatureSet(mapped.clip_ids, tuple(features)),
        labels=labels,
        splits=_splits(held_out),
        speakers=(None,) * one.num_clips,
        class_names=tuple(one.class_names),
        pool=held_out < 0,
        features_digest="planted",
        seed=one.settings.seed,
    )
    context = FitContext(experiment, one.settings.fit, Rounds(Store(str(one.folder / "rounds"))), "planted")
    with session(RuntimeConfig(), sum(feature.values.nbytes for feature in mapped.features)):
        placed = ray.experimental.get_object_locations([context.reference])
        return int(placed[context.reference]["object_size"])


def beside_the_peer(one: Round) -> dict[str, Any]:
    """The first learner, which has all features, our way and the toolbox's, each with a model for each fold alone."""
    folds = one.settings.fit.model_copy(update={"final": "folds"})
    one = replace(one, settings=one.settings.model_copy(update={"fit": folds}))
    learner, labelled = one.learners[0], one.features(0, one.settings.labelled)
    fitted: dict[str, bytes] = {}
    threads = torch.get_num_threads()
    ours_seconds = timed(lambda: fitted.update(one.fit(0)))
    torch.set_num_threads(threads)
    votes, _ = Learner.from_files(fitted).predict(labelled).clean(one.folds.held_out)
    config = spec.fusion_config(learner, labelled, one.settings.fit, one.settings.classes)
    config = config.model_copy(update={"modality_dropout": 0.0})  # the toolbox has none
    started = time.perf_counter()
    peer = fit_plainly(labelled, one.labels, one.folds, learner.fusion.name, config, one.settings.peer_epochs)
    return {
        "ours_seconds": ours_seconds,
        "peer_seconds": time.perf_counter() - started,
        "ours_waf": waf(one.labels, votes.argmax(axis=1)),
        "peer_waf": peer.last_epoch,
        "peer_best_epoch_waf": peer.best_epoch,
    }


def _lda_em(one: Round, rate: float) -> dict[str, Any]:
    """The figures of ``lda_em``, on as many threads as there are workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(one.settings.workers)
    figures = lda_em_fit.measure(one.features(0, one.num_clips), one.labels, one.folds, one.settings.classes, rate)
    torch.set_num_threads(threads)
    return figures


def _mine_pool(
    one: Round, executor: Executor, files: Sequence[dict[str, bytes]], pool: int
) -> tuple[dict[str, Any], Adoptions]:
    """Predict the labelled clips and a pool, vote, split and write; seconds of each, and what was adopted."""
    num_clips = one.settings.labelled + pool
    times = [time.perf_counter()]
    predictions = _predict(one, executor, files, num_clips)
    times.append(time.perf_counter())
    held_out = one.held_out(num_clips)
    votes = {
        learner.name: prediction.clean(held_out)[0]
        for learner, prediction in zip(one.learners, predictions, strict=True)
    }
    times.append(time.perf_counter())
    adopted = _adopt(one, predictions, held_out)
    times.append(time.perf_counter())
    _write(one, predictions, votes, adopted)
    times.append(time.perf_counter())
    names = ("predict_seconds", "vote_seconds", "split_seconds", "write_seconds")
    seconds = dict(zip(names, np.diff(times).tolist(), strict=True))
    total = times[-1] - times[0]
    figures = {**seconds, "seconds": total, "seconds_per_clip": total / num_clips, "adopted": len(set(adopted.clip))}
    return figures, adopted


def _finish(one: Round, executor: Executor, files: Sequence[dict[str, bytes]]) -> None:
    """Predict all clips, combine the votes, and write ``predictions.parquet`` into a folder that is thrown away."""
    held_out = one.held_out(one.num_clips)
    votes = [prediction.clean(held_out)[0] for prediction in _predict(one, executor, files, one.num_clips)]
    rows = held_out >= 0
    scores = [waf(one.labels, vote[rows].argmax(axis=1)) for vote in votes]
    ranking = np.argsort(scores)[::-1]
    prior = np.bincount(one.labels, minlength=one.settings.classes) / len(one.labels)
    final = Final(
        how="mode",
        class_names=tuple(one.class_names),
        prior=tuple(prior.tolist()),
        voters=tuple(Voter(one.learners[place].name, 1, ()) for place in ranking),
        features=tuple(Read(name, _MODALITIES[name], width) for name, width in one.settings.widths.items()),
    )
    votes_KNC = np.stack([votes[place] for place in ranking])
    explained = written.Explained(final, votes_KNC, {}, {}, np.empty((one.num_clips, 0), dtype=np.int64))
    ids = [f"clip_{number:06d}" for number in range(one.num_clips)]
    told = written.table(ids, _splits(held_out), final.combine(votes_KNC), explained, None, {})
    with tempfile.TemporaryDirectory(dir=one.folder) as folder:
        pq.write_table(told, f"{folder}/predictions.parquet")


def _splits(held_out: NDArray[np.int64]) -> tuple[Split, ...]:
    return tuple(Split.UNLABELED if fold < 0 else Split.TRAIN for fold in held_out)


def _predict(one: Round, executor: Executor, files: Sequence[dict[str, bytes]], num_clips: int) -> list[Predictions]:
    """Each learner's clips are shared evenly among the workers."""
    edges = np.linspace(0, num_clips, one.settings.workers + 1).astype(int).tolist()
    parts = [[executor.submit(one.predict, learner, first, end) for first, end in pairwise(edges)] for learner in files]
    return [
        Predictions(
            np.concatenate([part.result().probabilities_FNC for part in learner], axis=1),
            np.concatenate([part.result().weights_FNM for part in learner], axis=1),
            final=one.settings.fit.final,
        )
        for learner in parts
    ]


def _adopt(one: Round, predictions: Sequence[Predictions], held_out: NDArray[np.int64]) -> Adoptions:
    """By the vote of 3 of 4, an even share to each learner (P1 section 2.5)."""
    votes_KFNC = np.stack([prediction.probabilities_FNC for prediction in predictions])
    contexts = [Context.even(one.settings.classes)] * one.num_models
    strategy = registry.build("mining", "vote", {})
    none = Adoptions.none(one.settings.classes)
    pool_FN = np.tile(held_out < 0, (one.num_models, 1))
    return adopt(strategy, votes_KFNC, pool_FN, none, contexts, seed=one.settings.seed)


def _write(
    one: Round, predictions: Sequence[Predictions], votes: dict[str, NDArray[np.float64]], adopted: Adoptions
) -> None:
    """What a round leaves, in a folder that is thrown away."""
    num_clips, names = predictions[0].probabilities_FNC.shape[1], one.class_names
    ids = [f"clip_{number:06d}" for number in range(num_clips)]
    first = one.settings.labelled
    with tempfile.TemporaryDirectory(dir=one.folder) as folder:
        rounds = Rounds(Store(folder))
        for learner, prediction in zip(one.learners, predictions, strict=True):
            rounds.save_learner(f"00/{learner.name}", "", {"predictions.safetensors": prediction.to_bytes()}, {})
        rounds.write_votes(0, ids[first:], names, {name: vote[first:] for name, vote in votes.items()})
        rounds.write_selected(0, adopted, ids, names, list(votes))


def _flops_per_clip(learner: Learner) -> float:
    """Floating-point operations of one clip's prediction by all folds."""
    assert isinstance(learner.model, Networks)
    features, models = [torch.zeros(1, dim) for dim in learner.model.config.dims], learner.model.models
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        models[0](features, torch.ones(1, len(features), dtype=torch.bool))
    return float(counter.get_total_flops()) * len(models)


def _executor(workers: int) -> Executor:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if workers > 1 else ThreadPoolExecutor(1)


def _warm_up(_: int) -> None:
    """Starting a process and importing are no part of the round."""
    time.sleep(0.5)  # long enough that every process takes one

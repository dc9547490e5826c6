"""Learners as trials of one Ray Tune experiment. Tune schedules them; what is finished is known by their artifacts."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain
from typing import Any

import ray
from ray import tune

from mer_ray import config as configs
from mer_ray import progress
from mer_ray.config import FitConfig, LearnerConfig
from mer_ray.learners import spec
from mer_ray.learners.experiment import Experiment
from mer_ray.learners.fit import TrainingRows
from mer_ray.learners.learner import Predictions, fit_learners
from mer_ray.rounds.state import Rounds

_MODEL_FILES = ("model.safetensors", "config.json")
_PREDICTIONS = "predictions.safetensors"

_TOLD_SECONDS = 5.0
"""A worker says how far it is so often; it waits meanwhile."""

QUIET = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"}
"""Tune prints nothing of its own, writes no logs, and leaves Ctrl-C to the job."""


@dataclass(frozen=True)
class Trial:
    """One learner to fit.

    Attributes:
        folder: where its artifacts go, ``NN/<learner>``.
        learner: what it is.
        folds: what each fold trains on.
    """

    folder: str
    learner: LearnerConfig
    folds: tuple[TrainingRows, ...]

    def digest(self, experiment_digest: str) -> str:
        """Of everything that the fitted learner depends on."""
        return configs.digest(
            {"experiment": experiment_digest, "learner": self.learner.model_dump(mode="json"), "rows": self.rows}
        )

    @property
    def rows(self) -> list[list[str]]:
        """Digests of what each fold trains on."""
        return [
            [hashlib.sha256(getattr(fold, field.name).tobytes()).hexdigest() for field in fields(fold)]
            for fold in self.folds
        ]


@dataclass(frozen=True)
class FitContext:
    """What all trials of an experiment share: the data, how to fit, and where the artifacts go."""

    experiment: Experiment
    fit: FitConfig
    rounds: Rounds
    digest: str

    @cached_property
    def reference(self) -> ray.ObjectRef:
        """The context in Ray's object store, put there once: Tune lets go of nothing that is given to it."""
        return ray.put(self)

    def finished(self, trial: Trial) -> Predictions | None:
        """The predictions of a trial that is finished, else None."""
        files = self.rounds.load_learner(trial.folder, trial.digest(self.digest), [_PREDICTIONS])
        return None if files is None else Predictions.from_bytes(files[_PREDICTIONS])

    def work(self, *trials: Trial) -> None:
        """Fit learners of one shape together, predict every clip, write the artifacts."""
        started = time.perf_counter()
        experiment = self.experiment
        learners = fit_learners(
            experiment.features,
            [trial.folds for trial in trials],
            [trial.learner for trial in trials],
            self.fit,
            experiment.class_names,
            experiment.seed,
            experiment.valence,
            self.fit.final,
        )
        for trial, learner in zip(trials, learners, strict=True):
            files = {**learner.to_files(), _PREDICTIONS: learner.predict(experiment.features).to_bytes()}
            seconds = round(time.perf_counter() - started, 3)
            self.rounds.save_learner(trial.folder, trial.digest(self.digest), files, {"seconds": seconds})


def run(
    context: FitContext, trials: Sequence[Trial], on_done: Callable[[str], None] = lambda folder: None
) -> tuple[dict[str, Predictions], dict[str, str]]:
    """Fit the trials that are not finished, as one Tune experiment, each retried once.

    Learners that are ``alike`` are fitted together, which is done again whole when a part is missing.

    Args:
        context: what they share.
        trials: at least one, of different folders.
        on_done: told the folder of each trial as it is finished.

    Returns:
        Predictions by folder, and the error of each folder that failed twice.
    """
    done = {trial.folder: predictions for trial in trials if (predictions := context.finished(trial)) is not None}
    if len(done) == len(trials):
        return done, {}
    num_gpus = ray.cluster_resources().get("GPU", 0)
    groups = alike(trials, networks=num_gpus > 0)
    missing = [group for group in groups if any(trial.folder not in done for trial in group)]
    errors = _tune(context, missing, num_gpus, on_done)
    done |= {trial.folder: made for trial in chain(*missing) if (made := context.finished(trial)) is not None}
    failed = [trial.folder for trial in trials if trial.folder not in done]
    return done, {folder: errors.get(folder, "left no result") for folder in failed}


def alike(trials: Sequence[Trial], *, networks: bool) -> list[list[Trial]]:
    """The trials in groups of learners that are fitted together.

    Args:
        trials: of any learners.
        networks: put those of the same features and fusion model into one batched program; on a CPU that gains nothing.
            Others of one model share what they read where they learn from the same clips.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        key = [trial.folder]
        if trial.learner.model.name != spec.NETWORK:
            key = [trial.learner.model.model_dump_json(), *chain(*trial.rows)]
        elif networks:
            key = [trial.learner.model_dump_json(include={"features", "fusion", "teacher"})]
        groups.setdefault(" ".join(key), []).append(trial)
    return list(groups.values())


class _OnDone(tune.Callback):  # type: ignore[misc]  # Ray has no types
    """Tells the folders of each group of trials that is finished, and how far all of them are together."""

    def __init__(self, groups: Sequence[Sequence[Trial]], on_done: Callable[[str], None]) -> None:
        self.folders = [[trial.folder for trial in group] for group in groups]
        self.on_done: Callable[[str], None] | None = on_done
        self.shares = [0.0] * len(groups)
        self.started = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Tune saves its callbacks for a restore that is never done; a console cannot be pickled."""
        return {**self.__dict__, "on_done": None}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """See ``tune.Callback``."""
        if self.on_done is not None:
            for folder in self.folders[trial.config["group"]]:
                self.on_done(folder)
        self._tell(trial.config["group"], 1.0, "")

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Any],
        trial: Any,  # noqa: ANN401
        result: dict[str, Any],
        **info: Any,  # noqa: ANN401
    ) -> None:
        """See ``tune.Callback``."""
        if "share" in result:
            self._tell(trial.config["group"], result["share"], f", {result['what']}")

    def _tell(self, group: int, share: float, what: str) -> None:
        self.shares[group] = share
        num_fits = [len(folders) for folders in self.folders]
        done = sum(num for num, share in zip(num_fits, self.shares, strict=True) if share == 1)
        whole = sum(num * share for num, share in zip(num_fits, self.shares, strict=True)) / sum(num_fits)
        left = left_of(whole, time.monotonic() - self.started)
        progress.tell(whole, f"{done} of {sum(num_fits)} fits{what}{left}")


def left_of(share: float, seconds: float) -> str:
    """How long what is ``share`` done in ``seconds`` still takes, behind a comma; nothing where that cannot be told.

    >>> left_of(0.25, 100.0), left_of(0.9, 90.0), left_of(0.0, 5.0), left_of(1.0, 5.0)
    (', about 5 min left', ', under a minute left', '', '')
    """
    if not 0 < share < 1:
        return ""
    minutes = seconds * (1 - share) / share / 60
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", under a minute left"


def _tune(
    context: FitContext, groups: Sequence[Sequence[Trial]], num_gpus: float, on_done: Callable[[str], None]
) -> dict[str, str]:
    """Run the groups of trials; the errors by folder."""
    os.environ |= QUIET
    scratch = tempfile.mkdtemp(prefix="mer_ray_tune_")
    try:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_trainable, context=context.reference, groups=list(groups)),
                _share(num_gpus, len(groups)),
            ),
            param_space={"group": tune.grid_search(list(range(len(groups))))},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=1),
                callbacks=[_OnDone(groups, on_done)],
            ),
        )
        results = tuner.fit()
        return {
            trial.folder: cause(result.error)
            for result in results
            if result.error is not None
            for trial in groups[result.config["group"]]
        }
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _share(num_gpus: float, num_groups: int) -> dict[str, float]:
    """What a group takes: one CPU, and an even part of the GPUs where there are any."""
    return {"cpu": 1, "gpu": math.floor(100 * min(1, num_gpus / num_groups)) / 100 or 0.01} if num_gpus else {"cpu": 1}


def cause(error: Exception) -> str:
    """What a trial died of, in one line; Ray's wrapping, its traceback and colours, left out."""
    inner = getattr(error, "cause", None) or error
    return f"{type(inner).__name__}: {(str(inner).splitlines() or [''])[0]}"


def _trainable(config: dict[str, Any], context: FitContext, groups: list[list[Trial]]) -> None:
    with progress.heard(lambda share, what: tune.report({"share": share, "what": what}), _TOLD_SECONDS):
        context.work(*groups[config["group"]])
    tune.report({"done": 1})

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
from typing import Any

import ray
from ray import tune

from mer_ray import config as configs
from mer_ray.config import FitConfig, LearnerConfig
from mer_ray.learners.experiment import Experiment
from mer_ray.learners.fit import TrainingRows
from mer_ray.learners.learner import Predictions, fit_learner
from mer_ray.rounds.state import Rounds

_MODEL_FILES = ("model.safetensors", "config.json")
_PREDICTIONS = "predictions.safetensors"


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
        rows = [
            [hashlib.sha256(getattr(fold, field.name).tobytes()).hexdigest() for field in fields(fold)]
            for fold in self.folds
        ]
        return configs.digest(
            {"experiment": experiment_digest, "learner": self.learner.model_dump(mode="json"), "rows": rows}
        )


@dataclass(frozen=True)
class Bench:
    """What all trials of an experiment share: the data, how to fit, and where the artifacts go."""

    experiment: Experiment
    fit: FitConfig
    rounds: Rounds
    digest: str

    def finished(self, trial: Trial) -> Predictions | None:
        """The predictions of a trial that is finished, else None."""
        files = self.rounds.load_learner(trial.folder, trial.digest(self.digest), [_PREDICTIONS])
        return None if files is None else Predictions.from_bytes(files[_PREDICTIONS])

    def work(self, trial: Trial) -> None:
        """Fit one learner, predict every clip, write the artifacts."""
        started = time.perf_counter()
        experiment = self.experiment
        learner = fit_learner(
            experiment.features, trial.folds, trial.learner, self.fit, experiment.class_names, experiment.seed
        )
        files = {**learner.to_files(), _PREDICTIONS: learner.predict(experiment.features).to_bytes()}
        seconds = time.perf_counter() - started
        self.rounds.save_learner(trial.folder, trial.digest(self.digest), files, {"seconds": round(seconds, 3)})


def run(
    bench: Bench, trials: Sequence[Trial], on_done: Callable[[str], None] = lambda folder: None
) -> tuple[dict[str, Predictions], dict[str, str]]:
    """Fit the trials that are not finished, as one Tune experiment, each retried once.

    Args:
        bench: what they share.
        trials: at least one, of different folders.
        on_done: told the folder of each trial as it is finished.

    Returns:
        Predictions by folder, and the error of each folder that failed twice.
    """
    done = {trial.folder: predictions for trial in trials if (predictions := bench.finished(trial)) is not None}
    missing = [trial for trial in trials if trial.folder not in done]
    if not missing:
        return done, {}
    errors = _tune(bench, missing, on_done)
    for trial in missing:
        predictions = bench.finished(trial)
        if predictions is not None:
            done[trial.folder] = predictions
    failed = {trial.folder: errors.get(trial.folder, "left no result") for trial in missing if trial.folder not in done}
    return done, failed


class _OnDone(tune.Callback):  # type: ignore[misc]  # Ray has no types
    """Tells the folder of each trial that is finished."""

    def __init__(self, trials: Sequence[Trial], on_done: Callable[[str], None]) -> None:
        self.folders = [trial.folder for trial in trials]
        self.on_done: Callable[[str], None] | None = on_done

    def __getstate__(self) -> dict[str, Any]:
        """Tune saves its callbacks for a restore that is never done; a console cannot be pickled."""
        return {**self.__dict__, "on_done": None}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """See ``tune.Callback``."""
        if self.on_done is not None:
            self.on_done(self.folders[trial.config["trial"]])


def _tune(bench: Bench, trials: Sequence[Trial], on_done: Callable[[str], None]) -> dict[str, str]:
    """Run the trials; the errors by folder."""
    os.environ |= {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
    }
    scratch = tempfile.mkdtemp(prefix="mer_ray_tune_")
    try:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_trainable, bench=bench, trials=list(trials)), _share(len(trials))
            ),
            param_space={"trial": tune.grid_search(list(range(len(trials))))},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=1),
                callbacks=[_OnDone(trials, on_done)],
            ),
        )
        results = tuner.fit()
        return {
            trials[result.config["trial"]].folder: _cause(result.error)
            for result in results
            if result.error is not None
        }
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _share(num_trials: int) -> dict[str, float]:
    """What a trial takes: one CPU, and an even part of the GPUs where there are any."""
    num_gpus = ray.cluster_resources().get("GPU", 0)
    return {"cpu": 1, "gpu": math.floor(100 * min(1, num_gpus / num_trials)) / 100 or 0.01} if num_gpus else {"cpu": 1}


def _cause(error: Exception) -> str:
    """What a trial died of, in one line; Ray's wrapping, its traceback and colours, left out."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}"


def _trainable(config: dict[str, Any], bench: Bench, trials: list[Trial]) -> None:
    bench.work(trials[config["trial"]])
    tune.report({"done": 1})

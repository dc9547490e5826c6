"""The search: Optuna suggests (TPE), whole runs of the mining loop are the trials, ASHA stops those that fall behind.

A trial tells its out-of-fold WAF after every round, which are ASHA's rungs; no label of a test clip is read. What was
tried is known by the study's journal in ``trials/``, not by Tune's state: a search that is started again gives ASHA
what finished trials had told, and goes on with the trials cut short, each of which has its own finished learners. A
suggestion depends on the seed and the trials that have ended. So, with one trial at a time, it ends as an undisturbed
one does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from mer_ray import config as configs
from mer_ray.config import TuneConfig
from mer_ray.data.storage import Store
from mer_ray.errors import LearnerError
from mer_ray.learners.experiment import Experiment
from mer_ray.learners.learner import Predictions
from mer_ray.rounds.guard import Comparison
from mer_ray.tune import choice, identity, record, space
from mer_ray.tune.controller import Controller
from mer_ray.tune.record import OOF, Step, Tried, folder_of
from mer_ray.tune.recorder import OBJECTIVE, OnChange, OnError, Recorder
from mer_ray.tune.space import Space
from mer_ray.tune.study import Suggestions
from mer_ray.tune.trials import QUIET, FitContext, Trial

_ATTEMPTS = 2
_RUNG = "rung"

OnEvent = Callable[..., None]


@dataclass(frozen=True)
class Searched:
    """The result of a search.

    Attributes:
        space: what was varied.
        trials: in order of their numbers.
        best: see ``choice.best``.
        compared: each trial mined to its end with trial 0, by its number.
    """

    space: Space
    trials: tuple[Tried, ...]
    best: Tried
    compared: Mapping[int, Comparison]


def run(
    experiment: Experiment,
    settings: TuneConfig,
    run_dir: Store,
    on_event: OnEvent = lambda kind, **fields: None,
    on_change: OnChange = lambda trial, step: None,
) -> Searched:
    """Search, or go on searching. Ray is running.

    Args:
        experiment: the data; the same for all trials.
        settings: the job's.
        run_dir: where ``trials/`` is.
        on_event: told each change of the search's state: its name and fields.
        on_change: told a trial and the step that it has just made, or None when it has ended.

    Raises:
        ConfigError, PluginError: the space is not right.
        LearnerError: no trial came to its end.
        StorageError: a trial could not be written down; the same call continues.
    """
    varied = space.make(settings, settings.search.space)
    store, moved = record.open_trials(run_dir, _digest(experiment, settings, varied))
    if moved:
        on_event("trials_moved_aside", to=moved)
    seed = settings.seed if settings.search.seed is None else settings.search.seed

    def told(trial: Tried, step: Step | None) -> None:
        on_change(trial, step)
        if step is None:
            on_event(
                "trial_done", trial=trial.number, state=trial.state, oof_waf=trial.objective, rounds=len(trial.steps)
            )

    recorder = Recorder(Suggestions(store, seed, varied, varied.given(settings)), store, told)
    left = settings.search.num_trials - sum(trial.state != "running" for trial in recorder.tried)
    if left > 0:
        _tune(experiment, settings, recorder, left)
    trials = tuple(recorder.tried)
    if not any(trial.state == "done" for trial in trials):
        reasons = "; ".join(f"trial {trial.number}: {trial.reason}" for trial in trials if trial.reason)
        raise LearnerError(
            f"none of {len(trials)} trials came to its end ({reasons or 'no reason is known'}); "
            f"mend it, delete {store} and give the same command again"
        )
    compared = choice.compare(experiment, settings.fit.folds, trials)
    return Searched(varied, trials, choice.best(trials, compared), compared)


class _InTrouble(tune.Stopper):  # type: ignore[misc]  # Ray has no types
    """Ends the search when its trials cannot be written down."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """See ``tune.Stopper``: no trial by itself."""
        return False

    def stop_all(self) -> bool:
        """See ``tune.Stopper``."""
        return self.recorder.trouble is not None


def fit_here(
    context: FitContext, trials: Sequence[Trial], on_done: Callable[[str], None]
) -> tuple[dict[str, Predictions], dict[str, str]]:
    """As ``trials.run``, in this process: a trial of a search has its worker already."""
    failed = {}
    for trial in trials:
        for attempt in range(_ATTEMPTS):
            if context.finished(trial) is not None:
                break
            try:
                context.work(trial)
                on_done(trial.folder)
            except Exception as error:  # noqa: BLE001 - as a dead worker of Tune: tried again, then told
                if attempt + 1 == _ATTEMPTS:
                    failed[trial.folder] = f"{type(error).__name__}: {error}"
    return {trial.folder: done for trial in trials if (done := context.finished(trial)) is not None}, failed


def _tune(experiment: Experiment, settings: TuneConfig, recorder: Recorder, num_trials: int) -> None:
    os.environ |= QUIET
    search = settings.search
    scratch = tempfile.mkdtemp(prefix="mer_ray_search_")
    work = tune.with_parameters(_work, experiment=experiment, settings=settings, trials=recorder.store)
    try:
        tuner = tune.Tuner(
            tune.with_resources(work, {"cpu": search.cpus, "gpu": search.gpus}),
            tune_config=tune.TuneConfig(
                search_alg=recorder,
                scheduler=_halving(settings, recorder.tried),
                num_samples=num_trials,
                max_concurrent_trials=search.concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=1),
                stop=_InTrouble(recorder),
                callbacks=[OnError(recorder)],
            ),
        )
        tuner.fit()
        if recorder.trouble is not None:
            raise recorder.trouble
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Halving(ASHAScheduler):  # type: ignore[misc]  # Ray has no types
    """ASHA over the rounds; trial 0, which the others are compared with, is mined to its end."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:  # noqa: ANN401
        """See ``ASHAScheduler``."""
        decision = super().on_trial_result(tune_controller, trial, result)
        return str(decision if trial.config["number"] or OOF in result else self.CONTINUE)


def _halving(settings: TuneConfig, trials: Sequence[Tried]) -> ASHAScheduler:
    """ASHA, told what the trials that have ended told at their rungs."""
    most = settings.mining.rounds + 1
    scheduler = _Halving(
        time_attr=_RUNG,
        metric=OBJECTIVE,
        mode="max",
        max_t=most,
        grace_period=min(settings.search.grace_rounds + 1, most),
        reduction_factor=settings.search.reduction,
    )
    for trial in trials:
        if trial.state != "running":
            known = SimpleNamespace(trial_id=folder_of(trial.number), config={"number": trial.number})
            scheduler.on_trial_add(None, known)
            for step in trial.steps:
                scheduler.on_trial_result(None, known, {_RUNG: step.round + 1, OBJECTIVE: step.objective})
    return scheduler


def _work(config: dict[str, Any], experiment: Experiment, settings: TuneConfig, trials: Store) -> None:
    """One trial: the whole mining loop, telling its objective after each round; with the last what it predicts."""
    objective = float("nan")
    last: dict[str, Any] = {}

    def tell(kind: str, **fields: Any) -> None:  # noqa: ANN401 - what the controller tells
        nonlocal objective, last
        if kind == "round_started" and last:
            tune.report(last)
        if kind == "round_done":
            objective = fields["oof_waf"] if fields["kept"] else objective
            step = {name: fields[name] for name in ("round", "oof_waf", "selected", "kept")}
            last = {**step, OBJECTIVE: objective, _RUNG: step["round"] + 1}

    chosen = space.apply(settings, config["values"])
    mined = Controller(experiment, chosen, trials / folder_of(config["number"]), on_event=tell, fit=fit_here).mine()
    label = mined.last.mean.label[experiment.labelled]
    tune.report({**last, OOF: " ".join(map(str, label.tolist()))})


def _digest(experiment: Experiment, settings: TuneConfig, varied: Space) -> str:
    """Of what suggestions and objectives depend on.

    How many trials there are to be does not change those made; ``include_test`` shows in the pool.
    """
    return configs.digest(
        {
            **identity.of(experiment, settings.fit),
            **settings.model_dump(mode="json", include={"learners"}),
            "mining": settings.mining.model_dump(mode="json", exclude={"include_test"}),
            "space": repr(varied),
            "search": settings.search.model_dump(mode="json", include={"seed", "grace_rounds", "reduction"}),
        }
    )

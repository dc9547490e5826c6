"""What mining is worth: a tenth of the labels is kept, the other training clips are the pool.

JSON, under ``sets.<set>.<column>``: ``mean`` and ``std`` of the WAF on the given test clips over the seeds, and
``values``, one per seed. The columns:

- ``labelled_only``: the learners' ensemble of the kept labels alone;
- ``mined``: after mining, all as shipped; ``mined_<strategy>``: the same by another selection strategy;
- ``mined_inductive``, where speakers are known: as ``mined``, but test clips have no say in how the inputs are
  standardised: a speaker of whom there are no others is by the whole, as by ``predict.new_speakers=whole``;
- ``candidate_<name>``, where mining chooses (``mining.strategy=auto``): each that it chose from;
- ``labelled_choice``, there too: of the candidates that know the labels alone, the best out of fold;
- ``all_labels``: the learners' ensemble of every training label;
- ``logistic``, ``lda``, ``self_training``, ``label_spreading``: scikit-learn's logistic regression and discriminant
  analysis (Ledoit and Wolf's shrinkage) of the kept labels on all features side by side, standardised by the labelled
  clips, ``SelfTrainingClassifier`` on the first, and ``LabelSpreading`` over nearest neighbours; one label a class is
  too few for an ``lda``;
- ``logistic_scaled`` and so on: the same on the inputs that our learners chose out of fold.

Beside them, under ``sets.<set>``: ``paired``, by column, the ``mean`` and ``standard_error`` of its difference to
``labelled_only``, seed by seed; ``gain``, by how much mining raised the WAF ``out_of_fold`` and on ``test``, in the
mean of the seeds: where mining chooses, ``out_of_fold`` is judged by clips that had no say in the choice, and is null
where a class has too few labels; ``gap_closed``, the share of the way from ``labelled_only`` to ``all_labels`` that
``mined`` goes; ``standardised`` and ``chosen``, what was, one per seed; ``seconds``, the time of each seed. Every
hyper-parameter is the shipped default or the job's own; a test clip is looked at once, after all that is chosen is
chosen.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import ray
from numpy.typing import NDArray
from pydantic import Field, field_validator
from rich.console import Console
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from mer_ray import config as configs
from mer_ray import registry
from mer_ray.benchmarks import real_sets
from mer_ray.benchmarks.harness import table
from mer_ray.benchmarks.real_sets import Form, RealSet
from mer_ray.config import FitConfig, MineConfig, MiningConfig, RuntimeConfig, Section
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError
from mer_ray.evaluation.metrics import waf
from mer_ray.learners.experiment import Experiment
from mer_ray.learners.learner import Predictions, fit_learner
from mer_ray.learners.scaling import Scaling
from mer_ray.registry import nearest
from mer_ray.runtime.session import session
from mer_ray.tune.candidates import PLAIN
from mer_ray.tune.controller import Controller
from mer_ray.tune.mined import Mined
from mer_ray.tune.trials import FitContext, Trial

_MOST_STEPS = 1000


class Config(Section):
    """Which sets, and what to mine by."""

    data: str = Field(description="folder of the sets' .npz files, see docs/benchmarks.md")
    sets: dict[str, Form | None] = Field(
        dict.fromkeys([*real_sets.FORMS, *real_sets.MADE]),
        min_length=1,
        description="which, a list of names; or sets.NAME={file, modalities, label, speaker, split} of your own",
    )
    seeds: list[int] = Field([0, 1, 2, 3, 4], min_length=1, description="draws of the labels that are kept")
    fraction: float = Field(0.1, gt=0, lt=1, description="share of the training labels that is kept")
    labels_per_class: int | None = Field(None, ge=1, description="labels of each class that are kept, not a share")
    strategies: list[str] = Field(
        default_factory=lambda: registry.names("mining"), description="strategies beside the shipped default"
    )
    fit: FitConfig = FitConfig()
    mining: MiningConfig = MiningConfig()
    ensemble: Literal["mode", "mean"] = MineConfig.model_fields["ensemble"].default

    @field_validator("sets", mode="before")
    @classmethod
    def _names_alone(cls, given: Any) -> Any:  # noqa: ANN401 - whatever a command line holds
        return dict.fromkeys(given) if isinstance(given, list) else given


def run(settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Measure every set; prints a table of each as it is done.

    Raises:
        ConfigError, PluginError: an unknown set or strategy.
        FeatureFileError: a set's file is missing or damaged.
    """
    _check(settings)
    sets = [real_sets.read(settings.data, name, form) for name, form in settings.sets.items()]
    with session(RuntimeConfig()):
        yield from measure(sets, settings, console)


def measure(sets: Sequence[RealSet], settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """The figures, each time with one set more; every draw is a task of Ray, which is running."""
    task, shared = ray.remote(num_cpus=1)(draw), ray.put(settings)
    places = {one.name: ray.put(one) for one in sets}
    found = {name: [task.remote(place, shared, seed) for seed in settings.seeds] for name, place in places.items()}
    figures: dict[str, Any] = {}
    for name, draws in found.items():
        figures[name] = _summary(ray.get(draws))
        _print(name, figures[name], console)
        yield {"sets": figures}


def _check(settings: Config) -> None:
    known = [*real_sets.FORMS, *real_sets.MADE]
    for name, form in settings.sets.items():
        if form is None and name not in known:
            raise ConfigError(f"sets: no set {name!r}{nearest(name, known)}; there are: {', '.join(known)}")
    for strategy in settings.strategies:
        registry.find("mining", strategy)


@dataclass
class Draw:
    """One draw of the labels that are kept: what was scored of it.

    Attributes:
        waf: test WAF by column.
        oof_gain: by how much mining raised the WAF out of fold, over round 0; None where that cannot be said.
        standardised: how the inputs of the learners were standardised.
        chosen: the candidate that was; None where there is no choice.
        seconds: that all of it took.
    """

    waf: dict[str, float] = field(default_factory=dict)
    oof_gain: float | None = None
    standardised: str = ""
    chosen: str | None = None
    seconds: float = 0.0


def draw(one: RealSet, settings: Config, seed: int) -> Draw:
    """Score every column of one set and seed."""
    started, drawn, fits = time.monotonic(), Draw(), Fits()
    rows = np.flatnonzero(one.test)

    def score(label: NDArray[np.int64]) -> float:
        return waf(one.truth[rows], label[rows])

    def mine(
        experiment: Experiment, mining: MiningConfig, column: str, fit: FitConfig = settings.fit
    ) -> tuple[Controller, Mined]:
        job = MineConfig(seed=seed, fit=fit, mining=mining, ensemble=settings.ensemble)
        with tempfile.TemporaryDirectory() as folder:
            controller = Controller(experiment, job, Store(folder), fit=fits)
            mined = controller.mine()
        drawn.waf[column] = score(mined.final.label)
        return controller, mined

    shipped, alone = settings.mining, settings.mining.model_copy(update={"rounds": 0})
    few = one.experiment(settings.fraction, seed, settings.labels_per_class)
    labelled, _ = mine(few, alone, "labelled_only")
    controller, mined = mine(few, shipped, "mined")
    drawn.oof_gain = oof_gain(mined)
    drawn.waf |= {f"candidate_{name}": score(answer.label) for name, answer in mined.answers.items()}
    if mined.choice is not None:
        drawn.waf["labelled_choice"] = score(mined.answers[best_of_labels(controller, mined)].label)
        drawn.chosen = mined.choice.name
    if any(one.speakers):
        drawn.waf["mined_inductive"] = drawn.waf["mined"]
        if controller.experiment is not few:
            alike = settings.fit.model_copy(update={"standardise": "fold"})
            mine(without_test(one, few, settings.fit.shrink), shipped, "mined_inductive", alike)
    for strategy in settings.strategies:
        options = shipped.options if strategy == shipped.strategy else {}
        mining = shipped.model_copy(update={"strategy": strategy, "options": options})
        mine(few, mining, f"mined_{strategy}")
    mine(one.experiment(1.0, seed), alone, "all_labels")
    for suffix, experiment in (("", few), ("_scaled", labelled.experiment)):
        drawn.waf |= {f"{peer}{suffix}": score(label) for peer, label in references(experiment).items()}
    drawn.standardised = "fold" if labelled.experiment is few else labelled.ways[-1]
    drawn.seconds = time.monotonic() - started
    return drawn


def oof_gain(mined: Mined) -> float | None:
    """By how much mining raised the WAF out of fold, by clips that had no say in it; None where nothing can be said."""
    if mined.choice is None:
        return mined.last.oof_waf - mined.rounds[0].oof_waf
    nested = mined.choice.oof_waf
    return None if nested is None else nested - mined.choice.judged[PLAIN].oof_waf


def best_of_labels(controller: Controller, mined: Mined) -> str:
    """Of the candidates that know the labels alone the best out of fold."""
    assert mined.choice is not None
    judged = mined.choice.judged
    return max((name for name in judged if name not in controller.who.candidates), key=lambda one: judged[one].oof_waf)


def without_test(one: RealSet, few: Experiment, shrink: float) -> Experiment:
    """The experiment with inputs standardised by speaker, in which test clips have no say."""
    known = np.flatnonzero(~one.test)
    speakers = [one.speakers[row] for row in known]
    scaling = Scaling.learn(few.features.take(known), speakers, "speaker", shrink, few.seed)
    return replace(few, features=scaling.apply(few.features, few.speakers, join=False))


class Fits:
    """Fits learners one after another in this process; of what several ways of mining begin with, each only once."""

    def __init__(self) -> None:
        self.made: dict[str, Predictions] = {}

    def __call__(
        self, context: FitContext, trials: Sequence[Trial], on_done: Callable[[str], None]
    ) -> tuple[dict[str, Predictions], dict[str, str]]:
        """As ``tune.trials.run``; a learner that fails ends the benchmark."""
        found = {}
        for trial in trials:
            found[trial.folder] = self._fit(context, trial)
            on_done(trial.folder)
        return found, {}

    def _fit(self, context: FitContext, trial: Trial) -> Predictions:
        data, learner = context.experiment, trial.learner
        values = [hashlib.sha256(feature.values.tobytes()).hexdigest() for feature in data.features.features]
        key = trial.digest(configs.digest({"values": values, "fit": context.fit.model_dump(mode="json")}))
        if key not in self.made:
            fit = context.fit
            fitted = fit_learner(data.features, trial.folds, learner, fit, data.class_names, data.seed, final=fit.final)
            self.made[key] = fitted.predict(data.features)
        return self.made[key]


def references(experiment: Experiment) -> dict[str, NDArray[np.int64]]:
    """What scikit-learn's models say of each clip, int64 (N,), by the name of their columns.

    They read all features side by side, standardised by the labelled clips, every clip having every feature.
    """
    values_ND = np.concatenate([feature.values for feature in experiment.features.features], axis=1)
    labels, labelled, seen = experiment.labels, experiment.labels >= 0, (experiment.labels >= 0) | experiment.pool
    scaled_ND = StandardScaler().fit(values_ND[labelled]).transform(values_ND)
    logistic = LogisticRegression(max_iter=_MOST_STEPS)
    models = {
        "logistic": (logistic, labelled),
        "lda": (LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"), labelled),
        "self_training": (SelfTrainingClassifier(logistic), seen),
        "label_spreading": (LabelSpreading(kernel="knn"), seen),
    }
    if labelled.sum() <= len(experiment.class_names):
        del models["lda"]  # it needs a clip more than there are classes
    return {name: model.fit(scaled_ND[rows], labels[rows]).predict(scaled_ND) for name, (model, rows) in models.items()}


def _summary(draws: Sequence[Draw]) -> dict[str, Any]:
    """A set's figures of all its draws."""
    columns: dict[str, Any] = {}
    for column in draws[0].waf:
        values = [draw.waf[column] for draw in draws]
        columns[column] = {"mean": float(np.mean(values)), "std": float(np.std(values)), "values": values}
    least, most = columns["labelled_only"]["mean"], columns["all_labels"]["mean"]
    gains = [draw.oof_gain for draw in draws if draw.oof_gain is not None]
    return {
        **columns,
        "paired": {column: _paired([d.waf[column] - d.waf["labelled_only"] for d in draws]) for column in columns},
        "gain": {
            "out_of_fold": float(np.mean(gains)) if len(gains) == len(draws) else None,
            "test": columns["mined"]["mean"] - least,
        },
        "gap_closed": (columns["mined"]["mean"] - least) / (most - least) if most > least else None,
        "standardised": [draw.standardised for draw in draws],
        "chosen": [draw.chosen for draw in draws],
        "seconds": [draw.seconds for draw in draws],
    }


def _paired(differences: Sequence[float]) -> dict[str, float | None]:
    """Their mean and its standard error, which one alone does not have."""
    count = len(differences)
    error = float(np.std(differences, ddof=1) / np.sqrt(count)) if count > 1 else None
    return {"mean": float(np.mean(differences)), "standard_error": error}


def _print(name: str, figures: dict[str, Any], console: Console) -> None:
    paired = figures["paired"]
    rows = [
        [column, figures[column]["mean"], figures[column]["std"], told["mean"], told["standard_error"] or 0.0]
        for column, told in paired.items()
    ]
    closed = figures["gap_closed"]
    told = "no gap to all labels" if closed is None else f"mining closes {closed:.0%} of the gap to all labels"
    table(console, f"{name}: test WAF; {told}", ["column", "mean", "std", "to labels alone", "±"], rows)

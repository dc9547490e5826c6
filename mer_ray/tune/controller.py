"""The mining loop (P1 section 2.5, P3 section 3.5): fit, vote, guard, select, round after round, on Ray Tune.

A round goes through explicit states, and every state is known by its artifacts in ``rounds/NN``: killed anywhere, the
same call makes what is missing and comes to the same result.

Mining runs fold by fold (DESIGN section 3): the models of fold f vote on the pool, and what they agree on trains the
models of fold f alone, so that the labels held out of fold f never come back to it through the pool.

Shapes: K learners, F folds, N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mer_ray import config as configs
from mer_ray import registry
from mer_ray.config import LearnerConfig, MineConfig
from mer_ray.data.storage import Store
from mer_ray.errors import LearnerError
from mer_ray.evaluation.metrics import paired_noise, waf
from mer_ray.learners import folds as folding
from mer_ray.learners import spec
from mer_ray.learners.experiment import Experiment
from mer_ray.learners.fit import TrainingRows
from mer_ray.learners.learner import Predictions
from mer_ray.rounds import ensemble
from mer_ray.rounds.ensemble import Ensemble
from mer_ray.rounds.split import Adoptions, adopt
from mer_ray.rounds.state import Rounds, name_of, open_rounds
from mer_ray.tune.trials import Bench, Trial, run

OnEvent = Callable[..., None]
OnFit = Callable[[str], None]


@dataclass(frozen=True)
class Round:
    """One round of mining.

    Attributes:
        number: 0 is the labelled data alone.
        learners: those that voted, best first by out-of-fold WAF.
        learner_waf: out-of-fold WAF of each.
        oof_waf: of the mean of their probabilities, on the labelled clips.
        mean: of their votes on every clip.
        votes: by learner, probabilities (N, C), out of fold for labelled clips, NaN where it abstains.
        weights: by learner, how much each of its features counted, (N, features of the learner).
        trained_on: the pseudo-labels that it was trained on, of all earlier rounds.
        selected: what its votes adopt for the next round.
        kept: False when the guard dropped it.
        reason: why mining goes on, ends, or drops the round.
    """

    number: int
    learners: tuple[str, ...]
    learner_waf: Mapping[str, float]
    oof_waf: float
    mean: Ensemble
    votes: Mapping[str, NDArray[np.float64]]
    weights: Mapping[str, NDArray[np.float64]]
    trained_on: Adoptions
    selected: Adoptions
    kept: bool
    reason: str


@dataclass(frozen=True)
class Mined:
    """The result of the loop.

    Attributes:
        rounds: every round fitted, the dropped one included.
        final: the ensemble of the last round kept.
        learners: every learner's config, by name.
        folds: how the labelled clips were held out.
    """

    rounds: tuple[Round, ...]
    final: Ensemble
    learners: Mapping[str, LearnerConfig]
    folds: folding.Folds

    @property
    def last(self) -> Round:
        """The last round kept."""
        return [one for one in self.rounds if one.kept][-1]


@dataclass(frozen=True)
class Ablations:
    """What the parts are worth.

    Attributes:
        modalities: by modality, the predictions (N,) of one learner with that modality alone, on the labelled data.
        control: predictions (N,) of the last round's ensemble refitted with its pseudo-labels shuffled; None when no
            clip was adopted.
    """

    modalities: Mapping[str, NDArray[np.int64]]
    control: NDArray[np.int64] | None


class Controller:
    """Drives one experiment. Ray is running.

    Args:
        experiment: the data.
        settings: the job's; learners, fit, mining and ensemble are read.
        run_dir: where ``rounds/`` is.
        on_event: told each change of state: its name and fields.
        on_fit: told the folder of each learner as it is fitted.

    Raises:
        ConfigError, PluginError: a learner or the strategy is not right.
    """

    def __init__(
        self,
        experiment: Experiment,
        settings: MineConfig,
        run_dir: Store,
        on_event: OnEvent = lambda kind, **fields: None,
        on_fit: OnFit = lambda folder: None,
    ) -> None:
        self.experiment = experiment
        self.settings = settings
        self.on_event = on_event
        self.on_fit = on_fit
        learners = spec.resolve(settings.learners, experiment.features, settings.fit, len(experiment.class_names))
        self.learners = {learner.name: learner for learner in learners}
        self.strategy = registry.build("mining", settings.mining.strategy, settings.mining.options)
        rows = experiment.labelled
        speakers = [experiment.speakers[row] for row in rows]
        self.folds = folding.make(experiment.labels[rows], speakers, settings.fit.folds, experiment.seed)
        self.held_out = np.full(len(experiment.labels), -1, dtype=np.int64)
        self.held_out[rows] = self.folds.held_out
        digest = self._digest()
        rounds, moved = open_rounds(run_dir, digest)
        if moved:
            on_event("rounds_moved_aside", to=moved)
        self.bench = Bench(experiment, settings.fit, rounds, digest)

    @property
    def rounds(self) -> Rounds:
        """The run directory's rounds."""
        return self.bench.rounds

    def mine(self) -> Mined:
        """Round 0, then rounds of mining until nothing is adopted, the guard stops, or ``mining.rounds`` are done.

        Raises:
            LearnerError: a learner failed twice, and ``mining.on_failure`` is ``refuse`` or too few are left.
        """
        done: list[Round] = []
        trained_on = Adoptions.none()
        while True:
            number = len(done)
            self.on_event("round_started", round=number, pseudo_labels=len(trained_on))
            one = self._round(number, trained_on, done)
            done.append(one)
            self._record(one)
            if not one.kept or not len(one.selected) or number == self.settings.mining.rounds:
                break
            trained_on = trained_on.join(one.selected)
        last = [one for one in done if one.kept][-1]
        return Mined(tuple(done), self._combine(last.votes, last.learners), self.learners, self.folds)

    def ablate(self, mined: Mined) -> Ablations:
        """Fit each modality alone on the labelled data, and the last round's learners on shuffled pseudo-labels."""
        features = self.experiment.features.features
        by_modality: dict[str, list[str]] = {}
        for feature in features:
            by_modality.setdefault(feature.modality, []).append(feature.name)
        trials = [
            self._trial(f"ablations/only_{modality}", LearnerConfig(name=f"only_{modality}", features=names), None)
            for modality, names in by_modality.items()
        ]
        last = mined.last
        shuffled = last.trained_on.shuffled(self.experiment.seed)
        if len(shuffled):
            trials += [
                self._trial(f"ablations/control_{name}", self.learners[name], shuffled) for name in last.learners
            ]
        predictions, failed = run(self.bench, trials, self.on_fit)
        if failed:
            raise LearnerError(f"ablations: {_tell(failed)}")
        alone = {
            modality: self._combine({"": self._votes(predictions[f"ablations/only_{modality}"])}, [""]).label
            for modality in by_modality
        }
        control = None
        if len(shuffled):
            votes = {name: self._votes(predictions[f"ablations/control_{name}"]) for name in last.learners}
            control = self._combine(votes, last.learners).label
        return Ablations(alone, control)

    def _round(self, number: int, trained_on: Adoptions, earlier: Sequence[Round]) -> Round:
        """Fit, vote, guard, select."""
        folder = name_of(number)
        trials = [self._trial(f"{folder}/{name}", learner, trained_on) for name, learner in self.learners.items()]
        predictions, failed = run(self.bench, trials, self.on_fit)
        self._refuse(number, failed)
        found = {name: predictions[f"{folder}/{name}"] for name in self.learners if f"{folder}/{name}" in predictions}
        votes = {name: self._votes(prediction) for name, prediction in found.items()}
        learner_waf = {name: self._oof_waf(vote.copy()) for name, vote in votes.items()}
        ranking = sorted(votes, key=lambda name: -learner_waf[name])
        mean = ensemble.combine("mean", np.stack(list(votes.values())), range(len(votes)), self.experiment.prior)
        oof_waf = self._waf(mean.label)
        kept, reason = self._guard(number, mean.label, earlier)
        selected = Adoptions.none()
        if kept and number < self.settings.mining.rounds:
            selected = self._select(number, found, trained_on)
            if not len(selected):
                reason = "nothing new was adopted: mining ends"
        weights = {name: prediction.clean(self.held_out)[1] for name, prediction in found.items()}
        return Round(
            number, tuple(ranking), learner_waf, oof_waf, mean, votes, weights, trained_on, selected, kept, reason
        )

    def _trial(self, folder: str, learner: LearnerConfig, pseudo: Adoptions | None) -> Trial:
        """A learner with its training rows per fold: the labelled clips of the other folds and its own adoptions."""
        rows = self.experiment.labelled
        index = list(self.learners).index(learner.name) if learner.name in self.learners else -1
        folds = []
        for fold in range(self.folds.num_folds):
            clip = rows[self.folds.held_out != fold]
            own = pseudo.of(fold, index) if pseudo is not None else Adoptions.none()
            folds.append(TrainingRows(clip, self.experiment.labels[clip], own.clip, own.label))
        return Trial(folder, learner, tuple(folds))

    def _select(self, number: int, found: Mapping[str, Predictions], trained_on: Adoptions) -> Adoptions:
        votes_KFNC = np.stack([prediction.probabilities_FNC for prediction in found.values()])
        places = [list(self.learners).index(name) for name in found]
        chosen = adopt(
            self.strategy,
            votes_KFNC,
            self.experiment.pool,
            trained_on,
            round_number=number,
            seed=self.experiment.seed,
        )
        return chosen.with_learners(np.array(places, dtype=np.int64))

    def _guard(self, number: int, label: NDArray[np.int64], earlier: Sequence[Round]) -> tuple[bool, str]:
        """Whether the round is kept, and why: out of fold it may fall below the best by what is noise, no more."""
        if not earlier:
            return True, "labelled clips alone"
        best = max(earlier, key=lambda one: one.oof_waf)
        rows, mining = self.experiment.labelled, self.settings.mining
        truth = self.experiment.labels[rows]
        noise = paired_noise(truth, label[rows], best.mean.label[rows], self.experiment.seed)
        allowed = max(mining.guard_tolerance, noise)
        fall = best.oof_waf - self._waf(label)
        told = f"out-of-fold WAF {self._waf(label):.4f}, best before {best.oof_waf:.4f}"
        if mining.guard and fall > allowed:
            return False, f"{told}: it fell by more than {allowed:.4f}, mining stops and drops this round"
        return True, f"{told}" + (": the last round asked for" if number == mining.rounds else "")

    def _refuse(self, number: int, failed: Mapping[str, str]) -> None:
        if not failed:
            return
        self.on_event("learners_failed", round=number, learners=dict(failed))
        left = len(self.learners) - len(failed)
        if self.settings.mining.on_failure == "refuse" or not left:
            raise LearnerError(
                f"round {number}: {_tell(failed)}. Mend it and give the same command again, or set "
                "mining.on_failure=quorum to go on with the learners that are left"
            )

    def _record(self, one: Round) -> None:
        """Write the round's tables and figures."""
        experiment = self.experiment
        free = np.flatnonzero(experiment.labels < 0)
        ids = [experiment.features.clip_ids[row] for row in free]
        votes = {name: vote[free] for name, vote in one.votes.items()}
        names = experiment.class_names
        self.rounds.write_votes(one.number, ids, names, votes)
        self.rounds.write_selected(one.number, one.selected, experiment.features.clip_ids, names, list(self.learners))
        figures = {
            "round": one.number,
            "oof_waf": one.oof_waf,
            "learners": dict(one.learner_waf),
            "selected": num_clips(one.selected),
            "selected_by_fold": np.bincount(one.selected.fold, minlength=self.folds.num_folds).tolist(),
            "trained_on": num_clips(one.trained_on),
            "kept": one.kept,
            "reason": one.reason,
        }
        self.rounds.write_metrics(one.number, figures)
        self.on_event("round_done", **{key: figures[key] for key in ("round", "oof_waf", "selected", "kept", "reason")})

    def _votes(self, prediction: Predictions) -> NDArray[np.float64]:
        return prediction.clean(self.held_out)[0]

    def _combine(self, votes: Mapping[str, NDArray[np.float64]], ranking: Sequence[str]) -> Ensemble:
        order = [list(votes).index(name) for name in ranking]
        return ensemble.combine(self.settings.ensemble, np.stack(list(votes.values())), order, self.experiment.prior)

    def _oof_waf(self, votes_NC: NDArray[np.float64]) -> float:
        """A learner's WAF on the labelled clips; where it abstains it answers with the commonest class."""
        return self._waf(np.where(np.isnan(votes_NC), self.experiment.prior, votes_NC).argmax(axis=1))

    def _waf(self, label: NDArray[np.int64]) -> float:
        rows = self.experiment.labelled
        return waf(self.experiment.labels[rows], label[rows])

    def _digest(self) -> str:
        """Of what the rounds depend on; how many there are to be does not change those that are made."""
        experiment = self.experiment
        return configs.digest(
            {
                "features": experiment.features_digest,
                "labels": experiment.labels.tolist(),
                "folds": self.folds.held_out.tolist(),
                "pool": experiment.pool.tolist(),
                "classes": list(experiment.class_names),
                "seed": experiment.seed,
                "learners": [learner.model_dump(mode="json") for learner in self.learners.values()],
                "fit": self.settings.fit.model_dump(mode="json"),
                "mining": self.settings.mining.model_dump(mode="json", exclude={"rounds", "on_failure"}),
            }
        )


def num_clips(adoptions: Adoptions) -> int:
    """How many different clips were adopted, in whatever folds."""
    return len(np.unique(adoptions.clip))


def _tell(failed: Mapping[str, str]) -> str:
    return "; ".join(f"learner {folder.rpartition('/')[2]} failed twice ({error})" for folder, error in failed.items())

"""The mining loop (P1 section 2.5, P3 section 3.5): fit, vote, guard, select, round after round, on Ray Tune.

Before it, where the config leaves that open, the way to standardise features is chosen by fitting round 0 on each.

A round goes through explicit states, and every state is known by its artifacts in ``rounds/NN``: killed anywhere, the
same call makes what is missing and comes to the same result.

Mining runs fold by fold (DESIGN section 3): the models of fold f vote on the pool, and what they agree on trains the
models of fold f alone, so that the labels held out of fold f never come back to it through the pool.

Shapes: K learners, F folds, N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mer_ray import config as configs
from mer_ray import registry
from mer_ray.config import LearnerConfig, MineConfig
from mer_ray.data.storage import Store
from mer_ray.errors import LearnerError
from mer_ray.learners import folds as folding
from mer_ray.learners import select, spec
from mer_ray.learners.experiment import Experiment
from mer_ray.learners.fit import TrainingRows
from mer_ray.learners.learner import Predictions
from mer_ray.rounds import ensemble
from mer_ray.rounds.ensemble import Ensemble
from mer_ray.rounds.split import Adoptions, first_adopted
from mer_ray.rounds.state import Rounds, name_of, open_rounds
from mer_ray.tune import identity, standardise
from mer_ray.tune.council import Council, Heard
from mer_ray.tune.standardise import Way
from mer_ray.tune.trials import Bench, Trial, run

OnEvent = Callable[..., None]
OnFit = Callable[[str], None]
Fit = Callable[[Bench, Sequence[Trial], OnFit], tuple[dict[str, Predictions], dict[str, str]]]


@dataclass(frozen=True)
class Round:
    """One round of mining.

    Attributes:
        number: 0 is the labelled data alone.
        learners: those that voted, best first by out-of-fold WAF.
        learner_waf: out-of-fold WAF of each.
        oof_waf: of the mean of their probabilities, on the labelled clips.
        mean: of their votes on every clip.
        votes: by learner, probabilities (N, C), out of fold for labelled clips, NaN where it abstains; tempered.
        weights: by learner, how much each of its features counted, (N, features of the learner).
        temperatures: by learner, what its votes were tempered by in each fold.
        valence: by learner, what it says of valence (N,), as ``votes``; empty where that is not learnt.
        trained_on: the pseudo-labels that it was trained on, of all earlier rounds, or by ``relabel=revisit`` of the
            round before.
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
    temperatures: Mapping[str, tuple[float, ...]]
    valence: Mapping[str, NDArray[np.float64]]
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
        valence: what the same learners say of it in the mean (N,); None where it is not learnt.
        learners: every learner's config, by name.
        folds: how the labelled clips were held out.
    """

    rounds: tuple[Round, ...]
    final: Ensemble
    valence: NDArray[np.float64] | None
    learners: Mapping[str, LearnerConfig]
    folds: folding.Folds

    @property
    def last(self) -> Round:
        """The last round kept."""
        return [one for one in self.rounds if one.kept][-1]

    @property
    def adopted(self) -> NDArray[np.int64]:
        """The round whose votes first adopted each clip, for a round that was kept, int64 (N,); -1 where none did."""
        return first_adopted((one.trained_on for one in self.rounds if one.kept), len(self.final.label))


class Controller:
    """Drives one experiment. Ray is running.

    Args:
        experiment: the data.
        settings: the job's; learners, fit, mining and ensemble are read.
        run_dir: where ``rounds/`` is.
        on_event: told each change of state: its name and fields.
        on_fit: told the folder of each learner as it is fitted.
        fit: how learners are fitted, ``trials.run`` unless given.

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
        fit: Fit | None = None,
    ) -> None:
        self.settings = settings
        self.on_event = on_event
        self.on_fit = on_fit
        self.fit = fit or run
        learners = spec.resolve(settings.learners, experiment.features, settings.fit, len(experiment.class_names))
        self.strategy = registry.build("mining", settings.mining.strategy, settings.mining.options)
        rows = experiment.labelled
        speakers = [experiment.speakers[row] for row in rows]
        self.folds = folding.make(experiment.labels[rows], speakers, settings.fit.folds, experiment.seed)
        narrowed = select.narrow(learners, experiment.features, experiment.labels, self.folds)
        self.learners = {learner.name: learner for learner in narrowed}
        self.council = Council(experiment, self.folds, settings.mining, settings.ensemble)
        self.folds = replace(self.folds, warnings=self.folds.warnings + self.council.pools[1])
        self.ways = standardise.ways(settings.fit.standardise, experiment.speakers)
        digest = self._digest(experiment)
        rounds, moved = open_rounds(run_dir, digest)
        if moved:
            on_event("rounds_moved_aside", to=moved)
        self.bench = Bench(experiment, settings.fit, rounds, digest)

    @property
    def rounds(self) -> Rounds:
        """The run directory's rounds."""
        return self.bench.rounds

    @property
    def experiment(self) -> Experiment:
        """The data, their features standardised once ``mine`` has chosen how."""
        return self.bench.experiment

    def mine(self) -> Mined:
        """Round 0, then rounds of mining until nothing is adopted, the guard stops, or ``mining.rounds`` are done.

        Raises:
            LearnerError: a learner failed twice, and ``mining.on_failure`` is ``refuse`` or too few are left.
        """
        self._standardise()
        done: list[Round] = []
        trained_on = self.nothing
        while True:
            number = len(done)
            self.on_event("round_started", round=number, pseudo_labels=len(trained_on))
            one = self._round(number, trained_on, done)
            done.append(one)
            self._record(one)
            if not one.kept or not len(one.selected) or number == self.settings.mining.rounds:
                break
            trained_on = one.selected if self.strategy.config.relabel == "revisit" else trained_on.join(one.selected)
        return self._finish(done)

    def _standardise(self) -> None:
        """Choose how, hold the features so, and put the fits that this took where round 0 looks for them.

        The second way is taken where it is better out of fold by more than the noise, paired over folds.
        """
        plain, asked = self.bench, self.settings.fit
        benches = {way: standardise.prepare(plain, way, asked) for way in self.ways}
        chosen = self.ways[-1]
        if len(self.ways) == 2:
            labels = {way: self._try(way, bench) for way, (bench, _) in benches.items()}
            compared = self.council.compare(labels[chosen], labels["fold"])
            figures = {"oof_waf": {"fold": compared.baseline, chosen: compared.waf}, "noise": compared.noise}
            chosen = chosen if compared.gain > compared.noise else "fold"
            self.rounds.write_standardised({"chosen": chosen, **figures})
            self.on_event("standardised", chosen=chosen, **figures)
        self.bench, scaling = benches[chosen]
        if scaling is not None:
            self.rounds.store.write(standardise.FILE, scaling.to_bytes())
        if len(self.ways) == 2:
            trials = self._trials(name_of(0), self.nothing)
            self._copy(trials, chosen)
            found = {one.folder: made for one in trials if (made := self.bench.finished(one)) is not None}
            self._copy(self._students(name_of(0), self.nothing, found)[0], chosen)

    def _copy(self, trials: Sequence[Trial], way: Way) -> None:
        """Give trials of round 0 the fits that were made to choose how to standardise."""
        for trial in trials:
            source = replace(trial, folder=f"standardise/{way}/{trial.learner.name}")
            if self.bench.finished(trial) is None and self.bench.finished(source) is not None:
                self.rounds.copy_learner(source.folder, trial.folder)
                self.on_fit(trial.folder)

    def _fit(
        self, bench: Bench, folder: str, pseudo: Adoptions, on_fit: OnFit
    ) -> tuple[dict[str, Predictions], dict[str, str]]:
        """All learners of a round, students after their teachers: predictions and errors by folder."""
        found, failed = self.fit(bench, self._trials(folder, pseudo), on_fit)
        students, untaught = self._students(folder, pseudo, found)
        more, lost = self.fit(bench, students, on_fit) if students else ({}, {})
        return {**found, **more}, {**failed, **untaught, **lost}

    def _students(
        self, folder: str, pseudo: Adoptions, found: Mapping[str, Predictions]
    ) -> tuple[list[Trial], dict[str, str]]:
        """Trials of the learners that have a teacher, from its predictions; errors of those whose teacher failed."""
        trials, untaught = [], {}
        for learner in self.learners.values():
            place = f"{folder}/{learner.name}"
            if learner.teacher is not None and f"{folder}/{learner.teacher}" in found:
                said_FNC = found[f"{folder}/{learner.teacher}"].probabilities_FNC
                trials.append(self.trial(place, learner, pseudo, said_FNC))
            elif learner.teacher is not None:
                untaught[place] = f"its teacher {learner.teacher} failed"
        return trials, untaught

    def _try(self, way: Way, bench: Bench) -> NDArray[np.int64]:
        """What the mean of all learners fitted on the labelled clips says of every clip, (N,)."""
        found, failed = self._fit(bench, f"standardise/{way}", self.nothing, lambda folder: None)
        self._refuse(0, failed)
        heard = {name: self.council.hear(prediction) for name, prediction in _by_learner(found).items()}
        return self.council.mean({name: heard[name].votes for name in self.learners if name in heard}).label

    def _round(self, number: int, trained_on: Adoptions, earlier: Sequence[Round]) -> Round:
        """Fit, vote, guard, select."""
        predictions, failed = self._fit(self.bench, name_of(number), trained_on, self.on_fit)
        self._refuse(number, failed)
        found = _by_learner(predictions)
        heard = {name: self.council.hear(found[name]) for name in self.learners if name in found}
        votes = {name: one.votes for name, one in heard.items()}
        learner_waf = {name: self.council.oof_waf(vote) for name, vote in votes.items()}
        ranking = sorted(votes, key=lambda name: -learner_waf[name])
        mean = self.council.mean(votes)
        kept, reason = self._guard(number, mean.label, earlier)
        selected = self.nothing
        if kept and number < self.settings.mining.rounds:
            selected = self._select(number, heard, trained_on)
            if not len(selected):
                reason = "nothing new was adopted: mining ends"
        weights = {name: found[name].clean(self.council.held_out)[1] for name in votes}
        valence = {name: found[name].clean_valence(self.council.held_out) for name in votes}
        return Round(
            number=number,
            learners=tuple(ranking),
            learner_waf=learner_waf,
            oof_waf=self.council.waf(mean.label),
            mean=mean,
            votes=votes,
            weights=weights,
            temperatures={name: one.temperatures for name, one in heard.items()},
            valence={name: said for name, said in valence.items() if said is not None},
            trained_on=trained_on,
            selected=selected,
            kept=kept,
            reason=reason,
        )

    def _trials(self, folder: str, pseudo: Adoptions) -> list[Trial]:
        """The trials of a round of the learners that have no teacher."""
        plain = {name: learner for name, learner in self.learners.items() if learner.teacher is None}
        return [self.trial(f"{folder}/{name}", learner, pseudo) for name, learner in plain.items()]

    def trial(
        self, folder: str, learner: LearnerConfig, pseudo: Adoptions, taught_FNC: NDArray[np.float32] | None = None
    ) -> Trial:
        """A learner with its training rows per fold: the labelled clips of the other folds and its own adoptions.

        Args:
            folder: of its artifacts.
            learner: what it is.
            pseudo: what was adopted.
            taught_FNC: a student's teacher's answers; those for a fold's pool, its adoptions left out, are trained on.
        """
        rows = self.experiment.labelled
        index = list(self.learners).index(learner.name) if learner.name in self.learners else -1
        folds = []
        for fold in range(self.folds.num_folds):
            clip = rows[self.folds.held_out != fold]
            own = pseudo.of(fold, index)
            pool = self._pool(fold, own.clip)
            given = TrainingRows(clip, self.experiment.labels[clip], own.clip, own.target, own.weight)
            if spec.reads_pool(learner):
                given = replace(given, pool=pool)
            elif taught_FNC is not None:
                given = given.taught(pool, taught_FNC[fold, pool], learner.teacher_weight)
            folds.append(given)
        return Trial(folder, learner, tuple(folds))

    def _pool(self, fold: int, adopted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the clips that teach a fold without a label, those that it has adopted left out."""
        return np.setdiff1d(np.flatnonzero(self.council.pools[0][fold]), adopted)

    def _select(self, number: int, heard: Mapping[str, Heard], trained_on: Adoptions) -> Adoptions:
        standing = self.nothing if self.strategy.config.relabel == "revisit" else trained_on
        chosen = self.council.select(self.strategy, number, heard, standing)
        return chosen.with_learners(np.array([list(self.learners).index(name) for name in heard], dtype=np.int64))

    def _guard(self, number: int, label: NDArray[np.int64], earlier: Sequence[Round]) -> tuple[bool, str]:
        """Whether the round is kept, and why: out of fold it may fall below the best by what is noise, no more."""
        if not earlier:
            return True, "labelled clips alone"
        mining = self.settings.mining
        compared = self.council.compare(label, max(earlier, key=lambda one: one.oof_waf).mean.label)
        told = f"out-of-fold WAF {compared.waf:.4f}, best before {compared.baseline:.4f}"
        if mining.guard and -compared.gain > compared.noise:
            return False, f"{told}: it fell by more than {compared.noise:.4f}, mining stops and drops this round"
        return True, f"{told}" + (": the last round asked for" if number == mining.rounds else "")

    def _finish(self, done: Sequence[Round]) -> Mined:
        """The final ensemble, of the last round kept."""
        last = [one for one in done if one.kept][-1]
        final = self.council.final(last.votes, last.learners)
        valence = ensemble.mean_valence(list(last.valence.values()), self.experiment.mean_valence)
        return Mined(tuple(done), final, valence, self.learners, self.folds)

    def _refuse(self, number: int, failed: Mapping[str, str]) -> None:
        if not failed:
            return
        self.on_event("learners_failed", round=number, learners=dict(failed))
        left = len(self.learners) - len(failed)
        if self.settings.mining.on_failure == "refuse" or not left:
            raise LearnerError(
                f"round {number}: {tell(failed)}. Mend it and give the same command again, or set "
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
            "temperatures": {name: list(by_fold) for name, by_fold in one.temperatures.items()},
            "selected": num_clips(one.selected),
            "selected_by_fold": one.selected.num_clips_by_fold(self.folds.num_folds),
            "trained_on": num_clips(one.trained_on),
            "kept": one.kept,
            "reason": one.reason,
        }
        self.rounds.write_metrics(one.number, figures)
        self.on_event("round_done", **{key: figures[key] for key in ("round", "oof_waf", "selected", "kept", "reason")})

    @property
    def nothing(self) -> Adoptions:
        """No pseudo-label."""
        return Adoptions.none(len(self.experiment.class_names))

    def _digest(self, experiment: Experiment) -> str:
        """Of what the rounds depend on.

        How many there are to be does not change those made; ``include_test`` shows in the pool.
        """
        elsewhere = {"rounds", "on_failure", "include_test"}
        return configs.digest(
            {
                **identity.of(experiment, self.settings.fit),
                "folds": self.folds.held_out.tolist(),
                "learners": [learner.model_dump(mode="json") for learner in self.learners.values()],
                "mining": self.settings.mining.model_dump(mode="json", exclude=elsewhere),
            }
        )


def num_clips(adoptions: Adoptions) -> int:
    """How many different clips were adopted, in whatever folds."""
    return len(np.unique(adoptions.clip))


def _by_learner(predictions: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Predictions of one folder's trials by learner."""
    return {folder.rpartition("/")[2]: prediction for folder, prediction in predictions.items()}


def tell(failed: Mapping[str, str]) -> str:
    """Which learners failed, and why, by their folders."""
    return "; ".join(f"learner {folder.rpartition('/')[2]} failed twice ({error})" for folder, error in failed.items())

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
from dataclasses import replace
from typing import Literal

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
from mer_ray.rounds.split import Adoptions
from mer_ray.rounds.state import Rounds, name_of, open_rounds
from mer_ray.tune import candidates, identity, standardise
from mer_ray.tune.candidates import AUTO
from mer_ray.tune.committee import Committee, Votes
from mer_ray.tune.mined import Mined, Round
from mer_ray.tune.standardise import Way
from mer_ray.tune.trials import FitContext, Trial, run

OnEvent = Callable[..., None]
OnFit = Callable[[str], None]
Fit = Callable[[FitContext, Sequence[Trial], OnFit], tuple[dict[str, Predictions], dict[str, str]]]


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
        listed = spec.resolve(settings.learners, experiment.features, settings.fit, len(experiment.class_names))
        strategy = settings.mining.strategy
        self.strategy = None if strategy == AUTO else registry.build("mining", strategy, settings.mining.options)
        rows = experiment.labelled
        speakers = [experiment.speakers[row] for row in rows]
        self.folds = folding.make(experiment.labels[rows], speakers, settings.fit.folds, experiment.seed)
        narrowed = select.narrow(listed, experiment.features, experiment.labels, self.folds)
        are_listed = settings.learners != "auto"
        self.who = candidates.learners(
            narrowed, experiment.features, settings.mining, are_listed=are_listed, valence=settings.fit.valence > 0
        )
        self.learners = self.who.everyone
        self.committee = Committee(experiment, self.folds, settings.mining, settings.ensemble, settings.fit.final)
        self.folds = replace(self.folds, warnings=self.folds.warnings + self.committee.pools[1])
        self.ways = standardise.ways(settings.fit.standardise, experiment.speakers)
        digest = self._digest(experiment)
        rounds, moved = open_rounds(run_dir, digest)
        if moved:
            on_event("rounds_moved_aside", to=moved)
        self.context = FitContext(experiment, settings.fit, rounds, digest)

    @property
    def rounds(self) -> Rounds:
        """The run directory's rounds."""
        return self.context.rounds

    @property
    def experiment(self) -> Experiment:
        """The data, their features standardised once ``mine`` has chosen how."""
        return self.context.experiment

    def mine(self) -> Mined:
        """Round 0, then rounds of mining until nothing is adopted, the guard stops, or ``mining.rounds`` are done.

        Raises:
            LearnerError: a learner failed twice, and ``mining.on_failure`` is ``refuse`` or too few are left.
        """
        self._standardise()
        if self.strategy is None:
            return self._choose()
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
        return self._finish(done, self.settings.ensemble)

    def _choose(self) -> Mined:
        """Round 0, then what learns from the pool too, as round 1 if the labelled clips choose it."""
        self.on_event("round_started", round=0, pseudo_labels=0)
        first = self._tell(0, self._predictions(0, self.nothing, self.who.plain), self.nothing)
        first = replace(first, reason="labelled clips alone")
        if not self.settings.mining.rounds or not self.committee.pools[0].any():
            self._record(first)
            return self._finish([first], self.settings.ensemble)
        self.on_event("round_started", round=1, pseudo_labels=0)
        found = {
            **self._predictions(0, self.nothing, self.who.judged),
            **self._predictions(1, self.nothing, self.who.taught),
        }
        who = candidates.keep(self.who, found)
        if not who.taught:
            self._record(first)
            return self._finish([first], self.settings.ensemble)
        said = {name: self.committee.hear(one).votes for name, one in found.items()}
        plain = self.committee.final(first.votes, first.learners)
        answers = candidates.ask(self.committee, who, said, plain)
        choice = candidates.decide(self.committee, who, answers, guard=self.settings.mining.guard)
        voters = who.candidates.get(choice.name, tuple(who.taught))
        used = self._used(found, voters) if choice.name != candidates.PLAIN else self.nothing
        second = self._tell(1, {name: found[name] for name in voters}, used)
        done = [replace(first, selected=used), replace(second, **candidates.told(choice))]
        for one in done:
            self._record(one)
        how: Literal["mode", "mean"] = self.settings.ensemble if choice.name == candidates.PLAIN else "mean"
        return replace(self._finish(done, how), choice=choice, answers=answers)

    def _used(self, found: Mapping[str, Predictions], voters: Sequence[str]) -> Adoptions:
        """What the pool taught each fold of the voters: the soft targets of a student, the posteriors of the rest."""
        used = self.nothing
        for name in voters:
            learner = self.learners[name]
            told = found[learner.teacher or name]
            said_FNC = self.committee.teach(told) if learner.teacher else told.probabilities_FNC
            weight = spec.pool_weight(learner)
            for fold in range(self.committee.num_models):
                pool = self._pool(fold, self.nothing.clip)
                index = list(self.learners).index(name)
                used = used.join(Adoptions.soft(fold, pool, said_FNC[fold, pool], weight, index))
        return used

    def _standardise(self) -> None:
        """Choose how, hold the features so, and put the fits that this took where round 0 looks for them.

        Known speakers are taken unless they are worse out of fold: that speakers differ is known before, and of a
        hundred labelled clips the gain may well lie within its noise. Voices are guessed, and must be better by more.
        """
        plain, asked = self.context, self.settings.fit
        benches = {way: standardise.prepare(plain, way, asked) for way in self.ways}
        chosen = self.ways[-1]
        if len(self.ways) == 2:
            labels = {way: self._try(way, context) for way, (context, _) in benches.items()}
            compared = self.committee.compare(labels[chosen], labels["fold"])
            figures = {"oof_waf": {"fold": compared.baseline, chosen: compared.waf}, "noise": compared.noise}
            needed = compared.noise if chosen == "voices" else 0.0
            chosen = chosen if compared.gain > needed else "fold"
            self.rounds.write_standardised({"chosen": chosen, **figures})
            self.on_event("standardised", chosen=chosen, **figures)
        self.context, scaling = benches[chosen]
        if scaling is not None:
            self.rounds.store.write(standardise.FILE, scaling.to_bytes())
        if len(self.ways) == 2:
            trials = self._trials(name_of(0), self.nothing, self._scouts)
            self._copy(trials, chosen)
            found = {one.folder: made for one in trials if (made := self.context.finished(one)) is not None}
            self._copy(self._students(name_of(0), self.nothing, found, self._scouts)[0], chosen)

    @property
    def _scouts(self) -> Mapping[str, LearnerConfig]:
        """The learners by which the way to standardise is chosen: those in closed form, where there are any."""
        return self.who.judged or self.who.plain

    def _copy(self, trials: Sequence[Trial], way: Way) -> None:
        """Give trials of round 0 the fits that were made to choose how to standardise."""
        for trial in trials:
            source = replace(trial, folder=f"standardise/{way}/{trial.learner.name}")
            if self.context.finished(trial) is None and self.context.finished(source) is not None:
                self.rounds.copy_learner(source.folder, trial.folder)
                self.on_fit(trial.folder)

    def _fit(
        self, context: FitContext, folder: str, pseudo: Adoptions, who: Mapping[str, LearnerConfig], on_fit: OnFit
    ) -> tuple[dict[str, Predictions], dict[str, str]]:
        """Learners of a round, students after their teachers: predictions and errors by folder."""
        trials = self._trials(folder, pseudo, who)
        found, failed = self.fit(context, trials, on_fit) if trials else ({}, {})
        students, untaught = self._students(folder, pseudo, found, who)
        more, lost = self.fit(context, students, on_fit) if students else ({}, {})
        return {**found, **more}, {**failed, **untaught, **lost}

    def _students(
        self, folder: str, pseudo: Adoptions, found: Mapping[str, Predictions], who: Mapping[str, LearnerConfig]
    ) -> tuple[list[Trial], dict[str, str]]:
        """Trials of the learners that have a teacher, from its predictions; errors of those whose teacher failed."""
        trials, untaught = [], {}
        for learner in who.values():
            place = f"{folder}/{learner.name}"
            if learner.teacher is not None and f"{folder}/{learner.teacher}" in found:
                said_FNC = self.committee.teach(found[f"{folder}/{learner.teacher}"])
                trials.append(self.trial(place, learner, pseudo, said_FNC))
            elif learner.teacher is not None:
                untaught[place] = f"its teacher {learner.teacher} failed"
        return trials, untaught

    def _try(self, way: Way, context: FitContext) -> NDArray[np.int64]:
        """What the mean of all learners fitted on the labelled clips says of every clip, (N,)."""
        found, failed = self._fit(context, f"standardise/{way}", self.nothing, self._scouts, lambda folder: None)
        self._refuse(0, failed)
        heard = {name: self.committee.hear(prediction) for name, prediction in _by_learner(found).items()}
        return self.committee.mean({name: heard[name].votes for name in self.learners if name in heard}).label

    def _round(self, number: int, trained_on: Adoptions, earlier: Sequence[Round]) -> Round:
        """Fit, vote, guard, select."""
        found = self._predictions(number, trained_on, self.who.plain)
        one = self._tell(number, found, trained_on)
        kept, reason = self._guard(number, one.mean.label, earlier)
        selected = self.nothing
        if kept and number < self.settings.mining.rounds:
            selected = self._select(number, {name: self.committee.hear(found[name]) for name in one.votes}, trained_on)
            if not len(selected):
                reason = "nothing new was adopted: mining ends"
        return replace(one, selected=selected, kept=kept, reason=reason)

    def _predictions(
        self, number: int, trained_on: Adoptions, who: Mapping[str, LearnerConfig]
    ) -> dict[str, Predictions]:
        """What learners of a round say, by name."""
        predictions, failed = self._fit(self.context, name_of(number), trained_on, who, self.on_fit)
        self._refuse(number, failed)
        found = _by_learner(predictions)
        return {name: found[name] for name in who if name in found}

    def _tell(self, number: int, found: Mapping[str, Predictions], trained_on: Adoptions) -> Round:
        """The round of learners' answers; that it is kept, and what it selects, is for the caller to say."""
        heard = {name: self.committee.hear(prediction) for name, prediction in found.items()}
        votes = {name: one.votes for name, one in heard.items()}
        learner_waf = {name: self.committee.oof_waf(vote) for name, vote in votes.items()}
        mean, raw = self.committee.mean(votes), self.committee.mean({name: one.raw for name, one in heard.items()})
        valence = {name: prediction.clean_valence(self.committee.held_out) for name, prediction in found.items()}
        return Round(
            number=number,
            learners=tuple(sorted(votes, key=lambda name: -learner_waf[name])),
            learner_waf=learner_waf,
            oof_waf=self.committee.waf(mean.label),
            mean=mean,
            raw=raw.probabilities,
            votes=votes,
            weights={name: found[name].clean(self.committee.held_out)[1] for name in votes},
            temperatures={name: one.temperatures for name, one in heard.items()},
            valence={name: said for name, said in valence.items() if said is not None},
            trained_on=trained_on,
            selected=self.nothing,
            kept=True,
            reason="",
        )

    def _trials(self, folder: str, pseudo: Adoptions, who: Mapping[str, LearnerConfig]) -> list[Trial]:
        """The trials of the learners of a round that have no teacher."""
        plain = {name: learner for name, learner in who.items() if learner.teacher is None}
        return [self.trial(f"{folder}/{name}", learner, pseudo) for name, learner in plain.items()]

    def trial(
        self, folder: str, learner: LearnerConfig, pseudo: Adoptions, taught_FNC: NDArray[np.float32] | None = None
    ) -> Trial:
        """A learner, and what each of its models trains on: the labels that it does not hold out, its own adoptions.

        Args:
            folder: of its artifacts.
            learner: what it is.
            pseudo: what was adopted.
            taught_FNC: what a student is told by its teacher: it learns that of the pool, its adoptions left out.
        """
        rows = self.experiment.labelled
        index = list(self.learners).index(learner.name) if learner.name in self.learners else -1
        folds = []
        for fold in range(self.committee.num_models):
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
        return np.setdiff1d(np.flatnonzero(self.committee.pools[0][fold]), adopted)

    def _select(self, number: int, heard: Mapping[str, Votes], trained_on: Adoptions) -> Adoptions:
        assert self.strategy is not None
        standing = self.nothing if self.strategy.config.relabel == "revisit" else trained_on
        chosen = self.committee.select(self.strategy, number, heard, standing)
        return chosen.with_learners(np.array([list(self.learners).index(name) for name in heard], dtype=np.int64))

    def _guard(self, number: int, label: NDArray[np.int64], earlier: Sequence[Round]) -> tuple[bool, str]:
        """Whether the round is kept, and why: out of fold it may fall below the best by what is noise, no more."""
        if not earlier:
            return True, "labelled clips alone"
        mining = self.settings.mining
        compared = self.committee.compare(label, max(earlier, key=lambda one: one.oof_waf).mean.label)
        told = f"out-of-fold WAF {compared.waf:.4f}, best before {compared.baseline:.4f}"
        if mining.guard and -compared.gain > compared.noise:
            return False, f"{told}: it fell by more than {compared.noise:.4f}, mining stops and drops this round"
        return True, f"{told}" + (": the last round asked for" if number == mining.rounds else "")

    def _finish(self, done: Sequence[Round], how: Literal["mode", "mean"]) -> Mined:
        """The final ensemble, of the last round kept, tempered."""
        last = [one for one in done if one.kept][-1]
        final = self.committee.final(last.votes, last.learners) if how == self.settings.ensemble else last.mean
        final, temperature = self.committee.temper(final)
        valence = ensemble.mean_valence(list(last.valence.values()), self.experiment.mean_valence)
        return Mined(tuple(done), final, temperature, valence, self.learners, self.folds, how)

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
        figures = one.figures(self.committee.num_models)
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


def _by_learner(predictions: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Predictions of one folder's trials by learner."""
    return {folder.rpartition("/")[2]: prediction for folder, prediction in predictions.items()}


def tell(failed: Mapping[str, str]) -> str:
    """Which learners failed, and why, by their folders."""
    return "; ".join(f"learner {folder.rpartition('/')[2]} failed twice ({error})" for folder, error in failed.items())

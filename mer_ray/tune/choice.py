"""Which trial of a search is taken: the config as given, unless another is better by more than the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mer_ray.learners import folds as folding
from mer_ray.learners.experiment import Experiment
from mer_ray.rounds import guard
from mer_ray.rounds.guard import Comparison
from mer_ray.tune.record import Tried


def compare(experiment: Experiment, num_folds: int, trials: Sequence[Tried]) -> dict[int, Comparison]:
    """Each other trial mined to its end with trial 0, on the labelled clips out of fold; none where that is not.

    Args:
        experiment: whose labels; the folds of all trials are the same.
        num_folds: asked for.
        trials: in order.
    """
    done = {trial.number: np.array(trial.oof) for trial in trials if trial.state == "done"}
    given = done.pop(0, None)
    if given is None:
        return {}
    rows, seed = experiment.labelled, experiment.seed
    truth = experiment.labels[rows]
    held_out = folding.make(truth, [experiment.speakers[row] for row in rows], num_folds, seed).held_out
    who = experiment.labelled_speakers
    return {number: guard.compare(truth, oof, given, held_out, seed, speakers=who) for number, oof in done.items()}


def best(trials: Sequence[Tried], compared: Mapping[int, Comparison]) -> Tried:
    """The trial that is taken, of those mined to their end.

    It is that of the highest objective, the first of equals, among those whose gain on trial 0 is beyond its noise;
    trial 0 where there is none. Where trial 0 has failed it is the highest of all.
    """
    done = [trial for trial in trials if trial.state == "done"]
    gained = [trial for trial in done if trial.number in compared and _gains(compared[trial.number])]
    given = [trial for trial in done if trial.number == 0]
    return max(gained or given or done, key=lambda trial: (trial.objective or 0.0, -trial.number))


def _gains(compared: Comparison) -> bool:
    return compared.gain > compared.noise

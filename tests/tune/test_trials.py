"""Learners as trials; most of it is seen in test_controller."""

import made_experiment as made
import numpy as np

from mer_ray.config import PluginConfig
from mer_ray.data.storage import Store
from mer_ray.rounds.split import Adoptions
from mer_ray.rounds.state import Rounds
from mer_ray.tune import trials
from mer_ray.tune.trials import FitContext, Trial


def test_learners_of_one_shape_are_fitted_in_one_program_and_each_leaves_its_own_files(tmp_path):
    experiment, _ = made.make(num_labelled=30, num_pool=20, num_test=10)
    first, other, *_ = made.learners()
    second = first.model_copy(update={"name": "second", "seed": 1})
    gated = first.model_copy(update={"name": "gated", "fusion": PluginConfig(name="gated")})
    rows = trials.TrainingRows(
        experiment.labelled, experiment.labels[experiment.labelled], *_no_pseudo_labels(len(made.CLASSES))
    )
    given = [Trial(f"00/{one.name}", one, (rows, rows)) for one in (first, other, second, gated)]
    groups = trials.alike(given, networks=True)
    assert trials.alike(given, networks=False) == [[trial] for trial in given]
    assert [[trial.learner.name for trial in group] for group in groups] == [
        [first.name, "second"],
        [other.name],
        ["gated"],
    ]
    context = FitContext(experiment, made.FIT, Rounds(Store(str(tmp_path))), "digest")
    context.work(*groups[0])
    said = [context.finished(trial).clean(np.full(60, -1))[0] for trial in groups[0]]
    assert context.finished(given[1]) is None
    here = experiment.features.present.any(axis=1)
    assert (said[0][here].argmax(axis=1) == said[1][here].argmax(axis=1)).mean() > 0.7
    assert not np.array_equal(said[0], said[1])


def test_learners_that_are_no_networks_are_fitted_together_where_they_learn_from_the_same_clips(tmp_path):
    experiment, _ = made.make(num_labelled=30, num_pool=20, num_test=10)
    first, second, third, *_ = (
        learner.model_copy(update={"model": PluginConfig(name="lda_em")}) for learner in made.learners()
    )
    other = first.model_copy(update={"name": "other", "model": PluginConfig(name="lda_em", options={"steps": 1})})
    labelled, none = experiment.labelled, _no_pseudo_labels(len(made.CLASSES))
    rows = trials.TrainingRows(labelled, experiment.labels[labelled], *none, np.flatnonzero(experiment.pool))
    fewer = trials.TrainingRows(labelled[1:], experiment.labels[labelled[1:]], *none)
    given = [Trial(f"00/{one.name}", one, (rows, fewer)) for one in (first, other, second)]
    given.append(Trial("00/third", third, (rows, rows)))
    groups = trials.alike(given, networks=False)
    assert groups == [[given[0], given[2]], [given[1]], [given[3]]]
    together, alone = (
        FitContext(experiment, made.FIT, Rounds(Store(str(tmp_path / way))), "x") for way in ("both", "one")
    )
    together.work(*groups[0])
    for trial in groups[0]:
        alone.work(trial)
        found = [context.finished(trial).probabilities_FNC for context in (together, alone)]
        np.testing.assert_allclose(*found, atol=1e-4)


def _no_pseudo_labels(num_classes):
    none = Adoptions.none(num_classes)
    return none.clip, none.target, none.weight

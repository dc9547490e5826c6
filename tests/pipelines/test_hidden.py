"""What hiding a modality does, asked of learners that were really fitted."""

from dataclasses import replace

import made_experiment as made
import numpy as np
import pytest

from mer_ray.data.features import FeatureSet
from mer_ray.data.storage import Store
from mer_ray.errors import CorruptPartError
from mer_ray.learners.learner import Learner
from mer_ray.mining import base
from mer_ray.pipelines import hidden
from mer_ray.rounds.state import name_of
from mer_ray.tune import controller as controllers
from mer_ray.tune.controller import Controller

MODALITIES = list(made.VIEWS.values())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An experiment whose voice tells nothing, its loop of one round, fitted in this process, and its ``rounds/``."""
    experiment, _ = made.make(num_labelled=36, num_pool=40, num_test=20, absent=0.3)
    voice, *others = experiment.features.features
    noise = np.random.default_rng(1).normal(size=voice.values.shape).astype(np.float32)
    features = FeatureSet(experiment.features.clip_ids, (replace(voice, values=noise), *others))
    experiment = replace(experiment, features=features)
    run_dir = Store(str(tmp_path_factory.mktemp("run")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controllers, "run", fit_here)
        return experiment, Controller(experiment, made.settings(rounds=1), run_dir).mine(), run_dir / "rounds"


def fit_here(bench, trials, on_done):
    for trial in trials:
        bench.work(trial)
    return {trial.folder: bench.finished(trial) for trial in trials}, {}


def probability(finished, row, without=None):
    """Of the row's final label, by the mean of the learners of the last round, each read from its files."""
    experiment, mined, rounds = finished
    labelled = experiment.labelled.tolist()
    votes = []
    for name in mined.last.learners:
        folder = rounds / f"{name_of(mined.last.number)}/{name}"
        learner = Learner.from_files({file: folder.read(file) for file in ("model.safetensors", "config.json")})
        own = experiment.features.take(np.array([row]))
        left = [replace(f, present=f.present & (f.modality != without)) for f in own.features]
        probabilities_FC = learner.predict(FeatureSet(own.clip_ids, tuple(left))).probabilities_FNC[:, 0]
        held_out = mined.folds.held_out[labelled.index(row)] if row in labelled else slice(None)
        votes.append(np.atleast_2d(probabilities_FC[held_out]).mean(axis=0))
    return base.mean(np.stack(votes)[:, None])[0, mined.final.label[row]]


def test_the_fall_is_that_of_the_ensemble_asked_again(finished):
    experiment, mined, rounds = finished
    rows = np.arange(0, 96, 5)
    falls = hidden.effects(experiment, mined, rounds, rows)
    assert list(falls) == MODALITIES
    present = experiment.features.present[rows]
    assert (present.sum(axis=1) == 1).any(), "no clip of one modality to look at"
    for m, modality in enumerate(MODALITIES):
        can = present[:, m] & (present.sum(axis=1) > 1)
        np.testing.assert_array_equal(~np.isnan(falls[modality]), can)
        expected = [probability(finished, row) - probability(finished, row, modality) for row in rows[can]]
        np.testing.assert_allclose(falls[modality][can], expected, atol=1e-5)


def test_a_labelled_clip_is_asked_of_the_models_that_never_saw_it(finished):
    experiment, mined, _ = finished
    for row in experiment.labelled[:6]:
        if experiment.features.present[row].any():
            out_of_fold = mined.final.probabilities[row, mined.final.label[row]]
            assert probability(finished, row) == pytest.approx(out_of_fold, abs=1e-5)


def test_what_tells_nothing_speaks_for_nothing(finished):
    experiment, mined, rounds = finished
    complete = np.flatnonzero(experiment.features.present.all(axis=1))
    falls = hidden.effects(experiment, mined, rounds, complete)
    assert np.mean(falls["audio"]) < 0.5 * min(np.mean(falls["video"]), np.mean(falls["text"]))


def test_damaged_files_of_a_learner_are_named(finished):
    experiment, mined, rounds = finished
    folder = rounds / f"{name_of(mined.last.number)}/{mined.last.learners[0]}"
    whole = folder.read("model.safetensors")
    folder.write("model.safetensors", whole[:-50])
    try:
        with pytest.raises(CorruptPartError, match="delete them to fit it again"):
            hidden.effects(experiment, mined, rounds, np.array([0]))
    finally:
        folder.write("model.safetensors", whole)

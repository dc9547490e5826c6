"""What hiding a modality does, and which clips are alike, asked of learners that were really fitted."""

import copy
from dataclasses import replace

import made_experiment as made
import made_finished
import numpy as np
import pytest
import torch
from torch import nn

from mer_ray.data.features import FeatureSet
from mer_ray.data.storage import Store
from mer_ray.learners.learner import Learner
from mer_ray.mining import base
from mer_ray.pipelines import finished, neighbours, results
from mer_ray.rounds.state import name_of

MODALITIES = list(made.VIEWS.values())


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """A run of one round whose voice tells nothing, why its clips got their labels, and its directory."""
    experiment, _ = made.make(num_labelled=72, num_pool=40, num_test=20, absent=0.3)
    voice, *others = experiment.features.features
    noise = np.random.default_rng(1).normal(size=voice.values.shape).astype(np.float32)
    features = FeatureSet(experiment.features.clip_ids, (replace(voice, values=noise), *others))
    store = Store(str(tmp_path_factory.mktemp("run")))
    run = made_finished.finish(replace(experiment, features=features), store)
    return run, results.explain(run, store), store


def probability(explained, row, without=None):
    """Of the row's final label, by the mean of the learners of the last round, each read from its files."""
    run, _, store = explained
    experiment, mined = run.experiment, run.mined
    votes = []
    for name in mined.last.learners:
        folder = store / f"rounds/{name_of(mined.last.number)}/{name}"
        learner = Learner.from_files({file: folder.read(file) for file in ("model.safetensors", "config.json")})
        own = experiment.features.take(np.array([row]))
        left = [replace(f, present=f.present & (f.modality != without)) for f in own.features]
        probabilities_FC = learner.predict(FeatureSet(own.clip_ids, tuple(left))).probabilities_FNC[:, 0]
        powers_FC = probabilities_FC.astype(float) ** (1 / np.array(mined.last.temperatures[name]))[:, None]
        tempered_FC = powers_FC / powers_FC.sum(axis=1, keepdims=True)
        votes.append(tempered_FC[run.held_out[row]])
    return tempered(base.mean(np.stack(votes)[:, None])[0], mined)[mined.final.label[row]]


def tempered(said, mined):
    """Probabilities (C,) as the run tempers those of clips without a label."""
    powers = said ** (1 / mined.temperature)
    return powers / powers.sum()


def test_the_fall_is_that_of_the_ensemble_asked_again(explained):
    run, why, _ = explained
    assert list(why.falls) == MODALITIES
    present = run.experiment.features.present
    rows = np.arange(0, 132, 5)
    assert (present[rows].sum(axis=1) == 1).any(), "no clip of one modality to look at"
    for m, modality in enumerate(MODALITIES):
        can = present[:, m] & (present.sum(axis=1) > 1)
        np.testing.assert_array_equal(~np.isnan(why.falls[modality]), can)
        asked = rows[can[rows]]
        expected = [probability(explained, row) - probability(explained, row, modality) for row in asked]
        np.testing.assert_allclose(why.falls[modality][asked], expected, atol=1e-5)


def test_a_labelled_clip_is_asked_of_the_models_that_never_saw_it(explained):
    run, _, _ = explained
    for row in run.experiment.labelled[:6]:
        if run.experiment.features.present[row].any():
            out_of_fold = tempered(run.mined.last.mean.probabilities[row], run.mined)[run.mined.final.label[row]]
            assert probability(explained, row) == pytest.approx(out_of_fold, abs=1e-5)


def test_what_tells_nothing_speaks_for_nothing(explained):
    run, why, _ = explained
    complete = run.experiment.features.present.all(axis=1)
    fall = {modality: np.mean(falls[complete]) for modality, falls in why.falls.items()}
    assert fall["audio"] < 0.8 * min(fall["video"], fall["text"])


def test_the_nearest_are_those_of_the_best_learner_that_sees_the_clip(explained):
    run, why, store = explained
    features, labelled = run.experiment.features, run.experiment.labelled
    ensemble = finished.read(store)
    np.testing.assert_array_equal(why.nearest, neighbours.nearest(ensemble, features, labelled, 5))
    ensemble = replace(ensemble, learners=ensemble.learners[::-1])  # the best here reads all that there is
    nearest = neighbours.nearest(ensemble, features, labelled, 5)
    first_seen = np.full(len(run.experiment.labels), -1)
    for place, learner in enumerate(ensemble.learners):
        own = features.only(learner.config.features)
        seen = own.present.any(axis=1)
        rows, among = np.flatnonzero(seen & (first_seen < 0)), labelled[seen[labelled]]
        first_seen[rows] = place
        model = copy.deepcopy(learner.model.models[0])
        model.fusion.classify[-1] = nn.Identity()
        raw = [torch.from_numpy(np.nan_to_num(f.values)) for f in own.features]
        with torch.no_grad():
            space = model.fusion(model.prepare(raw), torch.from_numpy(own.present))[0].numpy()
        space /= np.linalg.norm(space, axis=1, keepdims=True)
        for row in rows:
            others = among[among != row]
            likeness = space[others] @ space[row]
            found = nearest[row]
            assert row not in found
            np.testing.assert_allclose(space[found] @ space[row], np.sort(likeness)[::-1][: len(found)], atol=1e-5)
            assert set(found) <= set(labelled)
    assert {0, 1} <= set(first_seen), "no clip fell to the second learner"
    assert (nearest[first_seen < 0] == -1).all()

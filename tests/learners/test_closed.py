import numpy as np
import pytest
from made_clips import CLASSES, clips, training

from mer_ray import registry
from mer_ray.config import FitConfig, LearnerConfig, PluginConfig
from mer_ray.errors import CorruptPartError, FeatureFileError, LearnerError
from mer_ray.learners.fit import TrainingRows
from mer_ray.learners.learner import Learner, fit_learner, fit_learners

HELD_OUT = np.where(np.arange(90) < 60, np.arange(90) % 4, -1)
POOL = np.arange(60, 75)


@pytest.fixture(params=registry.names("classifiers"))
def name(request):
    return request.param


def config(name, features=("words", "voice"), **options):
    return LearnerConfig(name="one", features=list(features), model=PluginConfig(name=name, options=options))


def folds_of(labels, num_folds=4):
    rows = [training(np.flatnonzero((HELD_OUT >= 0) & (fold != HELD_OUT)), labels) for fold in range(num_folds)]
    return [
        TrainingRows(one.clip, one.label, one.pseudo_clip, one.pseudo_target, one.pseudo_weight, POOL) for one in rows
    ]


def fitted(name, **options):
    features, labels = clips()
    return fit_learner(features, folds_of(labels), config(name, **options), FitConfig(), CLASSES, 0)


def test_it_predicts_as_any_learner_does(name):
    features, labels = clips()
    made = fitted(name).predict(features)
    assert made.probabilities_FNC.shape == (4, 90, 3)
    assert made.weights_FNM.shape == (4, 90, 2)
    assert made.valence_FN is None
    seen = features.only(["words", "voice"]).present.any(axis=1)
    assert np.isnan(made.probabilities_FNC[:, ~seen]).all()
    clean, _ = made.clean(HELD_OUT)
    assert (clean[seen].argmax(axis=1) == labels[seen]).mean() > 0.8


def test_it_comes_back_from_its_files_and_predicts_the_same_bits(name):
    features, _ = clips()
    learner = fitted(name)
    files = learner.to_files()
    assert sorted(files) == ["config.json", "model.safetensors"]
    back = Learner.from_files(files)
    assert (back.config, back.model.config, back.class_names) == (learner.config, learner.model.config, CLASSES)
    assert back.predict(features).to_bytes() == learner.predict(features).to_bytes()
    assert back.to_files() == files


def test_damaged_files_are_refused(name):
    files = fitted(name).to_files()
    other = fit_learner(*_narrow(name)).to_files()
    for damaged in (
        {**files, "model.safetensors": files["model.safetensors"][:-1]},
        {**files, "model.safetensors": other["model.safetensors"]},
        {**files, "config.json": files["config.json"].replace(b'"words"', b"3")},
    ):
        with pytest.raises(CorruptPartError, match="delete them to fit it again"):
            Learner.from_files(damaged)


def _narrow(name):
    features, labels = clips()
    return features, folds_of(labels), config(name, ("voice", "face")), FitConfig(), CLASSES, 0


def test_adopted_clips_teach_by_their_targets(name):
    features, labels = clips()
    plain = folds_of(labels)
    target = np.eye(3, dtype=np.float32)[(labels[60:90] + 1) % 3]
    wrong = [TrainingRows(p.clip, p.label, np.arange(60, 90), target, np.full(30, 5, np.float32)) for p in plain]
    made = fit_learner(features, wrong, config(name), FitConfig(), CLASSES, 0).predict(features)
    seen = features.only(["words", "voice"]).present.all(axis=1)
    said = made.probabilities_FNC.mean(axis=0).argmax(axis=1)
    assert (said == labels)[60:][seen[60:]].mean() < 0.5, "clips that are adopted under wrong labels mislead it"


def test_learners_of_other_features_fitted_together_are_what_each_is_alone(name):
    features, labels = clips()
    configs = [config(name, own).model_copy(update={"name": str(len(own))}) for own in (["words", "face"], ["voice"])]
    folds = folds_of(labels)
    both = fit_learners(features, [folds, folds], configs, FitConfig(), CLASSES, 0)
    for learner, one in zip(both, configs, strict=True):
        alone = fit_learner(features, folds, one, FitConfig(), CLASSES, 0)
        assert learner.config == one
        found = [made.predict(features).probabilities_FNC for made in (learner, alone)]
        np.testing.assert_allclose(*found, atol=1e-4)


def test_a_fold_that_no_clip_can_teach_is_refused(name):
    features, labels = clips()
    unseen = np.flatnonzero(~features.only(["voice"]).present.any(axis=1))
    with pytest.raises(LearnerError, match="no labelled clip of a fold has any of the features voice"):
        fit_learner(features, [training(unseen, labels)], config(name, ["voice"]), FitConfig(), CLASSES, 0)


def test_a_missing_feature_is_named(name):
    with pytest.raises(FeatureFileError, match="learner one needs feature 'voice'"):
        fitted(name).predict(clips()[0].only(["words", "face"]))

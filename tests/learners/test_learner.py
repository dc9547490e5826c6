import json
from functools import cache

import numpy as np
import pytest
from made_clips import CLASSES, clips, training

from mer_ray.config import FitConfig, LearnerConfig, PluginConfig
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.errors import CorruptPartError, FeatureFileError
from mer_ray.learners import networks
from mer_ray.learners.learner import Learner, Predictions, fit_learner, fit_learners

FIT = FitConfig(epochs=3, hidden=8, batch_size=16)
HELD_OUT = np.where(np.arange(90) < 45, np.arange(90) % 3, -1)
"""The first 45 clips are labelled; three folds. One class per fold: what is held out was never seen in training."""


def config(fusion="attention", features=("words", "voice"), seed=0):
    return LearnerConfig(name="one", features=list(features), fusion=PluginConfig(name=fusion), seed=seed)


def folds_of(labels):
    return [training(np.flatnonzero((HELD_OUT >= 0) & (fold != HELD_OUT)), labels) for fold in range(3)]


@cache
def fitted(fusion="attention", learner_seed=0, seed=0):
    features, labels = clips()
    return fit_learner(features, folds_of(labels), config(fusion, seed=learner_seed), FIT, CLASSES, seed)


def same(one, other):
    return one.to_bytes() == other.to_bytes()


@pytest.mark.parametrize("fusion", ["attention", "concat"])
def test_it_comes_back_from_its_files_and_predicts_the_same_bits(fusion):
    features, _ = clips()
    learner = fitted(fusion)
    files = learner.to_files()
    assert sorted(files) == ["config.json", "model.safetensors"]
    back = Learner.from_files(files)
    assert (back.config, back.model.config, back.class_names) == (learner.config, learner.model.config, CLASSES)
    assert same(back.predict(features), learner.predict(features))
    assert back.to_files() == files


def test_learners_of_one_shape_fitted_together_are_what_each_is_alone():
    features, labels = clips()
    still = FIT.model_copy(update={"dropout": 0.0, "modality_dropout": 0.0})
    folds = [folds_of(labels), [training(rows.clip[1:], labels) for rows in folds_of(labels)]]
    configs = [config("concat", seed=3), config("concat", seed=4).model_copy(update={"name": "two"})]
    both = fit_learners(features, folds, configs, still, CLASSES, 0)
    for learner, own, one in zip(both, folds, configs, strict=True):
        alone = fit_learner(features, own, one, still, CLASSES, 0)
        assert learner.config == one
        np.testing.assert_allclose(
            learner.predict(features).probabilities_FNC, alone.predict(features).probabilities_FNC, atol=1e-4
        )


def test_probabilities_and_weights_of_every_fold_and_nan_where_it_abstains():
    features, _ = clips()
    made = fitted().predict(features)
    assert made.probabilities_FNC.shape == (3, 90, 3)
    assert made.weights_FNM.shape == (3, 90, 2)
    seen = features.only(["words", "voice"]).present.any(axis=1)
    assert 0 < (~seen).sum() < 20
    assert np.isnan(made.probabilities_FNC[:, ~seen]).all()
    assert np.isnan(made.weights_FNM[:, ~seen]).all()
    np.testing.assert_allclose(made.probabilities_FNC[:, seen].sum(axis=2), 1, rtol=1e-5)
    np.testing.assert_allclose(made.weights_FNM[:, seen].sum(axis=2), 1, rtol=1e-5)
    absent = ~features.only(["words", "voice"]).present[seen]
    assert (made.weights_FNM[:, seen][:, absent] == 0).all()


def test_clips_that_all_abstain_on_alone_and_no_clips_at_all():
    features, _ = clips()
    unseen = np.flatnonzero(~features.only(["words", "voice"]).present.any(axis=1))
    assert np.isnan(fitted().predict(features.take(unseen)).probabilities_FNC).all()
    assert fitted().predict(features.take(unseen[:0])).probabilities_FNC.shape == (3, 0, 3)


def test_the_prediction_of_a_clip_does_not_depend_on_the_others(monkeypatch):
    features, _ = clips()
    whole = fitted().predict(features)
    monkeypatch.setattr(networks, "_BLOCK", 7)
    parts = fitted().predict(features)
    np.testing.assert_allclose(parts.probabilities_FNC, whole.probabilities_FNC, rtol=1e-4, atol=1e-6)
    rows = np.array([50, 3, 20])
    few = fitted().predict(features.take(rows))
    np.testing.assert_allclose(few.probabilities_FNC, whole.probabilities_FNC[:, rows], rtol=1e-4, atol=1e-6)


def test_features_are_found_by_name_whatever_their_order():
    features, _ = clips()
    assert same(fitted().predict(features.only(["voice", "words"])), fitted().predict(features))


def test_a_missing_feature_is_named():
    features, _ = clips()
    with pytest.raises(FeatureFileError, match="learner one needs feature 'voice'"):
        fitted().predict(features.only(["words", "face"]))


def test_a_feature_of_another_width_is_named():
    features, _ = clips()
    words = features.features[2]
    wide = Feature("words", "text", np.repeat(words.values, 2, axis=1), words.present)
    with pytest.raises(FeatureFileError, match="feature words is 8 wide and was 4 in training"):
        fitted().predict(FeatureSet(features.clip_ids, (features.features[0], wide)))


def damaged():
    files = fitted().to_files()
    model, told = files["model.safetensors"], json.loads(files["config.json"])

    def with_config(**changes):
        return {**files, "config.json": json.dumps({**told, **changes}).encode()}

    yield "half a model", {**files, "model.safetensors": model[: len(model) // 2]}
    yield "one byte short", {**files, "model.safetensors": model[:-1]}
    yield "no bytes", {**files, "model.safetensors": b""}
    yield "not a model", {**files, "model.safetensors": b"\xff" * 200}
    yield "no model", {"config.json": files["config.json"]}
    yield "half a config", {**files, "config.json": files["config.json"][:50]}
    yield "not text", {**files, "config.json": b"\xff\xfe\x00"}
    yield "a list", {**files, "config.json": b"[]"}
    yield "no config", {"model.safetensors": model}
    yield "another fusion", with_config(learner={**told["learner"], "fusion": {"name": "concat", "options": {}}})
    yield "an unknown option", with_config(model={**told["model"], "depth": 3})
    yield "other widths", with_config(model={**told["model"], "dims": [4, 7]})
    yield "more folds", with_config(num_folds=4)
    yield "fewer folds", with_config(num_folds=2)
    yield "more classes", with_config(class_names=[*CLASSES, "fear"])


@pytest.mark.parametrize("case", [what for what, _ in damaged()])
def test_damaged_files_are_refused(case):
    with pytest.raises(CorruptPartError, match="delete them to fit it again"):
        Learner.from_files(dict(damaged())[case])


def test_predictions_come_back_from_their_bytes():
    made = fitted().predict(clips()[0])
    back = Predictions.from_bytes(made.to_bytes())
    np.testing.assert_array_equal(back.probabilities_FNC, made.probabilities_FNC)
    np.testing.assert_array_equal(back.weights_FNM, made.weights_FNM)
    assert back.probabilities_FNC.dtype == np.float32


def test_half_of_the_predictions_is_refused():
    data = fitted().predict(clips()[0]).to_bytes()
    for part in (data[:-1], data[: len(data) // 2], b""):
        with pytest.raises(CorruptPartError, match="damaged"):
            Predictions.from_bytes(part)


def test_clean_is_out_of_fold_for_labelled_clips_and_the_mean_for_others_by_hand():
    nan = np.nan
    probabilities = np.array(
        [
            [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [nan, nan], [nan, nan]],
            [[0.3, 0.7], [0.6, 0.4], [1.0, 0.0], [nan, nan], [nan, nan]],
        ],
        dtype=np.float32,
    )
    weights = np.array([[[0.25], [0.5], [0.75], [nan], [nan]], [[1.0], [0.0], [0.25], [nan], [nan]]], dtype=np.float32)
    clean, shares = Predictions(probabilities, weights).clean(np.array([1, 0, -1, -1, 1]))
    assert clean.dtype == shares.dtype == np.float64
    np.testing.assert_allclose(clean, [[0.3, 0.7], [0.2, 0.8], [0.75, 0.25], [nan, nan], [nan, nan]], rtol=1e-6)
    np.testing.assert_allclose(shares, [[1.0], [0.5], [0.5], [nan], [nan]])


def test_what_is_called_clean_was_predicted_by_the_model_that_never_saw_the_clip():
    """Every fold holds one class out whole, so out of fold its clips cannot be predicted right."""
    features, labels = clips()
    fit = FitConfig(epochs=40, hidden=16, batch_size=8)
    made = fit_learner(features, folds_of(labels), config(), fit, CLASSES, 0).predict(features)
    clean, _ = made.clean(HELD_OUT)
    rows = np.flatnonzero((HELD_OUT >= 0) & features.only(["words", "voice"]).present.all(axis=1))
    assert (HELD_OUT[rows] == labels[rows]).all()
    assert (clean[rows].argmax(axis=1) == labels[rows]).mean() < 0.1
    trained_on = made.probabilities_FNC[(HELD_OUT[rows] + 1) % 3, rows]
    assert (trained_on.argmax(axis=1) == labels[rows]).mean() > 0.8


def test_folds_learners_and_jobs_have_seeds_of_their_own():
    features, labels = clips()
    rows = training(np.arange(45), labels)

    def fit(learner_seed, seed):
        made = fit_learner(features, [rows, rows], config(seed=learner_seed), FIT, CLASSES, seed)
        return made.predict(features).probabilities_FNC[:, :45]

    first = fit(0, 0)
    assert first.tobytes() == fit(0, 0).tobytes()
    different = [first[0], first[1], fit(1, 0)[0], fit(0, 7)[0]]
    for place, one in enumerate(different):
        for other in different[place + 1 :]:
            assert not np.allclose(one, other, equal_nan=True)


def test_the_seeds_of_job_and_learner_are_not_added_up():
    models = [
        fitted(learner_seed=own, seed=job).to_files()["model.safetensors"] for own, job in ((1, 0), (0, 1), (2, 1))
    ]
    assert len(set(models)) == 3

"""What every classifier must hold (classifiers/base.py), over every file of the kind."""

import pickle

import numpy as np
import pytest
import torch

from mer_ray import registry
from mer_ray.classifiers import base
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.errors import ConfigError

CLASSES, FOLDS = 3, 2
WIDTHS = {3: (5, 3, 4), 5: (3, 2, 2, 2, 3)}
"""A few features, whose patterns may all be solved at once, and more."""


@pytest.fixture(params=registry.names("classifiers"))
def name(request):
    return request.param


def clips(num_features=3, num_clips=200, absent=0.0, dtype=np.float32):
    """Features that tell the classes, with ``absent`` wherever one is; and the classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(num_clips) % CLASSES
    present = rng.random((num_clips, num_features)) < 0.7
    present[np.arange(num_clips), np.arange(num_clips) // CLASSES % num_features] = True
    features = []
    for m, dim in enumerate(WIDTHS[num_features]):
        values = rng.standard_normal((num_clips, dim)) + 1.5 * rng.standard_normal((CLASSES, dim))[labels]
        values[~present[:, m]] = absent
        features.append(Feature(f"f{m}", f"f{m}", values.astype(dtype), present[:, m]))
    return FeatureSet(tuple(map(str, range(num_clips))), tuple(features)), labels


def rows(labels, fold, num_labelled=80):
    own = np.arange(num_labelled)
    own = own[own % FOLDS != fold]
    pool = np.arange(num_labelled, 160)
    return base.Rows(own, np.eye(CLASSES, dtype=np.float32)[labels[own]], np.ones(len(own), np.float32), pool)


def fresh(name, features, **options):
    dims = tuple(feature.values.shape[1] for feature in features.features)
    return registry.build("classifiers", name, {"dims": dims, "num_classes": CLASSES, "num_folds": FOLDS, **options})


def fitted(name, features, labels, seed=0, **options):
    model = fresh(name, features, **options)
    model.fit(features, [rows(labels, fold) for fold in range(FOLDS)], seed)
    return model


def told(model, features):
    """All that it says, as bytes."""
    everything = np.arange(len(features.clip_ids))
    return [*(x.tobytes() for x in model.predict(features)), model.embed(features, everything).numpy().tobytes()]


def test_it_learns_and_says_so_in_the_right_shapes(name):
    features, labels = clips()
    probabilities, weights = fitted(name, features, labels).predict(features)
    assert (probabilities.shape, weights.shape) == ((FOLDS, 200, CLASSES), (FOLDS, 200, 3))
    assert probabilities.dtype == weights.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=2), 1, atol=1e-5)
    assert (probabilities[:, 160:].argmax(axis=2) == labels[160:]).mean() > 0.8


@pytest.mark.parametrize("num_features", WIDTHS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_stands_in_an_absent_feature_changes_no_bit(name, num_features, value):
    features, labels = clips(num_features)
    planted, _ = clips(num_features, absent=value)
    assert not features.present.all()
    expected = fitted(name, features, labels)
    model = fitted(name, planted, labels)
    assert told(model, planted) == told(expected, features)
    states = [{key: x.numpy().tobytes() for key, x in one.to_tensors().items()} for one in (model, expected)]
    assert states[0] == states[1]


def test_absence_is_told_from_zeros_and_every_present_feature_is_read(name):
    features, labels = clips()
    model = fitted(name, features, labels)
    here = np.ones(200, dtype=bool)
    whole = FeatureSet(features.clip_ids, tuple(Feature(f.name, "x", f.values, here) for f in features.features))
    expected = model.predict(whole)[0]
    for m, own in enumerate(whole.features):
        for changed in (Feature(own.name, "x", own.values + 1, here), Feature(own.name, "x", own.values, ~here)):
            others = FeatureSet(features.clip_ids, (*whole.features[:m], changed, *whole.features[m + 1 :]))
            assert not np.allclose(model.predict(others)[0], expected)


def test_a_clip_without_features_is_abstained_on(name):
    features, labels = clips()
    model = fitted(name, features, labels)
    nothing = FeatureSet(
        features.clip_ids, tuple(Feature(f.name, "x", f.values, np.zeros(200, dtype=bool)) for f in features.features)
    )
    probabilities, weights = model.predict(nothing)
    assert np.isnan(probabilities).all()
    assert np.isnan(weights).all()


def test_weights_are_shares_of_the_present_features(name):
    features, labels = clips()
    _, weights = fitted(name, features, labels).predict(features)
    assert (weights >= 0).all()
    assert (weights[:, ~features.present] == 0).all()
    assert (weights[:, features.present] > 0).all()
    np.testing.assert_allclose(weights.sum(axis=2), 1, atol=1e-5)


def test_a_feature_that_tells_nothing_counts_for_less(name):
    features, labels = clips()
    noise = np.random.default_rng(5).standard_normal((200, 4)).astype(np.float32)
    idle = FeatureSet(features.clip_ids, (*features.features[:2], Feature("f2", "x", noise, features.present[:, 2])))
    _, weights = fitted(name, idle, labels).predict(idle)
    whole = idle.present.all(axis=1)
    assert weights[:, whole, 2].mean() < 0.75 * weights[:, whole, :2].mean()


def test_a_class_that_a_fold_lacks_has_probability_0_and_keeps_its_column(name):
    features, labels = clips()
    parts = [rows(labels, fold) for fold in range(FOLDS)]
    kept = labels[parts[1].clip] != 1
    parts[1] = base.Rows(parts[1].clip[kept], parts[1].target[kept], parts[1].weight[kept], parts[1].pool)
    model = fresh(name, features)
    model.fit(features, parts, seed=0)
    probabilities, weights = model.predict(features)
    assert (probabilities[1, :, 1] == 0).all()
    assert (probabilities[0, :, 1] > 0).any()
    assert np.isfinite(probabilities).all()
    assert np.isfinite(weights).all()


def test_soft_targets_and_weights_are_heeded(name):
    features, labels = clips()
    plain = fitted(name, features, labels).predict(features)[0]
    parts = [rows(labels, fold) for fold in range(FOLDS)]
    soft = [base.Rows(p.clip, 0.8 * p.target + 0.2 * p.target[:, [1, 2, 0]], p.weight, p.pool) for p in parts]
    heavy = [base.Rows(p.clip, p.target, p.weight * np.where(p.target[:, 0] > 0, 3, 1), p.pool) for p in parts]
    found = []
    for changed in (soft, heavy):
        model = fresh(name, features)
        model.fit(features, changed, seed=0)
        found.append(model.predict(features)[0])
    assert found[0].max(axis=2).mean() < plain.max(axis=2).mean(), "softer labels, softer answers"
    assert found[1][:, :, 0].mean() > plain[:, :, 0].mean(), "a heavier class is likelier"


def test_the_pool_teaches_those_that_say_so_alone(name):
    features, labels = clips()
    parts = [rows(labels, fold) for fold in range(FOLDS)]
    model = fresh(name, features)
    model.fit(features, [base.Rows(p.clip, p.target, p.weight, p.pool[:0]) for p in parts], seed=0)
    with_pool = fitted(name, features, labels)
    assert (told(model, features) != told(with_pool, features)) == with_pool.reads_pool


def test_the_same_input_gives_the_same_bits(name):
    features, labels = clips()
    assert told(fitted(name, features, labels), features) == told(fitted(name, features, labels), features)


def test_half_precision_features_will_do(name):
    features, labels = clips(dtype=np.float16)
    probabilities, _ = fitted(name, features, labels).predict(features)
    assert (probabilities[:, 160:].argmax(axis=2) == labels[160:]).mean() > 0.8


@pytest.mark.parametrize("num_features", WIDTHS)
@pytest.mark.parametrize("max_width", [8192, 6])
def test_its_tensors_carry_all_of_it(name, num_features, max_width):
    features, labels = clips(num_features)
    model = fitted(name, features, labels, max_width=max_width)
    tensors = model.to_tensors()
    assert all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors.values())
    back = fresh(name, features, max_width=max_width)
    back.from_tensors(tensors)
    assert told(back, features) == told(model, features)


def test_tensors_that_are_not_whole_are_refused(name):
    features, labels = clips()
    tensors = fitted(name, features, labels).to_tensors()
    for lost in tensors:
        if not lost.endswith("projection"):
            with pytest.raises((KeyError, ValueError)):
                fresh(name, features).from_tensors({key: x for key, x in tensors.items() if key != lost})
    other = features.only(["f1", "f0", "f2"])
    with pytest.raises(ValueError, match="widths"):
        fresh(name, other).from_tensors(tensors)


def test_it_pickles(name):
    features, labels = clips()
    model = fitted(name, features, labels)
    assert told(pickle.loads(pickle.dumps(model)), features) == told(model, features)


def test_clips_of_a_class_lie_together_in_its_space(name):
    features, labels = clips()
    space = torch.nn.functional.normalize(fitted(name, features, labels).embed(features, np.arange(160, 200)), dim=1)
    likeness = (space @ space.T).fill_diagonal_(-1)
    assert (labels[160:][likeness.argmax(dim=1).numpy()] == labels[160:]).mean() > 0.6


def test_an_unknown_option_is_refused_by_name(name):
    with pytest.raises(ConfigError, match="no_such_option"):
        fresh(name, clips()[0], no_such_option=1)

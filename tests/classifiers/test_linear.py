import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mer_ray.classifiers import base, linear
from mer_ray.data.features import Feature, FeatureSet


def made(num_clips=300, dims=(9, 6), classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=num_clips)
    values = [3 * rng.standard_normal((num_clips, d)) + rng.standard_normal((classes, d))[labels] + 5 for d in dims]
    here = np.ones(num_clips, dtype=bool)
    features = tuple(Feature(f"f{m}", "x", x.astype(np.float32), here) for m, x in enumerate(values))
    return FeatureSet(tuple(map(str, range(num_clips))), features), labels


def fit(features, labels, rows, classes=4, **options):
    dims = tuple(feature.values.shape[1] for feature in features.features)
    eye = np.eye(classes, dtype=np.float32)
    folds = [base.Rows(own, eye[labels[own]], np.ones(len(own), np.float32), own[:0]) for own in rows]
    model = linear.Classifier(linear.Config(dims=dims, num_classes=classes, num_folds=len(rows), **options))
    model.fit(features, folds, seed=0)
    return model


def theirs(features, labels, rows, penalty, classes):
    x = np.concatenate([feature.values for feature in features.features], axis=1).astype(np.float64)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=5000, tol=1e-8))
    found = np.zeros((len(x), classes))
    model.fit(x[rows], labels[rows])
    found[:, model.classes_] = model.predict_proba(x)
    return found


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("penalty", [10.0, 0.5])
def test_it_equals_scikit_learn_on_hard_labels_fold_by_fold(classes, penalty):
    features, labels = made(classes=classes)
    rows = [np.flatnonzero(np.arange(200) % 3 != fold) for fold in range(3)]
    rows[1] = rows[1][(labels[rows[1]] != 3) & (labels[rows[1]] != 2)]  # two classes are told by one vector there
    found, _ = fit(features, labels, rows, classes, penalty=penalty).predict(features)
    for probabilities, own in zip(found, rows, strict=True):
        np.testing.assert_allclose(probabilities, theirs(features, labels, own, penalty, classes), atol=1e-3)


def test_a_weight_counts_as_so_many_clips_and_a_soft_target_as_so_many_of_each_class():
    features, labels = made()
    own, twice = np.arange(100), np.arange(30)
    doubled = features.take(np.concatenate([own, twice]))
    plain = fit(doubled, np.concatenate([labels[own], labels[twice]]), [np.arange(130)])
    weight = np.where(own < 30, 2, 1).astype(np.float32)
    eye = np.eye(4, dtype=np.float32)
    config = linear.Config(dims=(9, 6), num_classes=4, num_folds=1)
    weighted = linear.Classifier(config)
    weighted.fit(features, [base.Rows(own, eye[labels[own]], weight, own[:0])], seed=0)
    np.testing.assert_allclose(weighted.predict(features)[0], plain.predict(features)[0], atol=1e-3)

    both = features.take(np.concatenate([own, own]))
    hard = fit(both, np.concatenate([labels[own], (labels[own] + 1) % 4]), [np.arange(200)])
    soft = linear.Classifier(config)
    target = 0.5 * eye[labels[own]] + 0.5 * eye[(labels[own] + 1) % 4]
    soft.fit(features, [base.Rows(own, target, np.full(100, 2, np.float32), own[:0])], seed=0)
    np.testing.assert_allclose(soft.predict(features)[0], hard.predict(features)[0], atol=1e-3)


def test_a_fold_of_one_class_is_sure_of_it():
    features, labels = made()
    rows = [np.flatnonzero(labels == 2), np.arange(200)]
    found, weights = fit(features, labels, rows).predict(features)
    assert (found[0, :, 2] == 1).all()
    np.testing.assert_allclose(weights[0], 0.5)


def test_an_absent_feature_adds_nothing_to_the_scores():
    """Also in training: a feature that a clip lacks stands at the mean of those that have it."""
    features, labels = made()
    first, second = features.features
    present = np.arange(300) % 2 == 0
    stood_in = second.values.copy()
    rows = np.arange(200)
    stood_in[~present] = second.values[rows][present[rows]].mean(axis=0)
    lacking = FeatureSet(features.clip_ids, (first, Feature("f1", "x", second.values, present)))
    model = fit(lacking, labels, [rows])
    found, weights = model.predict(lacking)
    assert (weights[0, ~present, 1] == 0).all()
    given = FeatureSet(features.clip_ids, (first, Feature("f1", "x", stood_in, np.ones(300, dtype=bool))))
    np.testing.assert_allclose(model.predict(given)[0], found, atol=1e-5)

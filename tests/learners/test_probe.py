import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mer_ray.evaluation import metrics
from mer_ray.learners import folds, probe
from mer_ray.learners.probe import LayerScore


def made(num_clips=90, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(num_clips) % 3
    telling = np.eye(3)[labels] * 4 + rng.normal(size=(num_clips, 3))
    return labels, telling, rng.normal(size=(num_clips, 3))


def test_a_layer_is_scored_where_its_model_was_not_fitted():
    labels, telling, _ = made()
    cut = folds.make(labels, [None] * 90, 5, 0)
    score = probe.score_layer(7, telling, labels, cut, 10.0)
    predicted = np.empty(90, np.int64)
    for fold in range(5):
        test = cut.held_out == fold
        mean, deviation = telling[~test].mean(0), telling[~test].std(0)
        model = LogisticRegression(C=0.1, max_iter=1000).fit((telling[~test] - mean) / deviation, labels[~test])
        predicted[test] = model.predict((telling[test] - mean) / deviation)
    assert score.layer == 7
    assert score.oof_waf == metrics.waf(labels, predicted)
    of_folds = [metrics.waf(labels[cut.held_out == f], predicted[cut.held_out == f]) for f in range(5)]
    assert score.fold_waf == pytest.approx(of_folds)
    assert score.mean == pytest.approx(np.mean(of_folds))
    assert score.spread == pytest.approx(np.std(of_folds, ddof=1))


def test_a_layer_that_knows_the_class_beats_one_that_does_not():
    labels, telling, noise = made()
    cut = folds.make(labels, [None] * 90, 5, 0)
    scores = tuple(probe.score_layer(i, v, labels, cut, 10.0) for i, v in enumerate([noise, telling]))
    assert scores[0].mean < 0.55
    assert scores[1].mean > 0.9
    assert probe.best(scores).layer == 1
    assert probe.as_good(scores) == ()


def test_layers_within_the_noise_of_the_folds_are_as_good():
    scores = (
        LayerScore(3, (0.80, 0.70, 0.90), 0.8),
        LayerScore(4, (0.79, 0.72, 0.88), 0.8),  # behind by 0.01, 1, -2, 2 points: noise
        LayerScore(5, (0.75, 0.65, 0.85), 0.8),  # behind by 0.05 in every fold
    )
    assert probe.best(scores).layer == 3
    assert probe.as_good(scores) == (4,)


def test_of_two_alike_the_lower_layer_is_best():
    scores = tuple(LayerScore(layer, (0.5, 0.7), 0.6) for layer in (2, 1))
    assert probe.best(scores).layer == 1
    assert probe.as_good(scores) == (2,)


def test_a_fold_with_one_class_left_predicts_that_class():
    labels = np.array([0, 0, 0, 1])
    cut = folds.Folds(np.array([0, 0, 1, 1]), 2, grouped=False)
    score = probe.score_layer(0, np.eye(4), labels, cut, 10.0)
    assert score.fold_waf[1] == pytest.approx(metrics.waf(np.array([0, 1]), np.array([0, 0])))


def test_a_fold_with_nothing_to_be_fitted_on_says_so():
    cut = folds.Folds(np.zeros(4, dtype=np.int64), 2, grouped=False)
    assert probe.predict(np.eye(4), np.arange(4) % 2, cut, 10.0).tolist() == [-1] * 4

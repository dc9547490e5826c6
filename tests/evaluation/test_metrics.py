import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

from mer_ray.evaluation import metrics
from mer_ray.evaluation.metrics import score, waf

NAMES = ("a", "b", "c", "d")
classes = st.integers(0, len(NAMES) - 1)
pairs = st.lists(st.tuples(classes, classes), min_size=1, max_size=30).map(lambda rows: np.array(rows).T)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(pairs)
def test_waf_is_scikit_learns_weighted_f1(rows):
    assert waf(*rows) == pytest.approx(f1_score(*rows, average="weighted", zero_division=0), abs=1e-12)


def test_waf_by_hand():
    """F1 of class 0: 4/5, of class 1: 1, weighted 3 : 1."""
    assert waf(np.array([0, 0, 0, 1]), np.array([0, 0, 2, 1])) == pytest.approx((3 * 4 / 5 + 1) / 4)
    assert waf(np.array([0, 1]), np.array([1, 0])) == 0.0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pairs)
def test_scores_are_scikit_learns(rows):
    truth, predicted = rows
    scores = score(truth, predicted, NAMES)
    options = {"labels": np.arange(len(NAMES)), "average": None, "zero_division": 0}
    assert scores.waf == pytest.approx(f1_score(truth, predicted, average="weighted", zero_division=0), abs=1e-12)
    assert scores.accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert [row.name for row in scores.classes] == list(NAMES)
    np.testing.assert_allclose([row.precision for row in scores.classes], precision_score(truth, predicted, **options))
    np.testing.assert_allclose([row.recall for row in scores.classes], recall_score(truth, predicted, **options))
    f1 = f1_score(truth, predicted, **options)
    np.testing.assert_allclose([row.f1 for row in scores.classes], f1)
    assert [row.support for row in scores.classes] == np.bincount(truth, minlength=len(NAMES)).tolist()
    assert scores.macro_f1 == pytest.approx(f1[np.unique(truth)].mean())
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(truth, predicted, labels=np.arange(len(NAMES))))


def test_clips_without_a_label_are_left_out():
    truth, predicted = np.array([0, -1, 1, -1, 2]), np.array([0, 3, 1, 0, 1])
    known = truth >= 0
    scores = score(truth, predicted, NAMES)
    assert scores == score(truth[known], predicted[known], NAMES)
    assert np.sum(scores.confusion) == 3


def test_no_label_at_all_gives_no_scores():
    assert score(np.array([-1, -1]), np.array([0, 1]), NAMES) is None
    assert score(np.array([], dtype=np.int64), np.array([], dtype=np.int64), NAMES) is None


def test_classes_that_do_not_occur_are_rows_of_zeros_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(np.array([0, 0, 2]), np.array([0, 3, 2]), NAMES)
    assert scores.classes[1].support == scores.classes[3].support == 0
    assert scores.classes[1].f1 == scores.classes[3].f1 == 0.0
    assert scores.macro_f1 == pytest.approx((2 / 3 + 1) / 2)


def test_scores_become_json_of_plain_values():
    scores = score(np.array([0, 1]), np.array([0, 0]), ("a", "b"))
    told = json.loads(json.dumps(scores.to_json()))
    assert told["confusion"] == [[1, 0], [1, 0]]
    assert told["classes"][1] == {"name": "b", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert told["accuracy"] == 0.5


def test_clips_of_a_speaker_that_fall_together_make_a_difference_less_sure():
    rng = np.random.default_rng(0)
    truth, speakers = rng.integers(3, size=300), np.arange(300) // 30
    other = truth.copy()
    one = np.where(speakers < 3, (truth + 1) % 3, truth)
    by_clip = metrics.paired_noise(truth, one, other, 0)
    by_speaker = metrics.paired_noise(truth, one, other, 0, speakers)
    assert by_speaker > 3 * by_clip
    assert metrics.paired_noise(truth, one, one, 0, speakers) == 0


def test_probabilities_that_are_as_sure_as_they_are_right_have_little_calibration_error():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1.0, size=6000)
    truth = (rng.random(6000) > sure).astype(np.int64)
    honest = np.stack([sure, 1 - sure], axis=1)
    predicted = np.zeros(6000, dtype=np.int64)
    assert metrics.calibration_error(honest, predicted, truth) < 0.03
    boastful = np.stack([(1 + sure) / 2, (1 - sure) / 2], axis=1)
    assert metrics.calibration_error(boastful, predicted, truth) == pytest.approx(np.mean((1 - sure) / 2), abs=0.02)
    assert [count for _, _, count in metrics.reliability(honest, predicted, truth)] == [400] * 15
    assert len(metrics.reliability(honest[:4], predicted[:4], truth[:4])) == 4


def test_the_log_loss_of_a_class_held_impossible_is_finite():
    assert metrics.log_loss(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0, 1])) == pytest.approx(
        (np.log(2) + np.log(1e6)) / 2
    )

from __future__ import annotations

import numpy as np
import pytest

from mer_ray.errors import ShapeError
from mer_ray.evaluation import explain, metrics
from mer_ray.types import Clip, Split


def test_a_shared_speaker_is_named() -> None:
    clips = [
        Clip("a", Split.TRAIN, speaker="ann"),
        Clip("b", Split.TEST, speaker="ann"),
        Clip("c", Split.TEST, speaker="bo"),
        Clip("d", Split.UNLABELED, speaker="bo"),
    ]
    (warning,) = explain.overlap_warnings(clips)
    assert warning.startswith("1 speaker is heard both in training and in test (ann)")


def test_a_shared_file_and_a_shared_content_are_named_once() -> None:
    clips = [
        Clip("a", Split.TRAIN, audio="/x/1.wav"),
        Clip("b", Split.TEST, audio="/x/1.wav"),
        Clip("c", Split.TRAIN, audio="/x/2.wav"),
        Clip("d", Split.TEST, audio="/x/copy.wav"),
    ]
    files, copies = explain.overlap_warnings(clips, {"a": "h1", "b": "h1", "c": "h2", "d": "h2"})
    assert "1 media file is used both" in files
    assert "a and b" in files
    assert "1 recording stands under two names both" in copies
    assert "c and d" in copies


def test_a_clean_split_gives_no_warning() -> None:
    clips = [
        Clip("a", Split.TRAIN, audio="1", speaker="ann"),
        Clip("b", Split.TEST, audio="2", speaker="bo"),
        Clip("c", Split.TRAIN, audio="1", speaker="ann"),
        Clip("d", Split.TEST, audio="3"),
        Clip("e", Split.TRAIN, audio="4"),
    ]
    assert explain.overlap_warnings(clips, {"a": "x", "c": "x"}) == []


def test_leave_one_out_is_the_fall_of_the_labels_probability() -> None:
    present = np.array([[True, True], [True, False]])

    def predict(mask: np.ndarray) -> np.ndarray:
        assert mask.any(axis=1).all(), "a clip is never left without features"
        first = 0.5 + 0.4 * mask[:, 0] - 0.1 * mask[:, 1]
        return np.stack([first, 1 - first], axis=1)

    deltas = explain.leave_one_out(predict, present, np.array([0, 0]))
    np.testing.assert_allclose(deltas, [[0.4, -0.1], [np.nan, np.nan]], atol=1e-12)
    other = explain.leave_one_out(predict, present, np.array([1, 0]))
    np.testing.assert_allclose(other[0], [-0.4, 0.1], atol=1e-12, err_msg="the label watched is the one given")
    assert present.tolist() == [[True, True], [True, False]], "the caller's mask is as it was"


def test_weights_by_modality_are_the_mean_of_the_learners_that_vote() -> None:
    weights = [np.array([[0.2, 0.3, 0.5], [np.nan] * 3, [np.nan] * 3]), np.array([[1.0], [1.0], [np.nan]])]
    found = explain.by_modality(["audio", "video"], weights, [["audio", "video", "audio"], ["video"]])
    np.testing.assert_allclose(found["audio"], [0.35, 0.0, np.nan])
    np.testing.assert_allclose(found["video"], [0.65, 1.0, np.nan])


def test_contested_clips_come_first() -> None:
    sure, split, close = [0.9, 0.1], [0.2, 0.8], [0.51, 0.49]
    votes = np.array([[sure, sure, close], [sure, split, close]])
    assert explain.most_contested(votes, 2).tolist() == [1, 2]
    silent = np.concatenate([votes, np.full((2, 1, 2), np.nan)], axis=1)
    silent[0, 1] = np.nan
    assert explain.most_contested(silent, 9).tolist() == [2, 1, 0], "who abstains does not disagree"
    with pytest.raises(ShapeError):
        explain.most_contested(votes[0], 2)


def test_a_confident_contradiction_of_a_label_is_suspect() -> None:
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.95, 0.05], [0.55, 0.45]])
    labels = np.array([0, 0, 1, 1, 1, 1])
    assert explain.likely_label_errors(probs, labels, 5).tolist() == [4], "5 contradicts too, but not with confidence"
    assert explain.likely_label_errors(probs, labels, 0).tolist() == []
    assert explain.likely_label_errors(probs, np.ones(6, int), 5).tolist() == []


def test_flipped_labels_are_found_with_a_class_that_nobody_carries() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    probs = rng.dirichlet(np.ones(4), 300) + 2.0 * np.eye(4)[truth]
    probs /= probs.sum(axis=1, keepdims=True)
    flipped = np.arange(0, 300, 20)
    labels = truth.copy()
    labels[flipped] = (truth[flipped] + 1) % 3
    found = explain.likely_label_errors(probs, labels, 300)
    assert len(found) > 5, "about as many as confident learning counts"
    assert set(found) <= set(flipped)
    assert (np.diff(probs[found, labels[found]]) >= 0).all(), "the least likely labels first"


def test_the_interval_encloses_the_score_and_narrows_with_more_clips() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 90)
    predicted = np.where(rng.random(90) < 0.7, truth, rng.integers(0, 3, 90))
    scores = metrics.score(truth, predicted, ("a", "b", "c"))
    assert scores is not None
    confusion = np.array(scores.confusion)
    few, many = explain.waf_interval(confusion), explain.waf_interval(100 * confusion)
    assert few is not None
    assert many is not None
    assert few[0] < many[0] < scores.waf < many[1] < few[1]
    assert few[1] - few[0] == pytest.approx(10 * (many[1] - many[0]), rel=0.2)
    assert few == explain.waf_interval(confusion)
    assert explain.waf_interval(np.zeros((3, 3), int)) is None


def test_the_interval_is_of_the_same_waf_as_the_metrics() -> None:
    truth, predicted = np.array([0] * 50 + [1] * 30), np.array([0] * 50 + [1] * 30)
    assert explain.waf_interval(np.array([[50, 0], [0, 30]])) == (metrics.waf(truth, predicted),) * 2 == (1.0, 1.0)

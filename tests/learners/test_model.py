import numpy as np
import pytest
import torch
from made_clips import clips

from mer_ray import registry
from mer_ray.learners.model import FoldModel, Standardise, tensors


def learnt(values):
    standardise = Standardise(values.shape[1])
    standardise.learn(values)
    return standardise


def test_training_clips_get_mean_0_and_deviation_1():
    values = np.random.default_rng(0).normal(5, 3, (400, 3)).astype(np.float32)
    out = learnt(values)(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=0), 1, rtol=1e-4)


def test_a_constant_column_is_silenced_and_its_neighbours_are_not():
    values = np.stack([np.full(50, 0.1), np.arange(50), np.zeros(50)], axis=1).astype(np.float32)
    out = learnt(values)(torch.tensor([[5.0, 10.0, 1e30]]))
    assert out[0, 0] == 0
    assert out[0, 1] == pytest.approx((10 - 24.5) / np.arange(50).std())
    assert out[0, 2] == 0


def test_wild_values_are_held_to_ten_deviations():
    values = np.array([[-1.0], [1.0]], dtype=np.float32)
    assert learnt(values)(torch.tensor([[3.0], [400.0], [-1e30]])).tolist() == [[3.0], [10.0], [-10.0]]


def test_with_no_clip_to_learn_from_nothing_changes():
    assert learnt(np.empty((0, 2), np.float32))(torch.tensor([[2.0, -3.0]])).tolist() == [[2.0, -3.0]]


def test_scales_are_learnt_from_present_clips_alone_and_kept_in_the_state():
    features, _ = clips()
    config = registry.configure("fusion", "concat", {"dims": (6, 5, 4), "num_classes": 3, "hidden": 4})
    model = FoldModel("concat", config)
    model.learn_scales(features)
    for number, feature in enumerate(features.features):
        mean = model.state_dict()[f"standardise.{number}.mean"]
        np.testing.assert_allclose(mean, feature.values[feature.present].mean(axis=0), rtol=1e-4)


def test_tensors_have_memory_of_their_own():
    features, _ = clips(absent=0)
    values, present = tensors(features)
    before = features.features[0].values.copy()
    values[0].zero_()
    np.testing.assert_array_equal(features.features[0].values, before)
    assert [x.dtype for x in values] == [torch.float32] * 3
    assert present.shape == (90, 3)

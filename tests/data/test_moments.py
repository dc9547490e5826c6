import numpy as np
import pytest

from mer_ray.data import moments
from mer_ray.data.moments import Moments


def made(dtype=np.float32):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(40, 3)) * [1, 5, 0.1] + [0, 100, -3]).astype(dtype)
    return values, rng.integers(-1, 4, 40)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("block", [1, 7, 512])
def test_groups_have_the_mean_and_deviation_of_their_clips_whatever_the_blocks(monkeypatch, dtype, block):
    monkeypatch.setattr(moments, "_BLOCK", block)
    values, group = made(dtype)
    values[group < 0] = np.nan
    found = Moments.of(values, group, 5)
    for one in range(4):
        own = values[group == one].astype(np.float64)
        assert found.count[one] == len(own)
        np.testing.assert_allclose(found.mean[one], own.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.scale[one], 1 / own.std(axis=0), rtol=1e-9)
        rows = Moments.of_rows(values, np.flatnonzero(group == one))
        np.testing.assert_array_equal(rows.scale[0], found.scale[one])
    for part in (found.count, found.mean, found.square, found.scale):
        assert not part[4].any(), "a group of no clips"


def test_joined_or_merged_they_are_those_of_all_clips():
    values, group = made()
    halves = [Moments.of(values, np.where(np.arange(40) % 2 == half, group, -1), 4) for half in (0, 1)]
    whole, joined = Moments.of(values, group, 4), halves[0].join(halves[1])
    rows = Moments.of_rows(values, np.flatnonzero(group >= 0))
    for one, other in ((joined, whole), (whole.merge(), rows)):
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-12)
        np.testing.assert_allclose(one.square, other.square, rtol=1e-9)


def test_a_constant_column_is_silenced():
    values = np.full((9, 2), 7.0, dtype=np.float32)
    values[:, 1] += np.arange(9)
    assert (Moments.of_rows(values, np.arange(9)).scale[0] > 0).tolist() == [False, True]

import numpy as np
import pytest

from mer_ray.data import moments
from mer_ray.data.moments import GroupMoments, Moments, by_group


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
    found = GroupMoments.of(values, group, 5)
    assert found.mean.dtype == found.square.dtype == np.float32
    for one in range(4):
        own = values[group == one].astype(np.float64)
        measured = Moments.of(values, np.flatnonzero(group == one))
        np.testing.assert_allclose(measured.mean, own.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(measured.scale, 1 / own.std(axis=0), rtol=1e-9)
        assert found[one].count == measured.count == len(own)
        np.testing.assert_allclose(found[one].mean, measured.mean, rtol=1e-7)
        np.testing.assert_allclose(found[one].scale, measured.scale, rtol=1e-7)
    for nothing in (found[4], found[-1]):
        assert nothing.count == 0
        assert not np.any([nothing.mean, nothing.square, nothing.scale])


def test_joined_or_merged_they_are_those_of_all_clips():
    values, group = made()
    whole = Moments.of(values, np.flatnonzero(group >= 0))
    parts = [Moments.of(values, np.flatnonzero((group >= 0) & (np.arange(40) % 2 == half))) for half in (0, 1)]
    joined, merged = parts[0].join(parts[1]), GroupMoments.of(values, group, 4).merge()
    for one, rtol in ((joined, 1e-12), (merged, 1e-6)):
        assert one.count == whole.count
        np.testing.assert_allclose(one.mean, whole.mean, rtol=rtol, atol=1e-8)
        np.testing.assert_allclose(one.square, whole.square, rtol=rtol)
    nothing = Moments.none(3)
    np.testing.assert_array_equal(nothing.join(whole).square, whole.square)
    np.testing.assert_array_equal(whole.join(nothing).mean, whole.mean)


def test_many_clips_far_from_zero_lose_nothing_by_their_number():
    values = (np.random.default_rng(0).normal(size=(30_000, 2)) + 1000).astype(np.float32)
    found = GroupMoments.of(values, np.zeros(len(values), dtype=np.int64), 1)
    np.testing.assert_allclose(found[0].scale, 1 / values.astype(np.float64).std(axis=0), rtol=1e-6)


def test_the_variance_within_groups_is_that_of_all_clips_where_none_has_two():
    values, group = made()
    found = GroupMoments.of(values, group, 4)
    own = [values[group == one].astype(np.float64) for one in range(4)]
    squares = sum(((one - one.mean(axis=0)) ** 2).sum(axis=0) for one in own)
    np.testing.assert_allclose(found.within(), squares / sum(len(one) - 1 for one in own), rtol=1e-6)
    alone = GroupMoments.of(values, np.arange(40), 40)
    np.testing.assert_allclose(alone.within(), values.astype(np.float64).var(axis=0), rtol=1e-5)


def test_a_constant_column_is_silenced():
    values = np.full((9, 2), 7.1, dtype=np.float32)
    values[:, 1] += np.arange(9)
    assert (Moments.of(values, np.arange(9)).scale > 0).tolist() == [False, True]
    assert (GroupMoments.of(values, np.arange(9) % 3, 3).merge().scale > 0).tolist() == [False, True]


def test_rows_come_group_by_group():
    found = [(group, rows.tolist()) for group, rows in by_group(np.array([2, -1, 0, 2]))]
    assert found == [(0, [2]), (2, [0, 3])]

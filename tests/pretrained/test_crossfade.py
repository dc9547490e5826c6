import numpy as np
import pytest

from mer_ray.pretrained import crossfade


@pytest.mark.parametrize("num_samples", [1, 7, 8, 9, 13, 14, 15, 40, 101])
def test_windows_cover_every_sample_and_reach_no_further(num_samples):
    begins = crossfade.starts(num_samples, window=8, stride=6)
    covered = {sample for begin in begins for sample in range(begin, begin + min(8, num_samples))}
    assert covered == set(range(num_samples))
    assert begins == sorted(set(begins))


@pytest.mark.parametrize("num_samples", [5, 8, 9, 14, 15, 16, 33])
def test_what_is_cut_and_joined_is_what_it_was(num_samples):
    sound = np.random.default_rng(0).normal(size=(2, num_samples)).astype(np.float32)
    begins = crossfade.starts(num_samples, window=8, stride=6)
    parts = [sound[:, begin : begin + 8] for begin in begins]
    np.testing.assert_allclose(crossfade.join(parts, begins, num_samples, fade=2), sound, rtol=1e-6)


def test_voices_that_change_places_are_put_back():
    rng = np.random.default_rng(0)
    sound = rng.normal(size=(2, 32)).astype(np.float32)
    begins = crossfade.starts(32, window=8, stride=6)
    flips = rng.integers(0, 2, len(begins))
    flips[0] = 0
    assert flips.any()
    parts = [
        sound[:, begin : begin + 8][::-1] if flip else sound[:, begin : begin + 8]
        for begin, flip in zip(begins, flips, strict=True)
    ]
    np.testing.assert_allclose(crossfade.join(parts, begins, 32, fade=2), sound, rtol=1e-6)


def test_one_window_fades_into_the_next_without_a_step():
    ones, threes = np.full((1, 100), 1, np.float32), np.full((1, 100), 3, np.float32)
    joined = crossfade.join([ones, threes], [0, 80], 180, fade=20)[0]
    assert joined[79] == 1
    assert joined[100] == 3
    assert np.abs(np.diff(joined)).max() < 0.11

import numpy as np
import pytest

from mer_ray.errors import ClipError, Reason
from mer_ray.pretrained.sound import check_finite, resample


@pytest.mark.parametrize(("from_hz", "to_hz"), [(16_000, 48_000), (48_000, 16_000), (16_000, 8_000)])
def test_a_tone_keeps_its_pitch_and_its_time_at_another_rate(from_hz, to_hz):
    told = [np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32) for rate in (from_hz, to_hz)]
    made = resample(told[0], from_hz, to_hz)
    assert made.dtype == np.float32
    assert made.shape == told[1].shape
    inside = slice(to_hz // 100, -to_hz // 100)
    np.testing.assert_allclose(made[inside], told[1][inside], atol=5e-3)


def test_each_row_is_a_sound_of_its_own_and_the_last_samples_are_kept():
    sounds = np.random.default_rng(0).normal(size=(2, 101)).astype(np.float32)
    made = resample(sounds, 16_000, 8_000)
    assert made.shape == (2, 51)
    np.testing.assert_allclose(made[1], resample(sounds[1], 16_000, 8_000), atol=1e-6)


def test_no_sample_and_the_same_rate_are_left_alone():
    assert resample(np.zeros((2, 0), np.float32), 8_000, 16_000).shape == (2, 0)
    sound = np.ones(3, np.float32)
    assert resample(sound, 16_000, 16_000) is sound


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(bad):
    with pytest.raises(ClipError, match="1 of 3 samples") as caught:
        check_finite([np.zeros(2, np.float32), np.array([0, bad, 0], np.float32)])
    assert caught.value.reason is Reason.NOT_FINITE

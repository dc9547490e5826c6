import tracemalloc

import numpy as np
import pytest

from mer_ray.encoders import logmel
from mer_ray.encoders.audio_text import prosody


def tone(frequency_hz, seconds=1.0, gain=0.3):
    t = np.arange(int(seconds * 16_000)) / 16_000
    return (gain * sum(np.sin(2 * np.pi * frequency_hz * k * t) / k for k in range(1, 8))).astype(np.float32)


def test_a_pure_tone_lights_the_band_it_lies_in():
    t = np.arange(16_000) / 16_000
    low, high = (logmel.log_mel(np.sin(2 * np.pi * f * t).astype(np.float32), 40).mean(axis=0) for f in (200, 3000))
    assert low.argmax() < 8
    assert 22 < high.argmax() < 32


def test_log_mel_has_one_frame_each_10_ms_and_at_least_one():
    assert logmel.log_mel(np.zeros(16_000, np.float32), 40).shape == (98, 40)
    assert logmel.log_mel(np.zeros(10, np.float32), 40).shape == (1, 40)


@pytest.mark.parametrize("frequency_hz", [90, 150, 220, 380])
def test_pitch_is_measured(frequency_hz):
    measures = prosody(tone(frequency_hz), "")
    assert 2 ** measures[3] == pytest.approx(frequency_hz, rel=0.03)
    assert measures[6] > 0.9


def test_noise_has_no_pitch_and_louder_is_louder():
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    assert prosody(noise, "")[6] < 0.1
    assert prosody(tone(150, gain=0.3), "")[0] - prosody(tone(150, gain=0.03), "")[0] == pytest.approx(20, abs=0.5)


def test_prosody_of_five_minutes_needs_little_memory_and_is_that_of_its_parts():
    repeated = np.tile(tone(150, seconds=10.24), 30)  # whole blocks, and a whole number of periods
    tracemalloc.start()
    measures = prosody(repeated, "")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
    np.testing.assert_allclose(measures, prosody(tone(150, seconds=3.0), ""), atol=0.02)


def test_speaking_rate_joins_audio_and_text():
    assert prosody(tone(150, seconds=2.0), "twelve chars")[-1] == pytest.approx(6.0)

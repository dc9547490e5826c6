import numpy as np
import pytest

from mer_ray.speech.snr import estimate_snr_db

SECOND = 16_000


@pytest.mark.parametrize("snr_db", [0, 10, 25])
def test_speech_with_pauses_in_steady_noise(snr_db):
    rng, time = np.random.default_rng(0), np.arange(5 * SECOND)
    speech = 0.1 * rng.normal(size=len(time)) * (time // (SECOND // 2) % 2)
    noise = rng.normal(size=len(time))
    noise *= np.sqrt(np.mean(speech**2) / 10 ** (snr_db / 10) / np.mean(noise**2))
    assert estimate_snr_db((speech + noise).astype(np.float32)) == pytest.approx(snr_db, abs=2.0)


def test_what_has_no_noise_or_no_speech_or_nothing():
    speech = np.concatenate([np.zeros(SECOND), np.ones(SECOND)]).astype(np.float32)
    assert estimate_snr_db(speech) == 60.0
    assert estimate_snr_db(np.full(SECOND, 0.1, np.float32)) == -20.0
    assert np.isfinite(estimate_snr_db(np.zeros(0, np.float32)))

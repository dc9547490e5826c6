import numpy as np
import pytest

from mer_ray.demo.plan import DemoClip, Noise, plan
from mer_ray.demo.render import clean_voice, noisy_voice
from mer_ray.evaluation.denoising import si_sdr_db
from mer_ray.separators.spectral import Config, Separator


@pytest.fixture(scope="module")
def clips() -> list[DemoClip]:
    return plan(200, seed=3)


@pytest.fixture(scope="module")
def separator() -> Separator:
    return Separator(Config())


@pytest.mark.parametrize(("kind", "least_gain_db"), [(Noise.WHITE, 3.0), (Noise.STREET, 2.0), (Noise.HUM, 2.0)])
def test_steady_noise_goes_down(clips: list[DemoClip], separator: Separator, kind: Noise, least_gain_db: float) -> None:
    gains = []
    for clip in [clip for clip in clips if clip.noise is kind][:6]:
        noisy, clean = noisy_voice(clip), clean_voice(clip)
        gains.append(si_sdr_db(separator.separate([noisy])[0][0], clean) - si_sdr_db(noisy, clean))
    assert len(gains) == 6
    assert np.median(gains) > least_gain_db


def test_one_voice_among_others_is_not_split(separator: Separator) -> None:
    split_all = Separator(Config(most_above_noise_db=200))
    harm = []
    for clip in [clip for clip in plan(400, seed=19) if clip.noise is Noise.BABBLE][:24]:
        noisy, clean = noisy_voice(clip), clean_voice(clip)
        streams = separator.separate([noisy])[0]
        if np.array_equal(streams, np.stack([noisy, noisy]) / 2):
            harm.append(si_sdr_db(noisy, clean) - si_sdr_db(split_all.separate([noisy])[0][0], clean))
    assert len(harm) >= 22
    assert np.quantile(harm, 0.75) > 0.5, "splitting would have harmed none: there is nothing to guard against"


def test_steady_noise_is_not_taken_for_babble(separator: Separator) -> None:
    rng = np.random.default_rng(0)
    time = np.arange(48_000) / 16_000
    syllables = np.sin(2 * np.pi * 4 * time) > -0.9
    voice = syllables * sum(np.sin(2 * np.pi * 150 * n * time) / n for n in range(1, 20))
    for level in (0.1, 0.5, 2.0):
        noisy = (0.1 * (voice + level * rng.normal(size=len(time)))).astype(np.float32)
        streams = separator.separate([noisy])[0]
        assert not np.array_equal(streams[0], streams[1]), "speech almost without pauses was left in its noise"


def test_streams_add_up(clips: list[DemoClip], separator: Separator) -> None:
    noisy = noisy_voice(next(clip for clip in clips if clip.noise is Noise.WHITE))
    streams = separator.separate([noisy])[0]
    np.testing.assert_allclose(streams.sum(axis=0), noisy, atol=1e-6)
    assert not np.allclose(streams[0], streams[1], atol=1e-3)


def test_a_clean_voice_is_not_split(clips: list[DemoClip], separator: Separator) -> None:
    for clip in [clip for clip in clips if clip.noise is None][:10]:
        voice = noisy_voice(clip)
        streams = separator.separate([voice])[0]
        np.testing.assert_array_equal(streams, np.stack([voice, voice]) / 2)

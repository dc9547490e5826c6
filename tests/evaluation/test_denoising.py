import numpy as np
import pytest

from mer_ray.evaluation.denoising import DenoisedClip, si_sdr_db, summarise


def voice(seed: int = 0, size: int = 8000) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def with_noise(clean: np.ndarray, snr_db: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=len(clean))
    noise -= (noise @ clean) / (clean @ clean) * clean  # orthogonal: then the ratio is exact
    noise *= np.linalg.norm(clean) / np.linalg.norm(noise) * 10 ** (-snr_db / 20)
    return (clean + noise).astype(np.float32)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 7.0, 20.0])
def test_ratio_of_known_noise(snr_db: float) -> None:
    assert si_sdr_db(with_noise(voice(), snr_db), voice()) == pytest.approx(snr_db, abs=0.01)


def test_scale_and_sign_do_not_count() -> None:
    noisy = with_noise(voice(), 5.0)
    assert si_sdr_db(np.float32(-0.1) * noisy, voice()) == pytest.approx(5.0, abs=0.01)


@pytest.mark.parametrize("delay", [1, 37, 1024])
def test_a_delay_is_aligned(delay: int) -> None:
    late = np.concatenate([np.zeros(delay, np.float32), voice()])
    assert si_sdr_db(late, voice()) == 60.0
    early = voice()[delay:]
    lost_db = -10 * np.log10(np.sum(voice()[:delay] ** 2) / np.sum(voice()[delay:] ** 2))
    assert si_sdr_db(early, voice()) == pytest.approx(lost_db, abs=0.05)


def test_nothing_like_the_reference() -> None:
    assert si_sdr_db(np.zeros(100, np.float32), voice()) == -60.0
    assert si_sdr_db(np.zeros(0, np.float32), voice()) == -60.0
    with pytest.raises(ValueError, match="clean voice"):
        si_sdr_db(voice(), np.zeros(10, np.float32))


def test_medians_are_apart_for_noisy_and_clean() -> None:
    clean = voice()
    clips = [DenoisedClip(with_noise(clean, before), with_noise(clean, after), clean, True) for before, after in
             ((0.0, 6.0), (4.0, 5.0), (8.0, 20.0))]  # fmt: skip
    clips.append(DenoisedClip(with_noise(clean, 30.0), with_noise(clean, 30.0), clean, False))
    effect = summarise(iter(clips))
    assert (effect.num_noisy, effect.num_clean) == (3, 1)
    assert effect.noisy_before_db == pytest.approx(4.0, abs=0.01)
    assert effect.noisy_after_db == pytest.approx(6.0, abs=0.01)
    assert effect.clean_before_db == pytest.approx(30.0, abs=0.05)
    assert effect.clean_kept_db == 60.0


def test_a_kind_without_clips_has_no_median() -> None:
    effect = summarise([DenoisedClip(voice(), voice(), voice(), False)])
    assert effect.num_noisy == 0
    assert effect.noisy_before_db is None
    assert effect.clean_after_db == 60.0

import shutil

import numpy as np
import pytest
import soundfile

from mer_ray.errors import ConfigError
from mer_ray.speech.noise import Noise

RATE = 16_000
CLIP = (0.3 * np.sin(np.arange(2 * RATE) * 0.05)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "deep").mkdir()
    for i in range(4):
        half_silent = np.concatenate([np.zeros(RATE), rng.normal(size=RATE // 2) * 0.1]).astype(np.float32)
        soundfile.write(tmp_path / "deep" / f"{i}.wav", half_silent, RATE, subtype="FLOAT")
    return tmp_path


def power(samples):
    return np.mean(np.square(samples, dtype=np.float64))


@pytest.mark.parametrize("kind", ["environment", "babble"])
@pytest.mark.parametrize("snr_db", [-5.0, 10.0, 30.0])
def test_the_clip_is_so_many_decibels_above_the_noise(folder, kind, snr_db):
    noisy = Noise(kind, snr_db, str(folder), 0).added(CLIP, "a").astype(np.float64)
    scale = np.dot(noisy, CLIP) / np.dot(CLIP, CLIP.astype(np.float64))
    assert 10 * np.log10(power(scale * CLIP) / power(noisy - scale * CLIP)) == pytest.approx(snr_db, abs=0.3)
    assert noisy.shape == CLIP.shape
    assert np.abs(noisy).max() <= 1


def test_what_is_drawn_follows_from_the_seed_and_the_clip_alone(folder):
    noise = Noise("environment", 5.0, str(folder), 0)
    first = noise.added(CLIP, "a")
    noise.added(CLIP, "b")
    assert np.array_equal(first, noise.added(CLIP, "a"))
    others = [noise.added(CLIP, "b"), Noise("environment", 5.0, str(folder), 1).added(CLIP, "a")]
    assert not any(np.array_equal(first, other) for other in others)


def test_the_same_sound_is_drawn_at_every_ratio(folder):
    quiet, loud = (Noise("environment", snr, str(folder), 0).added(CLIP, "a") - CLIP for snr in (20.0, 10.0))
    assert np.corrcoef(quiet, loud)[0, 1] > 0.999


def test_a_short_clip_is_never_given_silence_for_noise(folder):
    noise, short = Noise("environment", 0.0, str(folder), 0), CLIP[: RATE // 10]
    for i in range(50):
        assert not np.array_equal(noise.added(short, f"c{i}"), short)


def test_silence_stays_silence(folder):
    noise = Noise("environment", 0.0, str(folder), 0)
    for silent in (np.zeros(RATE, np.float32), np.zeros(0, np.float32)):
        assert np.array_equal(noise.added(silent, "a"), silent)


def test_the_sounds_are_its_identity_and_not_their_place(folder, tmp_path_factory):
    noise, elsewhere = Noise("babble", 5.0, str(folder), 0), tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(folder, elsewhere)
    assert noise.spec == Noise("babble", 5.0, str(elsewhere), 0).spec
    soundfile.write(elsewhere / "one_more.flac", CLIP, RATE)
    assert noise.spec != Noise("babble", 5.0, str(elsewhere), 0).spec


def test_a_folder_without_a_sound_or_with_a_bad_one_is_refused(tmp_path):
    noise = Noise("environment", 5.0, str(tmp_path), 0)
    with pytest.raises(ConfigError, match=r"no \.wav or \.flac"):
        noise.check()
    (tmp_path / "x.wav").write_text("no sound")
    with pytest.raises(ConfigError, match="cannot be read"):
        noise.check()
    soundfile.write(tmp_path / "x.wav", np.zeros(0, np.float32), RATE)
    with pytest.raises(ConfigError, match="holds no sound"):
        noise.check()

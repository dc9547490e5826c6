import io
import shutil
import tarfile

import numpy as np
import pytest
import soundfile
from rich.console import Console

from mer_ray.benchmarks import asr, spoken
from mer_ray.errors import ConfigError, InputError
from mer_ray.speech.augment import Sounds
from mer_ray.tasks.noise_robust_asr import Small

WORDS = {"ma": (300, 700), "sho": (1800, 400), "ki": (900, 2500)}


def word(name, voice):
    """Two tones one after the other, as the same word by another voice but for its pitch."""
    time = np.arange(3200) / 16000
    tones = [np.sin(2 * np.pi * hz * (1 + 0.05 * voice) * time) for hz in WORDS[name]]
    return np.concatenate([*tones, np.zeros(1600)]).astype(np.float32) * 0.1


def says(texts, voice_names, rng):
    """In place of espeak-ng: the same every time, quick, and told apart by a small network."""
    voices = [int(rng.integers(4)) for _ in texts]
    return [
        spoken.Spoken(text, np.concatenate([word(name, voice) for name in text.split()]))
        for text, voice in zip(texts, voices, strict=True)
    ]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Noise of a few short files, and a voice that says tones."""
    rng = np.random.default_rng(0)
    with tarfile.open(tmp_path / "noise_rir_16k.tar", "w") as tar:
        for name in ("noise/esc_1-1.wav", "noise/esc_2-1.wav", "noise/esc_5-1.wav", "rir/a.wav", "rir/b.wav"):
            file = io.BytesIO()
            decay = np.exp(-np.arange(4000) / 400) if "rir" in name else 1
            soundfile.write(file, 0.1 * rng.normal(size=4000) * decay, 16000, format="WAV")
            member = tarfile.TarInfo(f"noise_rir/{name}")
            member.size = file.tell()
            file.seek(0)
            tar.addfile(member, file)
    monkeypatch.setattr(spoken, "say", says)
    monkeypatch.setattr(spoken, "SLOTS", (tuple(WORDS),) * 2)
    monkeypatch.setattr(spoken, "_CHATTER", ("ma ki sho", "sho ma ma"))
    return tmp_path


def settings(folder, **more):
    options = {
        "data": str(folder),
        "labelled": 24,
        "few": 16,
        "pool": 12,
        "held_out": 6,
        "test": 9,
        "steps": 200,
        "few_steps": 200,
        "more_steps": 6,
        "most_rounds": 1,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "small": Small(width=32, layers=1, dropout=0.0),
        "mask_bands": 0,
        "mask_frames": 0,
        "seeds": [0],
    }
    return asr.Config(**options | more)


def test_every_arm_is_trained_and_its_errors_are_counted(made):
    *_, told = asr.run(settings(made), Console(quiet=True))
    assert list(told["arms"]) == [
        "plain",
        "mixed",
        "mixed_lexicon",
        "mixed_ngram",
        "few",
        "self_trained",
        "self_trained_control",
    ]
    for found in told["arms"].values():
        assert list(found) == ["clean", "environment_5db", "babble_10db"]
    assert told["arms"]["plain"]["clean"] < 0.5, "it has learnt the words"
    assert told["arms"]["mixed_ngram"]["clean"] <= told["arms"]["mixed"]["clean"]
    (draw,) = told["draws"]
    assert draw["arms"] == told["arms"]
    assert draw["seconds"].keys() == {"plain", "mixed", "few", "round_01", "control"}
    before, after = draw["rounds"]
    assert before["kept"] == 0
    assert 0 < after["kept"] <= 12
    assert 0 <= after["labels"] <= 1


def test_arms_are_means_over_the_draws():
    draws = [{"plain": {"clean": 0.1, "babble_10db": 0.4}}, {"plain": {"clean": 0.3, "babble_10db": 0.8}}]
    found = asr.means(draws)
    assert found == {"plain": {"clean": pytest.approx(0.2), "babble_10db": pytest.approx(0.6)}}


def test_noise_and_rooms_of_the_test_are_never_trained_in(made):
    train, test = spoken.surroundings(str(made), np.random.default_rng(0))
    assert (len(train.noise), len(test.noise)) == (2, 1)
    assert (len(train.rooms), len(test.rooms)) == (1, 1)
    known = [one.tobytes() for one in (*train.noise, *train.rooms)]
    assert not any(one.tobytes() in known for one in (*test.noise, *test.rooms))
    assert not set(spoken.voices(new=True)) & set(spoken.voices(new=False))


def test_the_conditions_are_as_loud_as_they_say():
    clip = spoken.Spoken("ma", word("ma", 0))
    sounds = Sounds(noise=[word("sho", 1)], speakers=[word("ki", 2)], rooms=[np.ones(1, np.float32)])
    heard = spoken.conditions([clip], sounds, np.random.default_rng(0))
    for condition, snr_db in (("environment_5db", 5), ("babble_10db", 10)):
        rest = heard[condition][0] - clip.samples
        found = 10 * np.log10(np.mean(clip.samples**2) / np.mean(rest**2))
        assert found == pytest.approx(snr_db, abs=0.1)
    assert heard["clean"][0] is clip.samples


def test_without_noise_or_espeak_it_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="apt-get install espeak-ng"):
        spoken.say(["a"], ["en-us"], np.random.default_rng(0))
    monkeypatch.setattr(spoken, "say", says)
    with pytest.raises(ConfigError, match=r"noise_rir_16k\.tar"):
        spoken.surroundings(str(tmp_path), np.random.default_rng(0))


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_says_a_sentence_in_each_voice():
    names = [*spoken.voices(new=False), *spoken.voices(new=True)]
    for name in names:
        (said,) = spoken.say(["take the red book home"], [name], np.random.default_rng(0))
        assert 0.8 < len(said.samples) / 16000 < 4
        assert np.abs(said.samples).max() > 0.05

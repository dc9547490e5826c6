"""The voice gate: real weights, which the package carries."""

import pickle

import numpy as np
import pytest

from mer_ray.demo.plan import plan
from mer_ray.demo.render import clean_voice
from mer_ray.speech.gate import Gate

SECOND = 16_000


@pytest.fixture(scope="module")
def gate():
    made = Gate()
    made.load()
    return made


def noises():
    rng, time = np.random.default_rng(0), np.arange(3 * SECOND) / SECOND
    hum = sum(np.sin(2 * np.pi * 50 * k * time + k) / k for k in range(1, 9))
    clicks = (rng.random(3 * SECOND) > 0.999).astype(float)
    return [
        np.zeros(3 * SECOND), 0.1 * rng.normal(size=3 * SECOND), 0.2 * hum, 0.5 * clicks, np.full(SECOND, 0.3),
        0.05 * np.cumsum(rng.normal(size=3 * SECOND)) / 40, np.zeros(0), 0.1 * rng.normal(size=400),
    ]  # fmt: skip


def test_noise_and_silence_have_no_voice(gate):
    assert gate.voiced([sound.astype(np.float32) for sound in noises()]) == [[]] * len(noises())


def test_voices_pass_and_each_is_heard_alone(gate):
    voices = [clean_voice(clip) for clip in plan(60, 0) if clip.broken is None and clip.words][:12]
    together = gate.voiced(voices)
    assert sum(bool(found) for found in together) >= 10
    assert together == [gate.voiced([voice])[0] for voice in voices]
    for voice, found in zip(voices, together, strict=True):
        for start, end in found:
            assert 0 <= start < end <= len(voice) / SECOND


def test_where_the_voice_is(gate):
    voice = next(one for one in map(clean_voice, (c for c in plan(60, 0) if c.words)) if gate.voiced([one])[0])
    silence = np.zeros(2 * SECOND, np.float32)
    stretches = gate.voiced([np.concatenate([silence, voice, silence])])[0]
    assert stretches[0][0] >= 1.8
    assert stretches[-1][1] <= 2.2 + len(voice) / SECOND


def test_its_weights_are_its_identity_and_it_travels(gate):
    assert gate.identity.startswith("silero-vad 6.2.3, sha256 ")
    voice = clean_voice(plan(40, 0)[0])
    assert pickle.loads(pickle.dumps(Gate())).voiced([voice]) == gate.voiced([voice])

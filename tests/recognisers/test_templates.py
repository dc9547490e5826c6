from collections import Counter

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from mer_ray.demo.plan import DemoClip, Noise, plan
from mer_ray.demo.render import clean_voice, noisy_voice
from mer_ray.demo.words import EMOTION_WORDS
from mer_ray.recognisers.templates import Config, Recogniser, lexicon
from mer_ray.separators import spectral
from mer_ray.speech.select import choose


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    built = Recogniser(Config())
    built.load()
    return built


@pytest.fixture(scope="module")
def clips() -> list[DemoClip]:
    return plan(200, seed=5)


def word_error_rate(recogniser: Recogniser, clips: list[DemoClip]) -> float:
    heard = recogniser.transcribe([noisy_voice(clip) for clip in clips])
    wrong = [Levenshtein.distance(one.text.split(), list(clip.words)) for one, clip in zip(heard, clips, strict=True)]
    return sum(wrong) / sum(len(clip.words) for clip in clips)


def test_clean_voices_of_every_feeling_are_understood(recogniser: Recogniser, clips: list[DemoClip]) -> None:
    clean = [clip for clip in clips if clip.noise is None]
    chosen = [clip for feeling in EMOTION_WORDS for clip in [c for c in clean if c.voice.emotion == feeling][:4]]
    assert len({clip.speaker for clip in chosen}) > 8
    assert word_error_rate(recogniser, chosen) < 0.12


def test_noise_makes_it_worse_and_less_sure(recogniser: Recogniser, clips: list[DemoClip]) -> None:
    clean = [clip for clip in clips if clip.noise is None][:12]
    noisy = [clip for clip in clips if clip.noise in (Noise.WHITE, Noise.BABBLE)][:12]
    assert word_error_rate(recogniser, noisy) > word_error_rate(recogniser, clean) + 0.1
    sure, unsure = (
        np.mean([one.confidence for one in recogniser.transcribe([noisy_voice(c) for c in some])])
        for some in (clean, noisy)
    )
    assert sure > unsure


def test_loudness_does_not_matter(recogniser: Recogniser, clips: list[DemoClip]) -> None:
    voice = clean_voice(clips[0])
    loud, quiet = recogniser.transcribe([voice, voice / np.float32(8)])
    assert loud.text == quiet.text


def test_denoising_takes_the_speech_of_noisy_voices_and_leaves_clean_ones(
    recogniser: Recogniser, clips: list[DemoClip]
) -> None:
    separator = spectral.Separator(spectral.Config())

    def choice(clip: DemoClip) -> int | None:
        voice = noisy_voice(clip)
        streams = separator.separate([voice])[0]
        template, first, second = recogniser.transcribe([voice, *streams])
        return choose(template.text, first.text, second.text).index

    clean = Counter(choice(clip) for clip in [clip for clip in clips if clip.noise is None][:10])
    noisy = Counter(choice(clip) for clip in [clip for clip in clips if clip.noise is Noise.STREET][:10])
    assert clean == {None: 10}
    assert noisy[0] >= 8
    assert noisy[1] == 0


def test_decoding_finds_the_best_of_all_short_sequences() -> None:
    """Against brute force: with near-certain sounds the decoded words are the ones whose sounds were given."""
    words = lexicon()
    spoken = [words.words.index("happy"), words.words.index("risk")]
    sounds = np.concatenate([words.sound_N[words.first_W[word] : words.last_W[word] + 1] for word in spoken])
    scores = np.full((len(sounds), int(words.sound_N.max()) + 1), -9.0)
    scores[np.arange(len(sounds)), sounds] = 0.0
    assert words.decode(scores, word_penalty=1.0) == (["happy", "risk"], -2.0)

"""Whisper by CTranslate2: the tokens' meaning, and the real tiny.en of the extra speech-demo behind the voice gate."""

from pathlib import Path

import numpy as np
import pytest

from mer_ray import registry
from mer_ray.config import PluginConfig
from mer_ray.demo.plan import plan
from mer_ray.demo.render import clean_voice
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained.whisper_tokens import Spoken, WhisperTokens, is_speech, keep_tiny, windows
from mer_ray.stages.hearing import Hearing

SECOND = 16_000
BASE = {"weights": {"source": "package:whisper-base"}}
TINY_EN = {"weights": {"source": "package:whisper-tiny.en"}}


@pytest.fixture(scope="module")
def tokens():
    return WhisperTokens.load(Path(keep_tiny()), "tiny", is_multilingual=True)


def test_times_part_the_words(tokens):
    number = tokens.tokenizer.token_to_id
    made = [number("<|0.00|>"), number("a"), number("b"), number("<|1.20|>"), number("<|1.20|>"), number("c")]
    assert tokens.read(made, 2.0) == [Spoken(0.0, 1.2, "ab"), Spoken(1.2, 2.0, "c")]
    assert tokens.read([number("<|0.50|>"), number("a"), number("<|9.00|>")], 2.0) == [Spoken(0.5, 2.0, "a")]
    assert tokens.read([number("<|0.00|>"), number("<|1.00|>")], 2.0) == []


def test_words_that_go_round_are_known(tokens):
    number = tokens.tokenizer.token_to_id
    assert tokens.loops([number(letter) for letter in "thank" * 40])
    assert not tokens.loops([number(letter) for letter in "idonotthinkthatshewouldeversaysuchathing"])


def test_a_loop_is_heard_again_without_it():
    told = TINY_EN | {"beam": 1}
    recogniser = registry.build("recognisers", "ctranslate2", told)
    recogniser.load()
    time = np.arange(8 * SECOND) / SECOND
    drone = (0.3 * np.sin(2 * np.pi * 3 * time) * np.sin(2 * np.pi * 220 * time)).astype(np.float32)
    generate, calls = recogniser._generate, []
    recogniser._generate = lambda *given, **more: calls.append(more) or generate(*given, **more)
    recogniser._tokens.loops = lambda made: len(calls) == 1  # whatever the model says of a drone
    recogniser.transcribe([drone])
    assert calls == [{}, {"no_repeat_ngram_size": 3}]


def test_a_prompt_names_language_and_task(tokens):
    assert tokens.prompt("zh") == ["<|startoftranscript|>", "<|zh|>", "<|transcribe|>"]
    assert WhisperTokens(tokens.tokenizer, is_multilingual=False).prompt("en") == ["<|startoftranscript|>"]
    assert tokens.languages == ("en", "zh")


def test_windows_are_equal_and_lose_nothing():
    samples = np.arange(70 * SECOND, dtype=np.float32)
    parts = windows(samples)
    assert len(parts) == 3
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert np.array_equal(np.concatenate(parts), samples)
    assert len(windows(samples[:0])) == 1


@pytest.mark.parametrize(("score", "no_speech", "said"), [(-0.3, 0.9, True), (-1.5, 0.9, False), (-1.5, 0.1, True)])
def test_nothing_is_said_where_the_model_neither_hears_speech_nor_is_sure(score, no_speech, said):
    assert is_speech(score, no_speech) == said


def test_noise_never_becomes_words_behind_the_gate():
    rng = np.random.default_rng(0)
    noises = [(level * rng.normal(size=3 * SECOND)).astype(np.float32) for level in (0.01, 0.1, 0.5)]
    hearing = Hearing(PluginConfig(name="ctranslate2", options=TINY_EN), gpus=0.0)
    hearing.setup()
    ungated = hearing.recogniser.transcribe(noises)
    assert [one.text for one in hearing.hear(noises)] == [""] * 3
    voice = next(clean_voice(clip) for clip in plan(60, 0) if clip.broken is None and clip.words)
    heard = hearing.hear([noises[0], voice])
    assert heard[0].text == ""
    assert heard[1] == hearing.recogniser.transcribe([voice])[0]
    assert heard[1].language == "en"
    assert any(one.text for one in [*ungated, heard[1]])


def test_what_cannot_be_loaded_is_told(tmp_path):
    with pytest.raises(PluginError, match=r"there is no model\.bin file in it"):
        registry.build("recognisers", "ctranslate2", {"weights": {"source": str(tmp_path)}}).load()
    with pytest.raises(ConfigError, match="language='xx': the model knows af, am"):
        registry.build("recognisers", "ctranslate2", BASE | {"language": "xx"}).load()


@pytest.mark.parametrize("name", ["ctranslate2", "whisper"])
def test_all_windows_of_a_clip_are_of_the_language_of_its_first_whatever_is_beside_it(name):
    recogniser = registry.find("recognisers", name).tiny()
    if name == "ctranslate2":  # which takes the tiny one for an English one
        recogniser = registry.build("recognisers", name, BASE | {"max_tokens": 4})
    recogniser.load()
    assert recogniser._tokens.is_multilingual
    rng = np.random.default_rng(0)
    long, *others = [(0.1 * rng.normal(size=seconds * SECOND)).astype(np.float32) for seconds in (65, *[2] * 7)]
    asked, prompt = [], recogniser._tokens.prompt
    recogniser._tokens.prompt = lambda language: asked.append(language) or prompt(language)
    (alone,) = recogniser.transcribe([long])
    assert len(asked) == 3
    assert len(set(asked)) == 1
    beside = recogniser.transcribe([*others, long])[-1]
    assert (beside.text, beside.language) == (alone.text, alone.language)
    assert beside.score == pytest.approx(alone.score, abs=1e-2)


def test_the_language_is_heard_or_set():
    voices = [clean_voice(clip) for clip in plan(60, 0) if clip.broken is None and clip.words][:2]
    heard, told = (registry.build("recognisers", "ctranslate2", BASE | more) for more in ({}, {"language": "zh"}))
    heard.load()
    assert {one.language for one in heard.transcribe(voices)} <= {None, *heard._tokens.languages}
    assert {one.language for one in told.transcribe(voices)} <= {None, "zh"}

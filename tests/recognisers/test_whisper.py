"""Whisper by transformers: what the library's own generation gives, and how loops and wrong weights are met."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from mer_ray import registry
from mer_ray.errors import ConfigError, PluginError

SECOND = 16_000
MODULE = registry.find("recognisers", "whisper")


@pytest.fixture(scope="module")
def tiny():
    made = MODULE.tiny()
    made.load()
    return made


def sounds():
    rng = np.random.default_rng(0)
    return [(0.1 * rng.normal(size=int(s * SECOND))).astype(np.float32) for s in (1.0, 2.5, 4.0)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_words_and_times_are_those_of_the_librarys_own_generation(tiny, language):
    folder = tiny.config.weights.source
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    told = MODULE.Recogniser(tiny.config.model_copy(update={"language": language}))
    told.load()
    for samples, ours in zip(sounds(), told.transcribe(sounds()), strict=True):
        features = extractor(samples, sampling_rate=SECOND, return_tensors="pt").input_features
        with torch.inference_mode():
            made = model.generate(
                features, num_beams=4, return_timestamps=True, max_new_tokens=12, language=language, task="transcribe"
            )
        theirs = tiny._tokens.read(made[0].tolist(), len(samples) / SECOND)
        assert ours.text
        assert ours.text == " ".join(said.text for said in theirs)
        assert ours.language == language


def test_a_loop_is_heard_again_with_nothing_twice(tiny, monkeypatch):
    generate, calls = tiny._generate, []
    monkeypatch.setattr(tiny, "_generate", lambda inputs, **more: calls.append(more) or generate(inputs, **more))
    monkeypatch.setattr(tiny._tokens, "loops", lambda tokens: len(calls) == 1)
    tiny.transcribe(sounds()[:1])
    assert calls == [{}, {"no_repeat_ngram_size": 3}]


def test_weights_of_another_model_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="language='xx': the model knows en, zh"):
        MODULE.Recogniser(MODULE.tiny().config.model_copy(update={"language": "xx"})).load()
    source = Path(MODULE.tiny().config.weights.source)
    told = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(told | {"model_type": "bert"}))
    with pytest.raises((ConfigError, PluginError), match="whisper is wanted"):
        _ = registry.build("recognisers", "whisper", {"weights": {"source": str(source)}}).model_config

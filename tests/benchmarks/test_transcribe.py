"""The benchmark of recognisers, on the demo's voices and made noises."""

import numpy as np
import pytest

from mer_ray.benchmarks import transcribe
from mer_ray.benchmarks.spoken import Spoken
from mer_ray.config import PluginConfig
from mer_ray.demo.plan import plan
from mer_ray.demo.render import clean_voice
from mer_ray.stages.hearing import Hearing


@pytest.fixture(scope="module")
def said():
    clips = [clip for clip in plan(60, 0) if clip.broken is None and clip.words][:8]
    return [Spoken(transcribe.words(" ".join(clip.words)), clean_voice(clip)) for clip in clips]


def test_errors_are_counted_and_so_are_words_that_nobody_said(said):
    rng = np.random.default_rng(0)
    quiet = [one.samples + (0.001 * rng.normal(size=len(one.samples))).astype(np.float32) for one in said]
    loud = [(0.3 * rng.normal(size=len(one.samples))).astype(np.float32) for one in said]
    noise = [(0.2 * rng.normal(size=32_000)).astype(np.float32)]
    told = transcribe.measure(Hearing(PluginConfig(name="templates"), 0.0), said, {"clean": quiet, "0db": loud}, noise)
    assert told["wer_clean"] < 0.3 < told["wer_0db"]
    assert told["invented_words"] == told["invented_words_ungated"]  # it has no gate
    assert told["audio_seconds_per_s"] > 0


def test_the_gate_keeps_words_out_of_noise(said):
    options = {"weights": {"source": "package:whisper-tiny.en"}, "max_tokens": 16}
    rng = np.random.default_rng(0)
    noises = [(level * rng.normal(size=32_000)).astype(np.float32) for level in (0.02, 0.2)]
    hearing = Hearing(PluginConfig(name="ctranslate2", options=options), 0.0)
    told = transcribe.measure(hearing, said[:1], {"clean": [said[0].samples]}, noises)
    assert told["invented_words"] == 0
    assert told["invented_words_ungated"] > 0
    assert told.keys() == {"wer_clean", "invented_words", "invented_words_ungated", "audio_seconds_per_s"}

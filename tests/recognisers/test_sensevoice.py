"""SenseVoice's recogniser: what it makes of frames, tags and languages. What all must do is in the contract."""

import json
import shutil

import numpy as np
import pytest
import torch

from mer_ray.errors import PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.weights import Weights
from mer_ray.recognisers import sensevoice

TOKENS = ["<unk>", "<s>", "</s>", "<|zh|>", "<|en|>", "<|yue|>", "<|ja|>", "<|ko|>", "<|nospeech|>", "<|HAPPY|>", "▁a",
          "b", "你", "，"]  # fmt: skip
HAPPY, A, B, YOU, COMMA = range(9, 14)


def sound(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=int(16_000 * seconds))).astype(np.float32)


class Saying(torch.nn.Module):
    """A network that says the same of every window, with the same certainty, and keeps what it was asked."""

    def __init__(self, tag, path, sure=0.9):
        super().__init__()
        self.tag, self.path, self.sure, self.asked = tag, path, sure, []

    def forward(self, frames, languages, own=None):
        self.asked += languages.tolist()
        p = torch.full((len(frames), 4 + frames.shape[1], len(TOKENS)), (1 - self.sure) / (len(TOKENS) - 1))
        for place, token in enumerate([TOKENS.index(self.tag), HAPPY, HAPPY, HAPPY, *self.path]):
            p[:, place] = (1 - self.sure) / (len(TOKENS) - 1)
            p[:, place, token] = self.sure
        p[:, 4 + len(self.path) :, 0] = 1.0
        return p.log()


def saying(tag, path, **options):
    made = sensevoice.tiny()
    recogniser = sensevoice.Recogniser(made.config.model_copy(update=options))
    recogniser.load()
    recogniser._set_tokens(TOKENS)
    recogniser._model = Saying(tag, path)
    return recogniser


def test_a_tiny_one_says_something():
    assert all(told.text for told in sensevoice.tiny().transcribe([sound(1.0), sound(2.0, 1)]))


def test_tokens_are_merged_over_frames_unless_a_blank_parts_them_and_tags_are_dropped():
    (told,) = saying("<|zh|>", [0, YOU, YOU, 0, YOU, COMMA, HAPPY, A, B]).transcribe([sound(1.0)])
    assert (told.text, told.language) == ("你你， ab", "zh")
    assert told.score == pytest.approx(np.log(0.9), abs=1e-5)
    assert told.confidence == pytest.approx(0.9, abs=1e-5)
    (segment,) = told.segments
    assert (segment.start, segment.end, segment.text) == (pytest.approx(0.06), pytest.approx(0.54), told.text)


def test_where_nobody_speaks_nothing_is_said():
    (told,) = saying("<|nospeech|>", [A, B]).transcribe([sound(1.0)])
    assert (told.text, told.score, told.language) == ("", None, None)
    (told,) = saying("<|zh|>", [0, HAPPY]).transcribe([sound(1.0)])
    assert (told.text, told.score) == ("", None)


def test_a_long_clips_language_is_that_of_its_first_window():
    recogniser = saying("<|yue|>", [YOU])
    (told,) = recogniser.transcribe([sound(70.0)])
    assert recogniser._model.asked == [0, 7, 7]
    assert told.language == "yue"
    assert [segment.start for segment in told.segments] == pytest.approx([0.0, 70 / 3, 140 / 3], abs=0.01)


def test_a_window_without_speech_tells_the_next_nothing():
    recogniser = saying("<|nospeech|>", [YOU])
    recogniser.transcribe([sound(31.0)])
    assert recogniser._model.asked == [0, 0]


def test_a_language_that_is_known_is_asked_for():
    recogniser = saying("<|ja|>", [YOU], language="ja")
    recogniser.transcribe([sound(1.0)])
    assert recogniser._model.asked == [11]
    assert recogniser.spec_options["language"] == "ja"


def test_the_published_size():
    for name, published in sensevoice.ARCHITECTURES.items():
        recogniser = sensevoice.Recogniser(sensevoice.Config(weights=Weights(source=f"random:{name}")))
        assert architecture.count_parameters(recogniser.empty) == pytest.approx(published.num_parameters, rel=0.02)


def test_tokens_without_languages_and_files_that_are_missing_are_told(tmp_path):
    folder = shutil.copytree(sensevoice.tiny().config.weights.source, tmp_path / "weights")
    recogniser = sensevoice.Recogniser(sensevoice.Config(weights=Weights(source=str(folder)), device="cpu"))
    tokens = json.loads((folder / "tokens.json").read_text())
    (folder / "tokens.json").write_text(json.dumps(["x"] * len(tokens)))
    with pytest.raises(PluginError, match="lack tags of languages"):
        recogniser.load()
    (folder / "am.mvn").unlink()
    with pytest.raises(PluginError, match=r"am\.mvn cannot be read"):
        recogniser.load()


def test_norms_and_tokens_are_part_of_the_identity(tmp_path):
    folder = shutil.copytree(sensevoice.tiny().config.weights.source, tmp_path / "weights")
    same = sensevoice.Recogniser(sensevoice.Config(weights=Weights(source=str(folder))))
    assert same.identity == sensevoice.tiny().identity
    for name in ("am.mvn", "tokens.json"):
        other = shutil.copytree(folder, tmp_path / name)
        (other / name).write_text((other / name).read_text() + " ")
        changed = sensevoice.Recogniser(sensevoice.Config(weights=Weights(source=str(other))))
        assert changed.identity != same.identity

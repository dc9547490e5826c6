"""Marks by a model's labels: where they go, and what of the weights says which they are."""

import json
from pathlib import Path

import pytest
import torch

from mer_ray import registry
from mer_ray.errors import ConfigError

MODULE = registry.find("punctuators", "token_classifier")


@pytest.fixture
def always():
    """Makes a punctuator whose model tells the same label of every token."""

    def make(label):
        tiny = MODULE.tiny()
        tiny.load()
        with torch.no_grad():
            tiny._model.classifier.weight.zero_()
            tiny._model.classifier.bias.copy_(torch.eye(4)[label])
        return tiny

    return make


def test_each_word_gets_the_mark_of_its_label_unless_it_has_one(always):
    assert always(2).punctuate(["go now", "what? well"]) == ["go. now.", "what? well."]
    assert always(1).punctuate(["go now"]) == ["go, now,"]
    assert always(0).punctuate(["go now"]) == ["go now"]


def test_a_long_text_is_marked_to_its_end_once(always):
    words = [f"w{i}" for i in range(301)]
    assert always(3).punctuate([" ".join(words)]) == [" ".join(f"{word}?" for word in words)]


def test_scripts_without_spaces_are_marked_between_their_signs(always):
    assert always(1).punctuate(["你好吗 ok"]) == ["你,好,吗, ok,"]


def test_words_of_any_length_fit(always):
    text = "汉" * 400
    assert always(2).punctuate([text]) == ["汉." * 400]
    words = ["internationalisation"] * 64
    assert always(1).punctuate([" ".join(words)]) == [" ".join(f"{word}," for word in words)]


def test_random_weights_are_refused():
    with pytest.raises(ConfigError, match="random weights tell no marks"):
        registry.build("punctuators", "token_classifier", {"weights": {"source": "random:x"}})


def test_the_weights_labels_say_which_marks(tmp_path):
    def with_labels(*names):
        source = Path(MODULE.tiny().config.weights.source)
        told = json.loads((source / "config.json").read_text())
        told["id2label"] = dict(enumerate(names))
        told["label2id"] = {name: i for i, name in enumerate(names)}
        (source / "config.json").write_text(json.dumps(told))
        return MODULE.Punctuator(MODULE.Config(weights={"source": str(source)}, device="cpu"))

    assert with_labels("0", ",", ".", "?")._marks == {0: "", 1: ",", 2: ".", 3: "?"}
    assert with_labels("O", "B-COMMA", "I-PERIOD", "question_mark")._marks == {0: "", 1: ",", 2: ".", 3: "?"}
    with pytest.raises(ConfigError, match="'PERSON' names no mark"):
        with_labels("O", "PERSON", "PERIOD", "QUESTION").load()

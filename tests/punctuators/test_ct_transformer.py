"""Which marks a text gets from the words of CT-Transformer. What all must do is in the contract."""

import json
import shutil

import pytest
import torch

from mer_ray.errors import PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.weights import Weights
from mer_ray.punctuators import ct_transformer

TOKENS = ["你", "好", "吗", "yes", "<unk>"]
NONE, COMMA, PERIOD, QUESTION, PAUSE = range(1, 6)


class Saying(torch.nn.Module):
    """A network that tells one mark for each word whatever stands around it, and keeps what it was asked."""

    def __init__(self, marks):
        super().__init__()
        self.marks, self.asked = torch.tensor(marks), []

    def forward(self, words, own=None):
        self.asked += words.tolist()
        return torch.nn.functional.one_hot(self.marks[words], 6).float()


def saying(marks, **options):
    punctuator = ct_transformer.Punctuator(ct_transformer.tiny().config.model_copy(update=options))
    punctuator.load()
    punctuator._set_tokens(TOKENS)
    punctuator._model = Saying(marks)
    return punctuator


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好吗", "你，好吗？"),
        ("你 好", "你， 好。"),
        ("yes你好", "yes你，好。"),
        ("你 yes 吗", "你， yes, 吗？"),
        ("Yes", "Yes."),
        ("你", "你。"),
        ("你，好！", "你，好！"),
        ("", ""),
        ("...", "..."),
    ],
)
def test_marks_are_those_of_the_script_and_the_last_ends_a_sentence(text, expected):
    assert saying([COMMA, NONE, QUESTION, COMMA, NONE]).punctuate([text]) == [expected]


def test_words_are_signs_and_what_is_latin_by_their_numbers():
    punctuator = saying([NONE] * 5)
    punctuator.punctuate(["你yes好 YES 他don't"])
    assert punctuator._model.asked == [[0, 3, 1, 3, 4, 4]]


def test_a_long_text_is_asked_about_in_windows_each_word_once():
    punctuator = saying([NONE, PAUSE, NONE, NONE, NONE], words=40)
    text = "你好吗你" * 25
    assert punctuator.punctuate([text]) == ["你好、吗你" * 24 + "你好、吗你。"]
    assert [len(words) for words in punctuator._model.asked] == [40] * 9


def test_a_tiny_one_tells_marks():
    (made,) = ct_transformer.tiny().punctuate(["一丁七丈" * 8])
    assert len(made) > 33


def test_tokens_without_the_unknown_one_are_told(tmp_path):
    folder = shutil.copytree(ct_transformer.tiny().config.weights.source, tmp_path / "weights")
    tokens = json.loads((folder / "tokens.json").read_text())
    (folder / "tokens.json").write_text(json.dumps([*tokens[:-1], "x"]))
    punctuator = ct_transformer.Punctuator(ct_transformer.Config(weights=Weights(source=str(folder)), device="cpu"))
    with pytest.raises(PluginError, match="the tokens lack <unk>"):
        punctuator.load()


def test_the_published_size():
    for name, published in ct_transformer.ARCHITECTURES.items():
        punctuator = ct_transformer.Punctuator(ct_transformer.Config(weights=Weights(source=f"random:{name}")))
        assert architecture.count_parameters(punctuator.empty) == pytest.approx(published.num_parameters, rel=0.02)

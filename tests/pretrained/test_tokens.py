import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture, tokens
from mer_ray.pretrained.tokens import Tokens, Window
from mer_ray.pretrained.weights import Weights


def words(template=None, **special):
    """A tokenizer of whole words, with its special tokens as ``template`` says."""
    vocabulary = {word: i for i, word in enumerate(["<u>", "<s>", "</s>", "a", "b", "c", "d", "e"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<u>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.mark.parametrize("template", [None, "<s> $A", "<s> $A </s>", "$A </s>"])
@pytest.mark.parametrize("text", ["a b c d e", "e", "c c"])
def test_a_short_text_is_what_the_tokenizer_makes_of_it(template, text):
    tokenizer = words(template)
    (window,) = Tokens(tokenizer, 20).windows(text)
    assert window.ids == tokenizer(text)["input_ids"]
    assert window.ids[window.start : window.stop] == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_long_text_is_cut_into_windows_of_nearly_equal_size():
    windows = Tokens(words("<s> $A </s>"), 5).windows("a b c d e a b")
    assert [window.ids for window in windows] == [[1, 3, 4, 5, 2], [1, 6, 7, 2], [1, 3, 4, 2]]
    assert [(window.start, window.stop) for window in windows] == [(1, 4), (1, 3), (1, 3)]


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_text_is_the_special_tokens(text):
    assert Tokens(words("<s> $A </s>"), 5).windows(text) == [Window([1, 2], 0, 2)]
    assert Tokens(words("<s> $A"), 5).windows(text) == [Window([1], 0, 1)]


def test_without_special_tokens_an_empty_text_is_the_end_of_a_text():
    assert Tokens(words(eos_token="</s>"), 5).windows("") == [Window([2], 0, 1)]
    assert Tokens(words(), 5).windows("") == [Window([0], 0, 1)]


def test_what_is_read_out():
    window = Window([1, 3, 4, 2], 1, 3)
    assert [window.span(which) for which in ("content", "all", "cls", "last")] == [(1, 3), (0, 4), (0, 1), (2, 3)]


def test_padding_is_on_the_right_and_masked():
    made = Tokens(words("<s> $A"), 9).collate([Window([1, 3], 1, 2), Window([1, 3, 4, 5], 1, 4)])
    assert made["input_ids"][:, :2].tolist() == [[1, 3], [1, 3]]
    assert made["input_ids"][1].tolist() == [1, 3, 4, 5]
    assert made["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_equal_lengths_need_no_mask():
    made = Tokens(words(), 9).collate([Window([3, 4], 0, 2), Window([5, 6], 0, 2)])
    assert set(made) == {"input_ids"}
    assert torch.equal(made["input_ids"], torch.tensor([[3, 4], [5, 6]]))


def test_a_window_must_hold_more_than_special_tokens():
    with pytest.raises(ConfigError, match="window_tokens=2 leaves no room"):
        Tokens(words("<s> $A </s>"), 2)


@pytest.fixture(scope="module")
def model():
    return BertModel(BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))


def test_a_tokenizer_is_loaded_from_its_files(model):
    folder = architecture.keep_files(model, words("<s> $A", bos_token="<s>"))
    loaded = tokens.load(folder, Weights(source=folder), num_embeddings=8)
    assert loaded("a b")["input_ids"] == [1, 3, 4]


def test_a_folder_without_a_vocabulary_is_refused(model):
    folder = architecture.keep_files(model)
    with pytest.raises(PluginError, match=r"no vocabulary in .*tokenizer\.json"):
        tokens.load(folder, Weights(source=folder), num_embeddings=8)


def test_a_folder_whose_tokenizer_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(PluginError, match="no tokenizer can be loaded"):
        tokens.load(tmp_path, Weights(source=str(tmp_path)), num_embeddings=8)


def test_a_tokenizer_of_another_model_is_refused(model):
    folder = architecture.keep_files(model, words())
    with pytest.raises(PluginError, match="8 tokens beside 7 embeddings"):
        tokens.load(folder, Weights(source=folder), num_embeddings=7)

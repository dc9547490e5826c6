import json

import pytest
from transformers.convert_slow_tokenizer import import_protobuf

from mer_ray.errors import PluginError
from mer_ray.pretrained import pieces

TOKENS = ["<unk>", "▁he", "llo", "你"]


def test_tokens_are_those_of_the_list(tmp_path):
    pieces.Pieces(TOKENS).save_pretrained(tmp_path)
    assert pieces.load(tmp_path, "here", 4) == TOKENS


def test_without_a_list_they_are_those_of_sentencepiece(tmp_path):
    model = import_protobuf().ModelProto()
    for token in TOKENS:
        model.pieces.add(piece=token, score=-1.0)
    (tmp_path / "some.bpe.model").write_bytes(model.SerializeToString())
    assert pieces.load(tmp_path, "here", 4) == TOKENS
    (tmp_path / "some.bpe.model").write_bytes(b"no model")
    with pytest.raises(PluginError, match=r"some\.bpe\.model cannot be read"):
        pieces.load(tmp_path, "here", 4)


@pytest.mark.parametrize(
    ("content", "told"),
    [(json.dumps(TOKENS), "4 tokens, the model knows 5"), ("{}", "no list of tokens"), ("[", "cannot be read")],
)
def test_another_file_is_refused(content, told, tmp_path):
    (tmp_path / "tokens.json").write_text(content)
    with pytest.raises(PluginError, match=told):
        pieces.load(tmp_path, "here", 5)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(PluginError, match=r"tokens\.json cannot be read"):
        pieces.load(tmp_path, "here", 5)

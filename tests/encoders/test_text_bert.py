from functools import cache

import numpy as np
import pytest
import torch
from closeness import assert_close
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    ElectraConfig,
    ErnieConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from mer_ray.encoders import text_bert
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.weights import Weights

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**SIZES, type_vocab_size=1),
    "mpnet": MPNetConfig(**SIZES),
    "electra": ElectraConfig(**SIZES, embedding_size=16),
    "ernie": ErnieConfig(**SIZES),
}
TEXTS = ["I really did not expect that!", "", "你怎么又来了", "no", "Oh no, not again… please?"]


def tokenizer_of(config):
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    before = {"pad_token": "[PAD]", **names} if config.pad_token_id == 0 else {"bos_token": "<s>", "pad_token": "[PAD]"}
    return architecture.byte_tokenizer(**{**before, **names})


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request):
    config = FAMILIES[request.param]
    model = architecture.randomly(lambda: AutoModel.from_config(config), seed=3)
    return architecture.keep_files(model, tokenizer_of(config))


def encoder_of(folder, **options):
    return text_bert.Encoder(text_bert.Config(weights=Weights(source=str(folder)), device="cpu", **options))


def encode(encoder, *texts):
    return encoder.encode([ClipInput(text=text) for text in texts])


@cache
def library(folder):
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def reference(folder, text):
    """All hidden states of one text, (T, D) each, by the library's own tokenizer and forward."""
    tokenizer, model = library(folder)
    with torch.inference_mode():
        made = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    return [state[0] for state in made.hidden_states]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda h: torch.stack(h[-4:]).mean(0)[1:-1]),
        ({"combine": "sum", "tokens": "all"}, lambda h: torch.stack(h[-4:]).sum(0)),
        ({"layers": [2], "tokens": "cls"}, lambda h: h[2][:1]),
        ({"layers": [0, 4], "combine": "concat"}, lambda h: torch.cat([h[0], h[4]], -1)[1:-1]),
    ],
    ids=["mean", "sum-all", "layer-cls", "concat"],
)
def test_texts_beside_each_other_give_what_the_library_gives_one_by_one(folder, options, expected):
    texts = [text for text in TEXTS if text]
    for ours, text in zip(encode(encoder_of(folder, **options), *texts), texts, strict=True):
        assert_close(ours, expected(reference(folder, text)).numpy())


def test_an_empty_transcript_is_the_special_tokens(folder):
    encoder = encoder_of(folder, layers=1)
    for empty in ("", None):
        assert_close(encode(encoder, empty, "beside it")[0], reference(folder, "")[-1].numpy())
    assert_close(encode(encoder_of(folder, layers=1, tokens="cls"), "")[0], reference(folder, "")[-1][:1].numpy())


def test_a_text_as_long_as_the_model_is_one_window_and_a_longer_one_is_several(folder):
    encoder = encoder_of(folder, layers=1)
    positions = 62 if encoder.model_config.pad_token_id else 64
    room = positions - 2
    whole = "x" * room
    assert_close(encode(encoder, whole)[0], reference(folder, whole)[-1][1:-1].numpy())
    longer = whole + "yz"
    halves = encode(encoder, longer[: (room + 2) // 2], longer[(room + 2) // 2 :])
    assert_close(encode(encoder, longer)[0], np.concatenate(halves))
    small = encoder_of(folder, layers=1, window_tokens=12, tokens="cls")
    assert encode(small, "x" * 35)[0].shape == (4, 32)


def test_layers_behind_the_deepest_and_the_pooler_are_cut_off(folder):
    encoder = encoder_of(folder, layers=[2])
    encoder.load()
    assert len(encoder._model.encoder.layer) == 2
    assert getattr(encoder._model, "pooler", None) is None


def test_a_checkpoint_of_a_masked_language_model_is_read():
    whole = architecture.randomly(lambda: BertForMaskedLM(FAMILIES["bert"]), seed=1)
    folder = architecture.keep_files(whole, tokenizer_of(FAMILIES["bert"]))
    with torch.inference_mode():
        ids = AutoTokenizer.from_pretrained(folder)("again", return_tensors="pt")
        last = whole.eval().bert(**ids).last_hidden_state[0, 1:-1]
    assert_close(encode(encoder_of(folder, layers=1), "again")[0], last.numpy())


@pytest.mark.parametrize("name", text_bert.ARCHITECTURES)
def test_the_published_sizes(name):
    published = text_bert.ARCHITECTURES[name]
    encoder = encoder_of(f"random:{name}")
    counted = architecture.count_parameters(lambda: encoder._build(encoder.model_config))
    assert counted == pytest.approx(published.num_parameters, rel=0.02)
    encoder._prepare_randomly()
    assert encoder._tokens.room == 510


@pytest.mark.parametrize("name", ["bert-base", "roberta-base"])
def test_random_weights_encode(name, monkeypatch):
    config = FAMILIES["bert" if name == "bert-base" else "roberta"]
    small = architecture.Architecture(lambda: config, 0, "", "", "")
    monkeypatch.setattr(text_bert.Encoder, "architectures", {name: small})
    made, alone = (
        encode(encoder_of(f"random:{name}"), "hey", "a longer one"),
        encode(encoder_of(f"random:{name}"), "hey"),
    )
    assert made[1].shape == (12, 32)
    assert_close(made[0], alone[0])


def test_weights_of_another_family_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(ConfigError, match="type 'hubert'; the text_bert plug-in takes bert"):
        _ = encoder_of(tmp_path).dim


def test_a_tokenizer_without_cls_cannot_read_it_out():
    model = architecture.randomly(lambda: AutoModel.from_config(FAMILIES["bert"]))
    folder = architecture.keep_files(model, architecture.byte_tokenizer(pad_token="[PAD]"))
    with pytest.raises(ConfigError, match="tokens=cls: this tokenizer puts no token before"):
        encoder_of(folder, tokens="cls").load()
    assert encode(encoder_of(folder), "abc")[0].shape == (3, 32)


def test_weights_without_their_tokenizer_are_refused():
    model = architecture.randomly(lambda: AutoModel.from_config(FAMILIES["bert"]))
    with pytest.raises(PluginError, match=r"tokenizer\.json"):
        encoder_of(architecture.keep_files(model)).load()


def test_a_layer_that_does_not_exist_is_refused(folder):
    with pytest.raises(ConfigError, match="hidden states 0 to 4"):
        _ = encoder_of(folder, layers=5 + 1).dim

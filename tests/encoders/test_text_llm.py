import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_close
from pydantic import ValidationError
from tokenizers import processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

from mer_ray.encoders import text_llm
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.weights import Weights

WIDTH = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
SIZES = {**WIDTH, "intermediate_size": 64, "num_key_value_heads": 2}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "gemma2": Gemma2Config(**SIZES, head_dim=8, sliding_window=8),
    "gpt2": GPT2Config(**WIDTH),
    "gpt_neox": GPTNeoXConfig(**WIDTH, intermediate_size=64),
    "opt": OPTConfig(**WIDTH, ffn_dim=64, word_embed_proj_dim=32),
    "bloom": BloomConfig(**WIDTH),
}
TEXTS = ["I really did not expect that!", "你怎么又来了", "no", "Oh no, not again… please?"]
REVISION = "0" * 40


def beginning(tokenizer):
    """Llama's way: a token before every text, none behind."""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request):
    return folder_of(request.param)


@cache
def folder_of(family):
    model = architecture.randomly(lambda: AutoModel.from_config(FAMILIES[family]), seed=3)
    tokenizer = architecture.byte_tokenizer(bos_token="<s>", eos_token="</s>")
    return architecture.keep_files(model, tokenizer if family.startswith("qwen") else beginning(tokenizer))


def encoder_of(folder, **options):
    given = {"weights": Weights(source=str(folder)), "device": "cpu", **options}
    return text_llm.Encoder(text_llm.Config(**given))


def encode(encoder, *texts):
    return encoder.encode([ClipInput(text=text) for text in texts])


@cache
def library(folder):
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def reference(folder, text):
    """All hidden states of one text's own tokens, (T, D) each, by the library's own tokenizer and forward."""
    tokenizer, model = library(folder)
    given = tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        states = model(**given, output_hidden_states=True).hidden_states
    first = given["input_ids"].shape[1] - len(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [state[0, first:] for state in states]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda h: torch.stack(h[-4:]).mean(0)),
        ({"layers": [2], "tokens": "last"}, lambda h: h[2][-1:]),
        ({"layers": [0, 4], "combine": "concat"}, lambda h: torch.cat([h[0], h[4]], -1)),
    ],
    ids=["mean", "layer-last", "concat"],
)
def test_texts_beside_each_other_give_what_the_library_gives_one_by_one(folder, options, expected):
    for ours, text in zip(encode(encoder_of(folder, **options), *TEXTS), TEXTS, strict=True):
        assert_close(ours, expected(reference(folder, text)).numpy())


def test_in_bfloat16_a_text_is_near_what_the_library_gives_in_float32(folder):
    encoder = encoder_of(folder, dtype="bfloat16", budget=2**40)
    for ours, text in zip(encode(encoder, *TEXTS), TEXTS, strict=True):
        assert_close(ours, encode(encoder, text)[0], 2e-2)
        assert_close(ours, torch.stack(reference(folder, text)[-4:]).mean(0).numpy(), 2e-2)


def test_experts_are_multiplied_in_bfloat16():
    encoder = encoder_of(folder_of("mixtral"), dtype="bfloat16")
    encoder.load()
    experts = [p for name, p in encoder._model.named_parameters() if ".experts." in name]
    assert len(experts) == 8
    assert {parameter.dtype for parameter in experts} == {torch.bfloat16}


def test_the_last_state_is_behind_the_final_norm(folder):
    tokenizer, model = library(folder)
    with torch.inference_mode():
        final = model(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state[0]
    assert_close(encode(encoder_of(folder, layers=1, tokens="all"), TEXTS[0])[0], final.numpy())


def test_the_beginning_token_is_a_frame_only_when_wanted():
    content, whole = (encode(encoder_of(folder_of("llama"), tokens=which), "abc")[0] for which in ("content", "all"))
    assert whole.shape == (4, 32)
    assert_close(content, whole[1:])


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_an_empty_transcript_is_one_token(family):
    folder = folder_of(family)
    tokenizer, model = library(folder)
    with torch.inference_mode():
        ids = torch.tensor([[tokenizer.bos_token_id]])
        expected = model(input_ids=ids).last_hidden_state[0].numpy()
    for empty in ("", None):
        assert_close(encode(encoder_of(folder, layers=1), empty, "beside it")[0], expected)


def test_a_template_is_put_round_the_transcript():
    folder = folder_of("llama")
    within = encoder_of(folder, template="He said {text}, so")
    assert_close(encode(within, "{no} {text}")[0], encode(encoder_of(folder), "He said {no} {text}, so")[0])
    assert encode(within, "")[0].shape == (len("He said , so"), 32)


@pytest.mark.parametrize("template", ["no place", "{text} and {text}"])
def test_a_template_without_one_place_is_refused(template):
    with pytest.raises(ValidationError, match=r"written once, as \{text\}"):
        encoder_of("random:any", template=template)


def test_a_long_text_is_encoded_in_windows():
    folder = folder_of("llama")
    halves = np.concatenate(encode(encoder_of(folder), "a" * 13, "b" * 12))
    assert_close(encode(encoder_of(folder, window_tokens=14), "a" * 13 + "b" * 12)[0], halves)


def test_positions_of_the_model_limit_the_window():
    config = GPT2Config(**WIDTH, n_positions=16)
    model = architecture.randomly(lambda: AutoModel.from_config(config))
    folder = architecture.keep_files(model, architecture.byte_tokenizer(eos_token="</s>"))
    assert encode(encoder_of(folder), "x" * 40)[0].shape == (40, 32)


def test_layers_behind_the_deepest_are_cut_off(folder):
    encoder = encoder_of(folder, layers=[1, 2])
    encoder.load()
    owner, name = encoder._stack(encoder._model)
    assert len(getattr(owner, name)) == 2
    assert not hasattr(encoder._model, "lm_head")


def own_code(folder):
    """A checkpoint as Baichuan's: the library has no class for it, its own code only the one with the head."""
    config = LlamaConfig(**SIZES)
    model = architecture.randomly(lambda: LlamaForCausalLM(config), seed=4)
    for part in (model, beginning(architecture.byte_tokenizer(bos_token="<s>"))):
        part.save_pretrained(folder)
    (folder / "configuration_own.py").write_text(
        "from transformers import LlamaConfig\n\n\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    (folder / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\n\nfrom .configuration_own import OwnConfig\n\n\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    saved = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    saved |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(saved))
    return model.eval()


def test_a_model_with_code_of_its_own_needs_trust(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "own"
    model = own_code(folder)
    with pytest.raises(Exception, match="trust_remote_code"):
        _ = encoder_of(folder).dim
    trusted = Weights(source=str(folder), trust_remote_code=True, revision=REVISION)
    made = encode(encoder_of(folder, weights=trusted, layers=1), "again", "and once more")[0]
    with torch.inference_mode():
        ids = AutoTokenizer.from_pretrained(folder)("again", return_tensors="pt")["input_ids"]
        assert_close(made, model.model(input_ids=ids).last_hidden_state[0, 1:].numpy())
    assert list(Path(tmp_path / "modules").rglob("modeling_own.py"))


def test_a_checkpoint_with_its_head_is_read():
    whole = architecture.randomly(lambda: LlamaForCausalLM(FAMILIES["llama"]), seed=1)
    folder = architecture.keep_files(whole, architecture.byte_tokenizer(eos_token="</s>"))
    with torch.inference_mode():
        ids = AutoTokenizer.from_pretrained(folder)("again", return_tensors="pt")["input_ids"]
        expected = whole.eval().model(input_ids=ids).last_hidden_state[0].numpy()
    assert_close(encode(encoder_of(folder, layers=1), "again")[0], expected)


@pytest.mark.parametrize("name", text_llm.ARCHITECTURES)
def test_the_published_sizes(name):
    published = text_llm.ARCHITECTURES[name]
    encoder = encoder_of(f"random:{name}")
    counted = architecture.count_parameters(lambda: encoder._build(encoder.model_config))
    assert counted == pytest.approx(published.num_parameters, rel=0.02)


def test_random_weights_encode(monkeypatch):
    small = architecture.Architecture(lambda: FAMILIES["qwen3"], 0, "", "", "")
    monkeypatch.setattr(text_llm.Encoder, "architectures", {"small": small})
    made, alone = (encode(encoder_of("random:small"), *texts) for texts in (["hey", "a longer one"], ["hey"]))
    assert made[1].shape == (12, 32)
    assert_close(made[0], alone[0])


@pytest.mark.parametrize("kind", ["hubert", "bert", "t5", "whisper"])
def test_weights_of_another_family_are_refused(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ConfigError, match=f"type '{kind}' is no causal language model"):
        _ = encoder_of(tmp_path).dim


def test_a_last_state_of_another_width_is_refused(tmp_path):
    OPTConfig(**WIDTH, ffn_dim=64, word_embed_proj_dim=16).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"layers are 32 wide and its last state 16 \(word_embed_proj_dim\)"):
        _ = encoder_of(tmp_path).dim


def test_weights_without_their_tokenizer_are_refused():
    model = architecture.randomly(lambda: AutoModel.from_config(FAMILIES["llama"]))
    with pytest.raises(PluginError, match=r"tokenizer\.json"):
        encoder_of(architecture.keep_files(model)).load()

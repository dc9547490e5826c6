"""Arguments of networks, by the config.yaml that FunASR publishes beside a pickle."""

import json

import pytest
import yaml

from mer_ray import registry
from mer_ray.errors import PluginError
from mer_ray.pretrained import funasr

ENCODER = {"output_size": 64, "attention_heads": 8, "linear_units": 96, "num_blocks": 5, "dropout_rate": 0.1}
ENCODER |= {"input_layer": "pe", "kernel_size": 7, "sanm_shfit": None}
FRONTEND = {"fs": 16000, "window": "hamming", "n_mels": 40, "frame_length": 25, "frame_shift": 10, "lfr_m": 7}
SENSEVOICE = {
    "model": "SenseVoiceSmall",
    "encoder_conf": ENCODER | {"tp_blocks": 3},
    "frontend_conf": FRONTEND | {"lfr_n": 6},
}
PARAFORMER = {
    "model": "BiCifParaformer",
    "encoder_conf": ENCODER,
    "decoder_conf": {"num_blocks": 4, "att_layer_num": 4},
    "predictor_conf": {"tail_threshold": 0.3},
}
PUNCTUATION = {
    "model": "CTTransformer",
    "model_conf": {"embed_unit": 24, "att_unit": 64, "punc_list": ["<unk>", "_", "，"], "sentence_end_id": 3},
    "encoder_conf": ENCODER,
}
SIZES = {"output_size": 64, "attention_heads": 8, "linear_units": 96, "num_blocks": 5, "kernel_size": 7}


def plugin(kind, name):
    module = registry.find(kind, name)
    source = f"random:{next(iter(module.ARCHITECTURES))}"
    return registry.build(kind, name, {"weights": {"source": source}})


def beside(folder, config, num_tokens=9):
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "tokens.json").write_text(json.dumps(["x"] * num_tokens))


@pytest.mark.parametrize(
    ("kind", "name", "config", "more"),
    [
        ("recognisers", "sensevoice", SENSEVOICE, {"input_size": 280, "tp_blocks": 3}),
        ("recognisers", "paraformer", PARAFORMER, {"input_size": 560, "decoder_blocks": 4, "tail_threshold": 0.3}),
        ("punctuators", "ct_transformer", PUNCTUATION, {"embed_unit": 24, "marks": ["<unk>", "_", "，"]}),
    ],
)
def test_a_networks_sizes_are_those_of_the_file_and_of_its_tokens(kind, name, config, more, tmp_path):
    made = plugin(kind, name)
    assert made.published(tmp_path) == made.model_config
    beside(tmp_path, config)
    told = made.published(tmp_path)
    assert told == made.model_config | SIZES | more | {"vocab_size": 9}
    made.network(told)


def test_sensevoice_as_published_has_the_published_sizes(tmp_path):
    encoder = {"output_size": 512, "attention_heads": 4, "linear_units": 2048, "num_blocks": 50, "tp_blocks": 20}
    encoder |= {"input_layer": "pe", "normalize_before": True, "kernel_size": 11, "sanm_shfit": 0}
    config = {"model": "SenseVoiceSmall", "encoder_conf": encoder | {"selfattention_layer_type": "sanm"}}
    frontend = FRONTEND | {"n_mels": 80, "lfr_n": 6, "cmvn_file": None}
    beside(tmp_path, config | {"frontend_conf": frontend}, num_tokens=25055)
    made = plugin("recognisers", "sensevoice")
    assert made.published(tmp_path) == made.model_config


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (SENSEVOICE | {"model": "SenseVoiceLarge"}, "it is of the model 'SenseVoiceLarge'; SenseVoiceSmall are taken"),
        (SENSEVOICE | {"frontend_conf": FRONTEND | {"lfr_n": 3}}, "frontend_conf tells {'lfr_n': 3}"),
        (SENSEVOICE | {"encoder_conf": {"input_layer": "conv2d"}}, "encoder_conf tells {'input_layer': 'conv2d'}"),
        (["no", "table"], "it is of the model None"),
    ],
)
def test_another_model_is_refused(config, told, tmp_path):
    beside(tmp_path, config)
    with pytest.raises(PluginError, match=told):
        plugin("recognisers", "sensevoice").published(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"decoder_conf": {"attention_heads": 4}}, "decoder_conf tells {'attention_heads': 4}"),
        ({"decoder_conf": {"sanm_shfit": 5}}, "decoder_conf tells {'sanm_shfit': 5}"),
        ({"predictor_conf": {"threshold": 0.9}}, "predictor_conf tells {'threshold': 0.9}"),
    ],
)
def test_a_paraformer_that_counts_or_decodes_otherwise_is_refused(change, told, tmp_path):
    beside(tmp_path, PARAFORMER | change)
    with pytest.raises(PluginError, match=told):
        plugin("recognisers", "paraformer").published(tmp_path)


def test_a_model_of_words_that_jieba_finds_is_refused(tmp_path):
    beside(tmp_path, PUNCTUATION)
    (tmp_path / "jieba_usr_dict").write_text("")
    with pytest.raises(PluginError, match="words that jieba finds"):
        plugin("punctuators", "ct_transformer").published(tmp_path)


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / "config.yaml").write_text("model: [")
    with pytest.raises(PluginError, match=r"config\.yaml cannot be read"):
        funasr.read(tmp_path, ("X",))

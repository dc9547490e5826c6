from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, BertConfig, BertModel

from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.weights import Weights

SMALL = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)


@pytest.fixture
def folder():
    return Path(architecture.keep_files(architecture.randomly(lambda: AutoModel.from_config(SMALL))))


def test_random_weights_depend_on_the_seed_alone():
    before = torch.random.get_rng_state()
    made = [architecture.randomly(lambda: nn.Linear(3, 3), seed=seed).weight for seed in (1, 1, 2)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's random numbers are left alone"


def test_parameters_are_counted_without_memory():
    assert architecture.count_parameters(lambda: nn.Linear(100_000, 100_000)) == 10_000_100_000


def test_a_saved_model_loads_as_it_was(folder):
    loaded = architecture.load(AutoModel, folder, Weights(source=str(folder)))
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in saved.items())


def test_missing_tensors_are_refused_unless_nothing_reads_them(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PluginError, match=r"2 tensors of BertModel are missing .* pooler\.dense"):
        architecture.load(AutoModel, folder, Weights(source=str(folder)))
    architecture.load(AutoModel, folder, Weights(source=str(folder)), ("pooler.",))
    assert architecture.load(BertModel, folder, Weights(source=str(folder)), add_pooling_layer=False) is not None


def test_tensors_of_another_shape_are_refused(folder):
    (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"vocab_size": 50', '"vocab_size": 60')
    )
    with pytest.raises(PluginError, match=r"cannot be loaded|of another shape"):
        architecture.load(AutoModel, folder, Weights(source=str(folder)))


def test_a_file_cut_short_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PluginError, match="cannot be loaded"):
        architecture.load(AutoModel, folder, Weights(source=str(folder)))


def test_an_unknown_random_architecture_names_the_known_ones():
    known = {"small": Architecture(lambda: SMALL, 1e4, "here", "none", "none")}
    assert architecture.pick(known, Weights(source="random:small")) is known["small"]
    with pytest.raises(ConfigError, match="there are small"):
        architecture.pick(known, Weights(source="random:smal"))


@pytest.mark.parametrize("text", ["hello", "你好", "😀 é", ""])
def test_the_byte_tokenizer_takes_every_text(text):
    tokenizer = architecture.byte_tokenizer(pad_token="<pad>", cls_token="<s>", sep_token="</s>")
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode()) + 2
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert max(ids) < 256 + 3

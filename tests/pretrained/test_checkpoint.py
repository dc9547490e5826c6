import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mer_ray.errors import PluginError
from mer_ray.pretrained import checkpoint
from mer_ray.pretrained.checkpoint import Checkpoint


def build():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


@pytest.fixture
def folder(tmp_path):
    Checkpoint({"width": 4}, build()).save_pretrained(tmp_path)
    return tmp_path


def change(folder, **tensors):
    """Put tensors in place of those of the file; None takes one away."""
    kept = load_file(folder / "model.safetensors") | tensors
    save_file({name: tensor for name, tensor in kept.items() if tensor is not None}, folder / "model.safetensors")


def test_a_saved_model_loads_as_it_was(folder):
    loaded = checkpoint.load(build, folder, "here")
    saved = load_file(folder / "model.safetensors")
    assert loaded.state_dict().keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.state_dict().items())
    assert loaded(torch.ones(1, 3)).shape == (1, 2)
    assert checkpoint.read_config(folder, "here") == {"width": 4}


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"1.bias": None}, r"1 missing: 1\.bias$"),
        ({"2.bias": torch.ones(2)}, r"1 not of this model: 2\.bias$"),
        ({"1.bias": torch.ones(3)}, r"1 of another shape: 1\.bias \(3,\) for \(2,\)$"),
        (
            dict.fromkeys(build().state_dict()),
            r"4 missing: 0\.bias, 0\.weight, 1\.bias, \.\.\.",
        ),
    ],
)
def test_tensors_of_another_model_are_refused_by_name(folder, tensors, told):
    change(folder, **tensors)
    with pytest.raises(PluginError, match=rf"weights here: these are weights of another model .*; tensors {told}"):
        checkpoint.load(build, folder, "here")


def test_a_file_cut_short_and_one_that_is_not_there_are_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(PluginError, match=r"weights here: .*model\.safetensors cannot be read"):
        checkpoint.load(build, folder, "here")
    file.unlink()
    with pytest.raises(PluginError, match=r"weights here: .*model\.safetensors cannot be read"):
        checkpoint.load(build, folder, "here")


@pytest.mark.parametrize(("text", "told"), [("{", "cannot be read"), ("[1]", "holds no arguments but a list")])
def test_a_config_that_is_none_is_refused(folder, text, told):
    (folder / "config.json").write_text(text)
    with pytest.raises(PluginError, match=told):
        checkpoint.read_config(folder, "here")

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mer_ray.errors import PluginError
from mer_ray.pretrained.adapters import Adapter, add_adapters


def tensors(width=6, bottleneck=3, layers=(2, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"down.weight": (bottleneck, width), "down.bias": (bottleneck,), "up.weight": (width, bottleneck)}
    shapes["up.bias"] = (width,)
    return {
        f"layers.{layer}.{name}": torch.randn(shape, generator=generator)
        for layer in layers
        for name, shape in shapes.items()
    }


def test_it_computes_the_formula_of_the_paper():
    given = tensors(layers=(2,))
    adapter = Adapter(6, 3)
    adapter.load_state_dict({name.removeprefix("layers.2."): tensor for name, tensor in given.items()})
    x = torch.randn(4, 6)
    down = (x @ given["layers.2.down.weight"].T + given["layers.2.down.bias"]).clamp(min=0)
    expected = x + (down @ given["layers.2.up.weight"].T + given["layers.2.up.bias"]).clamp(min=0)
    torch.testing.assert_close(adapter(x), expected)


def test_adapters_stand_behind_their_layers(tmp_path):
    file = tmp_path / "adapters.safetensors"
    save_file(tensors(), file)
    layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
    x = torch.randn(2, 6)
    before = [layer(x) for layer in layers]
    add_adapters(layers, str(file))
    changed = [not torch.equal(layer(x), old) for layer, old in zip(layers, before, strict=True)]
    assert changed == [False, True, True, False]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (tensors(layers=(5,)), "the model has 4"),
        ({"other": torch.zeros(1)}, "the model has 4"),
        ({k: v for k, v in tensors().items() if "up.bias" not in k}, "layer 2 is incomplete"),
    ],
)
def test_a_file_for_another_model_is_refused(tmp_path, made, why):
    file = tmp_path / "adapters.safetensors"
    save_file(made, file)
    with pytest.raises(PluginError, match=why):
        add_adapters(nn.ModuleList(nn.Linear(6, 6) for _ in range(4)), str(file))


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(PluginError, match=r"adapters .*none: there is no such file"):
        add_adapters(nn.ModuleList([nn.Linear(6, 6)]), str(tmp_path / "none"))
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(PluginError, match=r"adapters .*text: cannot be read as safetensors"):
        add_adapters(nn.ModuleList([nn.Linear(6, 6)]), str(tmp_path / "text"))

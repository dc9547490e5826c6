import pytest
import torch
from safetensors.torch import load_file, save_file

from mer_ray.errors import PluginError
from mer_ray.pretrained.projection import FILE, Projection


def tensors(width=5, hidden=3, audio=4):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "hidden.weight": (hidden, width),
        "hidden.bias": (hidden,),
        "out.weight": (audio, hidden),
        "out.bias": (audio,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_it_is_the_formula_of_the_paper(tmp_path):
    t = tensors()
    save_file(t, tmp_path / FILE)
    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    inner = (features @ t["hidden.weight"].T + t["hidden.bias"]).clamp(min=0)
    expected = (inner @ t["out.weight"].T + t["out.bias"]).clamp(min=0)
    torch.testing.assert_close(Projection.load(tmp_path)(features), expected)
    assert (expected == 0).any()
    assert (expected > 0).any()


def test_what_is_saved_is_loaded(tmp_path):
    made = Projection(6, 4)
    made.save(tmp_path)
    assert {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / FILE).items()} == {
        "hidden.weight": (4, 6),
        "hidden.bias": (4,),
        "out.weight": (4, 4),
        "out.bias": (4,),
    }
    loaded = Projection.load(tmp_path)
    features = torch.ones(6)
    torch.testing.assert_close(loaded(features), made(features))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_half_precision_files_become_float32(tmp_path):
    save_file({name: tensor.half() for name, tensor in tensors().items()}, tmp_path / FILE)
    assert Projection.load(tmp_path)(torch.ones(5)).dtype == torch.float32


def test_gradients_reach_all_of_it():
    made = Projection(6, 4)
    made(torch.randn(32, 6, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in made.parameters())


@pytest.mark.parametrize("fault", ["missing", "garbage", "lacking", "extra", "shape"])
def test_other_files_are_refused(tmp_path, fault):
    t = tensors()
    if fault == "garbage":
        (tmp_path / FILE).write_bytes(b"no tensors")
    elif fault != "missing":
        if fault == "lacking":
            del t["out.bias"]
        elif fault == "extra":
            t["norm.weight"] = torch.ones(4)
        else:
            t["hidden.bias"] = torch.ones(9)
        save_file(t, tmp_path / FILE)
    with pytest.raises(PluginError, match=r"projection\.safetensors: not a projection"):
        Projection.load(tmp_path)

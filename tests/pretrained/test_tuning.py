"""What trains of a model, and what is left of it afterwards."""

import numpy as np
import pytest
import torch

from mer_ray import registry
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError
from mer_ray.pretrained import tuning
from mer_ray.pretrained.tuning import Tuning

CLIPS = [ClipInput(audio=np.sin(np.arange(8000 + 2000 * i) / (9 + i)).astype(np.float32)) for i in range(2)]


def network(plugin, **how):
    encoder = registry.find("encoders", plugin).tiny()
    model = encoder.network(lambda model: tuning.apply(model, Tuning(**how)))
    return encoder, model


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_full_and_frozen_are_all_and_nothing():
    _, model = network("hubert", how="full")
    assert trained(model) == {name for name, _ in model.named_parameters()}
    for how in ("frozen", "projector"):
        _, model = network("hubert", how=how)
        assert trained(model) == set()


def test_partial_trains_layers_and_names():
    _, model = network("hubert", how="partial", layers=(2, 3), names=("encoder.layer_norm.*",))
    names = trained(model)
    assert {name.split(".")[2] for name in names if ".layers." in name} == {"1", "2"}
    assert {name for name in names if ".layers." not in name} == {
        "encoder.layer_norm.weight",
        "encoder.layer_norm.bias",
    }


def test_layers_are_those_of_the_transformer_and_of_the_decoder_where_there_are_two():
    """HuBERT's list of convolutions is longer, and Qwen2-Audio has a stack for the sound."""
    assert tuning.stack(network("hubert", how="frozen")[1])[0] == "encoder.layers"
    assert tuning.stack(network("joint_audio_text", how="frozen")[1])[0] == "language_model.layers"


def test_adapters_begin_as_p2_says_and_alone_train():
    encoder, model = network("hubert", how="adapters", layers=(2, 2), bottleneck=5)
    assert {name.partition(".adapter.")[0] for name in trained(model)} == {"encoder.layers.1"}
    assert model.encoder.layers[1].adapter.down.weight.shape == (5, 32)
    assert encoder.features(encoder.inputs(CLIPS)[0]).pooled().requires_grad


def test_low_rank_updates_merge_into_their_matrices():
    encoder, model = network("text_llm", how="lora", rank=3, alpha=6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    clips = [ClipInput(text="how lovely"), ClipInput(text="oh")]
    (inputs,) = encoder.inputs(clips)
    model.eval()
    expected = encoder.features(inputs).pooled()
    weights = dict(tuning.merged(model.state_dict().items(), Tuning(how="lora", rank=3, alpha=6)))
    plain, whole = network("text_llm", how="frozen")
    assert set(weights) == set(whole.state_dict())
    before = plain.features(inputs).pooled()
    whole.load_state_dict(weights)
    torch.testing.assert_close(plain.features(inputs).pooled(), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-3)


def test_layers_run_again_in_the_backward_give_the_same_gradients():
    found = []
    for again in (False, True):
        encoder, model = network("hubert", how="full")
        if again:
            tuning.recompute(model)
        torch.manual_seed(0)
        model.train()
        encoder.features(encoder.inputs(CLIPS)[0]).pooled().pow(2).sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_every_layer_is_run_in_training_and_nothing_of_a_short_clip_is_hidden():
    """HuBERT would skip layers, whose states are then not there to be read, and mask ten frames of nine."""
    encoder, model = network("hubert", how="full")
    model.train()
    short = encoder.inputs([ClipInput(audio=np.zeros(3200, np.float32))])[0]
    for seed in range(40):
        torch.manual_seed(seed)
        assert torch.isfinite(encoder.features(short).pooled()).all()


@pytest.mark.parametrize(
    ("plugin", "how", "why"),
    [
        ("hubert", {"how": "partial", "layers": (2, 9)}, "layers 1 to 3"),
        ("hubert", {"how": "partial", "names": ("head.*",)}, "no parameter is called so"),
        ("hubert", {"how": "prompts"}, "no CLIP"),
        ("hubert", {"how": "lora", "layers": (0, 1)}, "layers 1 to 3"),
    ],
)
def test_what_a_model_does_not_have_is_told(plugin, how, why):
    with pytest.raises(ConfigError, match=why):
        network(plugin, **how)


@pytest.mark.parametrize("how", [{"how": "partial"}, {"how": "prompts", "layers": (2, 3)}, {"how": "half"}])
def test_a_choice_that_says_nothing_is_refused(how):
    with pytest.raises(ValueError, match="how"):
        Tuning(**how)

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mer_ray import registry
from mer_ray.encoders import aligned, emotion_vit, hubert
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained.projection import FILE, Projection
from mer_ray.pretrained.weights import Weights


def clips(counts=(5, 1, 12), sides=(112, 48, 32)):
    rng = np.random.default_rng(0)
    return [
        ClipInput(faces=rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8))
        for n, side in zip(counts, sides, strict=True)
    ]


def encoder_of(plugin, options, folder, **more):
    config = {"encoder": {"plugin": plugin, "options": options}, "weights": {"source": str(folder)}, "device": "cpu"}
    return registry.build("encoders", "aligned", config | more)


@pytest.fixture
def tiny():
    return aligned.tiny()


def options_of(encoder):
    return dict(encoder.config.encoder.options)


def test_it_projects_the_mean_of_the_inner_frames(tiny):
    given = clips()
    inner = emotion_vit.Encoder(emotion_vit.Config(**options_of(tiny), device="cpu"))
    t = {name: tensor.numpy() for name, tensor in load_file(Path(tiny.config.weights.source) / FILE).items()}
    for ours, frames in zip(tiny.encode(given), inner.encode(given), strict=True):
        hidden = np.maximum(t["hidden.weight"] @ frames.mean(0) + t["hidden.bias"], 0)
        expected = np.maximum(t["out.weight"] @ hidden + t["out.bias"], 0)
        np.testing.assert_allclose(ours, expected[None], rtol=0, atol=1e-4 * expected.max())
        assert expected.max() > 0


def test_it_is_named_after_both_parts(tiny, tmp_path):
    inner = emotion_vit.Encoder(emotion_vit.Config(**options_of(tiny), device="cpu"))
    assert tiny.reads == inner.reads
    assert tiny.identity.startswith(inner.identity)
    changed = shutil.copytree(tiny.config.weights.source, tmp_path / "changed")
    tensors = load_file(changed / FILE)
    save_file(tensors | {"out.bias": tensors["out.bias"] + 1}, changed / FILE)
    other_head = encoder_of("emotion_vit", options_of(tiny), changed)
    assert other_head.identity != tiny.identity
    assert other_head.spec_options == tiny.spec_options
    pooled = encoder_of("emotion_vit", options_of(tiny) | {"pool": "mean"}, tiny.config.weights.source)
    assert pooled.identity == tiny.identity
    assert pooled.spec_options != tiny.spec_options


def test_an_encoder_without_weights_can_be_aligned(tmp_path):
    dim = registry.build("encoders", "motion", {}).dim
    Projection(dim, 7).save(tmp_path)
    encoder = encoder_of("motion", {}, tmp_path)
    assert encoder.dim == 7
    assert [vector.shape for vector in encoder.encode(clips())] == [(1, 7)] * 3


def test_shared_options_reach_the_inner_encoder(tiny):
    made = encoder_of("emotion_vit", options_of(tiny), tiny.config.weights.source, dtype="bfloat16", budget=3)
    assert made.dtype == "bfloat16"
    assert (made._inner.config.dtype, made._inner.config.budget, made._inner.config.device) == ("bfloat16", 3, "cpu")
    assert tiny._inner.config.budget == emotion_vit.Config(**options_of(tiny)).budget


def test_random_weights_project_to_the_audio_width(tiny):
    encoder = encoder_of("emotion_vit", options_of(tiny), "random:p2")
    assert encoder.dim == 1024
    assert encoder.identity.endswith("projection random:p2")
    assert encoder.encode(clips([2], [40]))[0].shape == (1, 1024)


def test_the_size_that_the_paper_implies():
    made = Projection(768, aligned.ARCHITECTURES["p2"].config())
    assert sum(p.numel() for p in made.parameters()) == aligned.ARCHITECTURES["p2"].num_parameters == 1_837_056


def test_a_projection_of_another_width_is_refused(tiny, tmp_path):
    Projection(31, 24).save(tmp_path)
    with pytest.raises(PluginError, match="features 31 wide, but emotion_vit gives 32"):
        encoder_of("emotion_vit", options_of(tiny), tmp_path).load()


def test_an_encoder_that_does_not_see_is_refused(tiny):
    options = {"weights": {"source": hubert.tiny().config.weights.source}}
    with pytest.raises(ConfigError, match=r"encoder\.plugin=hubert: an encoder of audio"):
        encoder_of("hubert", options, tiny.config.weights.source)


def test_shared_options_inside_the_encoder_are_refused(tiny):
    with pytest.raises(ConfigError, match=r"set dtype beside encoder, not in encoder\.options"):
        encoder_of("emotion_vit", options_of(tiny) | {"dtype": "float32"}, tiny.config.weights.source)


def test_a_wrong_option_of_the_encoder_is_named(tiny):
    with pytest.raises(ConfigError, match=r"unknown key encoders\.emotion_vit\.pol"):
        encoder_of("emotion_vit", options_of(tiny) | {"pol": "cls"}, tiny.config.weights.source)


def test_the_weights_field_is_the_projection():
    config = aligned.Config(encoder=aligned.Inner(plugin="motion"), weights=Weights(source="random:p2"), device="cpu")
    with pytest.raises(ConfigError, match="there are p2"):
        _ = aligned.Encoder(config.model_copy(update={"weights": Weights(source="random:clip")})).dim

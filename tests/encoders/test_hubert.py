from functools import cache

import numpy as np
import pytest
import torch
from closeness import assert_close
from safetensors.torch import save_file
from torch.nn import functional
from transformers import (
    AutoModel,
    Data2VecAudioConfig,
    HubertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
)

from mer_ray.encoders import hubert
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.weights import Weights

WIDTHS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
CONVOLUTIONS = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
FAMILIES = {
    "hubert-base": HubertConfig(**WIDTHS, **CONVOLUTIONS),
    "hubert-large": HubertConfig(**WIDTHS, **CONVOLUTIONS, **LARGE),
    "wav2vec2-base": Wav2Vec2Config(**WIDTHS, **CONVOLUTIONS),
    "wav2vec2-large": Wav2Vec2Config(**WIDTHS, **CONVOLUTIONS, **LARGE),
    "wavlm-large": WavLMConfig(**WIDTHS, **CONVOLUTIONS, **LARGE),
    "data2vec": Data2VecAudioConfig(**WIDTHS, conv_dim=(16,) * 7, num_conv_pos_embedding_groups=2),
}
LENGTHS = (24_000, 3_200, 24_000, 51_111, 9_999)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request):
    config = FAMILIES[request.param]
    model = architecture.randomly(lambda: AutoModel.from_config(config), seed=3)
    return architecture.keep_files(model, Wav2Vec2FeatureExtractor(do_normalize="large" in request.param))


def voices(lengths=LENGTHS):
    rng = np.random.default_rng(1)
    return [ClipInput(audio=(0.1 * rng.standard_normal(n)).astype(np.float32)) for n in lengths]


def encoder_of(folder, **options):
    return hubert.Encoder(hubert.Config(weights=Weights(source=str(folder)), device="cpu", **options))


@cache
def library(folder):
    return Wav2Vec2FeatureExtractor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def reference(folder, clip):
    """The library's own processor and forward: all hidden states of one clip, (1, T, D) each."""
    extractor, model = library(folder)
    with torch.inference_mode():
        return model(
            **extractor(clip.audio, sampling_rate=16_000, return_tensors="pt", return_attention_mask=False),
            output_hidden_states=True,
        )


@pytest.fixture(scope="module")
def references(folder):
    return [reference(folder, clip).hidden_states for clip in voices()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda h: torch.stack(h[-4:]).mean(0)),
        ({"combine": "sum"}, lambda h: torch.stack(h[-4:]).sum(0)),
        ({"layers": [2]}, lambda h: h[2]),
        ({"layers": [0, 3], "combine": "concat"}, lambda h: torch.cat([h[0], h[3]], -1)),
    ],
    ids=["mean", "sum", "layer", "concat"],
)
def test_it_gives_what_the_library_gives_clip_by_clip(folder, references, options, expected):
    encoder = encoder_of(folder, budget=2**40, **options)
    for ours, states in zip(encoder.encode(voices()), references, strict=True):
        assert_close(ours, expected(states)[0].numpy())


def test_in_bfloat16_a_clip_is_near_what_the_library_gives_in_float32(folder, references):
    clips = voices()
    encoder = encoder_of(folder, dtype="bfloat16", budget=2**40)
    assert len(encoder.batches(clips)) == (4 if encoder.exact else 1)
    for ours, clip, states in zip(encoder.encode(clips), clips, references, strict=True):
        assert_close(ours, encoder.encode([clip])[0], 2e-2)
        assert_close(ours, torch.stack(states[-4:]).mean(0)[0].numpy(), 6e-2)


def test_models_that_padding_would_change_are_batched_by_length(folder):
    model = library(folder)[1]
    short, long = torch.randn(1, 8_000), torch.randn(1, 24_000)
    padded = torch.cat([torch.nn.functional.pad(short, (0, 16_000)), long])
    mask = (torch.arange(24_000) < torch.tensor([[8_000], [24_000]])).long()
    with torch.inference_mode():
        alone = model(short).last_hidden_state[0]
        beside = model(padded, attention_mask=mask).last_hidden_state[0, : len(alone)]
    assert encoder_of(folder).exact == (float((alone - beside).abs().max() / alone.abs().max()) > 1e-4)


def test_learnt_layer_weights_are_used(folder, tmp_path):
    learnt = torch.tensor([0.5, -0.25, 2.0])
    save_file({"layer_weights": learnt}, tmp_path / "w.safetensors")
    (clip,) = voices([8_000])
    encoder = encoder_of(folder, layers=[1, 2, 3], combine="weighted", layer_weights=str(tmp_path / "w.safetensors"))
    states = reference(folder, clip).hidden_states
    assert_close(
        encoder.encode([clip])[0], sum(w * states[i] for w, i in zip(learnt, (1, 2, 3), strict=True))[0].numpy()
    )


def test_adapters_change_their_layer_and_those_behind_it(folder, tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "layers.3.down.weight": torch.randn(8, 32, generator=generator),
        "layers.3.down.bias": torch.zeros(8),
        "layers.3.up.weight": torch.randn(32, 8, generator=generator),
        "layers.3.up.bias": torch.zeros(32),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    clips = voices([8_000])
    options = {"layers": [2, 3, 4], "combine": "concat"}
    without = encoder_of(folder, **options).encode(clips)[0].reshape(-1, 3, 32)
    adapted = (
        encoder_of(folder, adapters=str(tmp_path / "a.safetensors"), **options).encode(clips)[0].reshape(-1, 3, 32)
    )
    np.testing.assert_allclose(adapted[:, 0], without[:, 0], atol=1e-5)
    x = torch.tensor(without[:, 1])
    down = torch.relu(x @ tensors["layers.3.down.weight"].T)
    assert_close(adapted[:, 1], (x + torch.relu(down @ tensors["layers.3.up.weight"].T)).numpy())
    assert np.abs(adapted[:, 2] - without[:, 2]).max() > 1e-3


def test_files_of_further_weights_count_by_their_content(tmp_path):
    folder = hubert.tiny().config.weights.source
    specs = []
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        save_file({"layer_weights": torch.tensor([value])}, tmp_path / name)
        encoder = encoder_of(folder, layers=1, combine="weighted", layer_weights=str(tmp_path / name))
        specs.append((encoder.identity, encoder.spec_options))
    assert specs[0] == specs[1] != specs[2]
    assert encoder_of(folder).identity not in {identity for identity, _ in specs}


def test_layers_behind_the_deepest_are_cut_off(folder):
    encoder = encoder_of(folder, layers=[2])
    encoder.load()
    assert len(encoder._model.encoder.layers) == 2


def test_attention_is_that_of_pytorch_where_the_model_supports_it(folder, monkeypatch):
    attend, calls = functional.scaled_dot_product_attention, []
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(a) or attend(*a, **k))
    encoder = encoder_of(folder)
    encoder.encode(voices([8_000]))
    supported = encoder._model._supports_sdpa
    assert supported == (encoder.model_config.model_type != "wavlm")
    assert len(calls) == (4 if supported else 0)


@pytest.mark.slow
def test_a_compiled_model_gives_what_it_gives_otherwise():
    folder = hubert.tiny().config.weights.source
    plain, compiled = (encoder_of(folder, layers=[0, 1], compile=flag) for flag in (False, True))
    for clips in (voices([12_000, 12_000]), voices([8_000, 8_000])):
        for ours, theirs in zip(compiled.encode(clips), plain.encode(clips), strict=True):
            assert_close(ours, theirs)


def test_the_final_norm_is_an_option():
    folder = hubert.tiny().config.weights.source
    (clip,) = voices([8_000])
    made = reference(folder, clip)
    assert_close(encoder_of(folder, layers=1).encode([clip])[0], made.hidden_states[-1][0].numpy())
    assert_close(encoder_of(folder, layers=1, final_norm=True).encode([clip])[0], made.last_hidden_state[0].numpy())


def test_a_long_clip_is_encoded_in_windows():
    encoder = encoder_of(hubert.tiny().config.weights.source, window_seconds=1.0)
    (clip,) = voices([40_000])
    halves = np.array_split(clip.audio, 3)
    together = np.concatenate([encoder.encode([ClipInput(audio=half)])[0] for half in halves])
    assert_close(encoder.encode([clip])[0], together)


def test_five_minutes_fit():
    (frames,) = hubert.tiny().encode(voices([5 * 60 * 16_000]))
    assert frames.shape == (14_990, 32)


@pytest.mark.parametrize("name", hubert.ARCHITECTURES)
def test_the_published_sizes(name):
    published = hubert.ARCHITECTURES[name]
    counted = architecture.count_parameters(lambda: AutoModel.from_config(published.config()))
    assert counted == pytest.approx(published.num_parameters, rel=0.02)


def test_weights_of_another_family_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="type 'bert'; the hubert plug-in takes hubert"):
        _ = encoder_of(tmp_path).dim


def test_a_layer_that_does_not_exist_is_refused(folder):
    with pytest.raises(ConfigError, match="hidden states 0 to 4"):
        _ = encoder_of(folder, layers=[5]).dim


def test_random_weights_need_a_known_name():
    with pytest.raises(ConfigError, match=r"there are .*hubert-large"):
        _ = hubert.Encoder(hubert.Config(weights=Weights(source="random:huge"))).dim


def test_adapters_that_are_missing_are_told():
    with pytest.raises(PluginError, match=r"adapters no\.safetensors"):
        encoder_of(hubert.tiny().config.weights.source, adapters="no.safetensors").load()

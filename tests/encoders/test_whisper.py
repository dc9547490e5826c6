import logging
from functools import cache

import numpy as np
import pytest
import torch
from closeness import assert_close
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mer_ray.encoders import whisper
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.weights import Weights

SIZES = {
    "d_model": 32,
    "encoder_layers": 4,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
FIVE_SECONDS = WhisperConfig(**SIZES, max_source_positions=250)
LENGTHS = (24_000, 3_200, 80_000, 51_111, 1, 79_999, 321)


def saved(model_class=WhisperModel, config=FIVE_SECONDS, seconds=5):
    model = architecture.randomly(lambda: model_class(config), seed=3)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    return architecture.keep_files(model, WhisperFeatureExtractor(config.num_mel_bins, chunk_length=seconds))


@pytest.fixture(scope="module")
def folder():
    return saved()


def voices(lengths=LENGTHS):
    rng = np.random.default_rng(1)
    return [ClipInput(audio=(0.1 * rng.standard_normal(n)).astype(np.float32)) for n in lengths]


def encoder_of(folder, **options):
    return whisper.Encoder(whisper.Config(weights=Weights(source=str(folder)), device="cpu", **options))


@cache
def library(folder):
    extractor, model = WhisperFeatureExtractor.from_pretrained(folder), WhisperModel.from_pretrained(folder)
    return extractor, model.eval().get_encoder()


def reference(folder, samples):
    """All hidden states of one clip, (T, D) each, by the library's own extractor and forward, its own frames alone."""
    extractor, encoder = library(str(folder))
    given = extractor(samples, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    frames = (int(given.attention_mask.sum()) + 1) // 2
    with torch.inference_mode():
        made = encoder(given.input_features, output_hidden_states=True)
    return [state[0, :frames] for state in made.hidden_states]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda h: h[4]),
        ({"layers": 4}, lambda h: torch.stack(h[-4:]).mean(0)),
        ({"layers": 2, "combine": "sum"}, lambda h: h[3] + h[4]),
        ({"layers": [2]}, lambda h: h[2]),
        ({"layers": [0, 3], "combine": "concat"}, lambda h: torch.cat([h[0], h[3]], -1)),
    ],
    ids=["last", "mean", "sum", "layer", "concat"],
)
def test_it_gives_what_the_library_gives_clip_by_clip(folder, options, expected):
    clips = voices()
    encoder = encoder_of(folder, budget=2**40, **options)
    for ours, clip in zip(encoder.encode(clips), clips, strict=True):
        assert_close(ours, expected(reference(folder, clip.audio)).numpy())


def test_the_window_of_the_published_models_is_30_seconds():
    folder = saved(config=WhisperConfig(**SIZES), seconds=30)
    clips = voices([72_123, 480_000])
    for ours, clip in zip(encoder_of(folder).encode(clips), clips, strict=True):
        assert_close(ours, reference(folder, clip.audio)[-1].numpy())
    assert [len(frames) for frames in encoder_of(folder).encode(clips)] == [226, 1500]


@pytest.mark.parametrize("model_class", [WhisperForConditionalGeneration, WhisperEncoder])
def test_files_with_a_head_or_without_a_decoder_give_the_same(folder, model_class):
    encoder = load_file(f"{folder}/model.safetensors")
    other = saved(model_class)
    tensors = load_file(f"{other}/model.safetensors")
    prefix = "model.encoder." if model_class is WhisperForConditionalGeneration else ""
    for name, tensor in encoder.items():
        if name.startswith("encoder."):
            assert f"{prefix}{name.removeprefix('encoder.')}" in tensors
            tensors[f"{prefix}{name.removeprefix('encoder.')}"] = tensor
    save_file(tensors, f"{other}/model.safetensors", metadata={"format": "pt"})
    (clip,) = voices([24_000])
    assert_close(encoder_of(other).encode([clip])[0], reference(folder, clip.audio)[-1].numpy())


def test_the_decoder_is_left_in_the_file_in_silence(folder, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    encoder = encoder_of(folder)
    encoder.load()
    alone = architecture.count_parameters(lambda: WhisperEncoder(FIVE_SECONDS))
    assert sum(parameter.numel() for parameter in encoder._model.parameters()) == alone
    assert "decoder" not in caplog.text


def test_layers_behind_the_deepest_are_cut_off(folder):
    encoder = encoder_of(folder, layers=[2])
    encoder.load()
    assert len(encoder._model.layers) == 2


def test_a_frame_for_every_20_ms_that_the_clip_begins(folder):
    lengths = (0, 1, 320, 321, 3_200, 80_000, 80_001, 200_000, 4_800_000)
    frames = encoder_of(folder).encode(voices(lengths))
    assert [len(made) for made in frames] == [max(1, -(-n // 320)) for n in lengths]


def test_a_long_clip_is_encoded_in_equal_windows_of_whole_frames(folder):
    (clip,) = voices([200_100])
    size = 209 * 320  # 626 frames in three windows
    parts = [clip.audio[start : start + size] for start in (0, size, 2 * size)]
    expected = np.concatenate([reference(folder, part)[-1].numpy() for part in parts])
    assert_close(encoder_of(folder).encode([clip])[0], expected)


def test_a_shorter_window_is_the_model_with_its_first_positions(folder):
    clips = voices([24_000, 32_000])
    extractor, encoder = library(saved())
    encoder.config.max_source_positions = 100
    encoder.embed_positions = torch.nn.Embedding.from_pretrained(encoder.embed_positions.weight[:100])
    ours = encoder_of(folder, window_seconds=2).encode(clips)
    for made, clip in zip(ours, clips, strict=True):
        given = extractor(clip.audio, sampling_rate=16_000, max_length=32_000, return_tensors="pt")
        with torch.inference_mode():
            assert_close(made, encoder(given.input_features).last_hidden_state[0, : len(clip.audio) // 320].numpy())
    assert np.abs(ours[0] - encoder_of(folder).encode(clips)[0]).max() > 1e-3


def test_a_window_longer_than_the_models_is_refused(folder):
    with pytest.raises(ConfigError, match="window_seconds=6: the model's window is 5 s"):
        encoder_of(folder, window_seconds=6).load()


@pytest.mark.parametrize("name", whisper.ARCHITECTURES)
def test_the_published_sizes(name):
    published = whisper.ARCHITECTURES[name]
    counted = architecture.count_parameters(lambda: WhisperEncoder(published.config()))
    assert counted == pytest.approx(published.num_parameters, rel=0.005)
    whole = {"base": 74e6, "small": 244e6, "medium": 769e6, "large": 1550e6}[name.split("-")[1]]  # Whisper, table 1
    assert architecture.count_parameters(lambda: WhisperModel(published.config())) == pytest.approx(whole, rel=0.02)


def test_random_weights_run(monkeypatch):
    small = Architecture(lambda: WhisperConfig(**SIZES, num_mel_bins=128), 1, "", "", "")
    monkeypatch.setitem(whisper.ARCHITECTURES, "small", small)
    clips = voices([16_000])
    first, second = (encoder_of("random:small", window_seconds=n).encode(clips)[0] for n in (None, None))
    assert first.shape == (50, 32)
    np.testing.assert_array_equal(first, second)
    shorter = encoder_of("random:small", window_seconds=3)
    assert shorter.encode(clips)[0].shape == (50, 32)
    assert shorter.model_config.max_source_positions == 1500


def test_weights_of_another_family_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(ConfigError, match="type 'hubert'; the whisper plug-in takes whisper"):
        _ = encoder_of(tmp_path).dim


def test_a_feature_extractor_of_another_whisper_is_refused():
    folder = saved()
    WhisperFeatureExtractor(128).save_pretrained(folder)
    with pytest.raises(PluginError, match="128 mel bands beside a model of 80"):
        encoder_of(folder).load()


def test_a_layer_that_does_not_exist_is_refused(folder):
    with pytest.raises(ConfigError, match="hidden states 0 to 4"):
        _ = encoder_of(folder, layers=[5]).dim


def test_random_weights_need_a_known_name():
    with pytest.raises(ConfigError, match=r"there are .*whisper-large-v3"):
        _ = encoder_of("random:huge").dim

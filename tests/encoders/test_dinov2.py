from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from closeness import assert_close
from transformers import AutoImageProcessor, AutoModel, Dinov2Config, Dinov2Model

from mer_ray.encoders import dinov2
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.weights import Weights

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70}


@pytest.fixture(scope="module")
def folder():
    return dinov2.tiny().config.weights.source


def encoder_of(folder, **options):
    return dinov2.Encoder(dinov2.Config(weights=Weights(source=str(folder)), device="cpu", **options))


def clips(*shapes):
    rng = np.random.default_rng(2)
    return [ClipInput(faces=rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)) for count, size in shapes]


CLIPS = clips((3, 48), (1, 20), (7, 42), (4, 128))


@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("output", ["cls", "patches"])
def test_it_gives_what_the_library_gives_frame_by_frame(folder, output, swiglu):
    processor = AutoImageProcessor.from_pretrained(folder)
    if swiglu:  # the giant
        config = Dinov2Config(**SIZES, use_swiglu_ffn=True, initializer_range=0.2)
        folder = architecture.keep_files(architecture.randomly(lambda: Dinov2Model(config), seed=4), processor)
    model = AutoModel.from_pretrained(folder).eval()
    for ours, given in zip(encoder_of(folder, output=output).encode(CLIPS), CLIPS, strict=True):
        assert len(ours) == len(given.faces)
        for vector, frame in zip(ours, given.faces, strict=True):
            with torch.inference_mode():
                states = model(**processor(images=frame, return_tensors="pt")).last_hidden_state[0]
            assert len(states) == 10
            assert_close(vector, (states[0] if output == "cls" else states[1:].mean(0)).numpy())


def test_frames_of_all_clips_share_batches(folder):
    batches = encoder_of(folder, budget=6).batches(CLIPS)
    assert [len(batch["pixels"]) for batch in batches] == [6, 6, 3]


def test_some_frames_evenly(folder):
    every = encoder_of(folder).encode(CLIPS)
    some = encoder_of(folder, num_frames=3).encode(CLIPS)
    assert [len(frames) for frames in some] == [3, 1, 3, 3]
    assert_close(some[2], every[2][[1, 3, 5]])


def test_five_minutes_at_five_frames_a_second(folder):
    (frames,) = encoder_of(folder).encode([ClipInput(faces=np.zeros((1500, 16, 16, 3), np.uint8))])
    assert frames.shape == (1500, 32)


@pytest.mark.parametrize("name", dinov2.ARCHITECTURES)
def test_the_published_sizes(name):
    published = dinov2.ARCHITECTURES[name]
    encoder = dinov2.Encoder(dinov2.Config(weights=Weights(source=f"random:{name}")))
    counted = architecture.count_parameters(lambda: encoder._build(encoder.model_config))
    assert counted == pytest.approx(published.num_parameters, rel=0.005)


def test_random_weights_are_given_the_published_pixels():
    class Small(dinov2.Encoder):
        architectures: ClassVar = {"small": Architecture(lambda: Dinov2Config(**SIZES), 1, "", "", "")}

    config = dinov2.Config(weights=Weights(source="random:small"), device="cpu", budget=64)
    first, second = Small(config).encode(CLIPS), Small(config).encode(CLIPS)
    np.testing.assert_array_equal(first[0], second[0])
    (batch,) = Small(config).batches(CLIPS)
    assert batch["pixels"].shape == (15, 3, 224, 224)


def test_weights_of_another_family_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ConfigError, match="type 'clip'; this encoder takes dinov2"):
        _ = encoder_of(tmp_path).dim


def test_a_missing_image_processor_is_told(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(Path(folder) / name)
    with pytest.raises(PluginError, match=r"preprocessor_config\.json"):
        encoder_of(tmp_path).load()

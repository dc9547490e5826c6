import json
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_close
from safetensors.torch import load_file, save_file
from torchvision.models.video import Swin3D_T_Weights, swin3d_t
from torchvision.models.video.swin_transformer import SwinTransformer3d

from mer_ray.encoders import video_swin
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.weights import Weights

ARGUMENTS = {
    "patch_size": [2, 4, 4],
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": [8, 7, 7],
}


def clips(counts=(40, 1, 16, 5), sides=(48, 112, 32, 20)):
    rng = np.random.default_rng(0)
    return [
        ClipInput(faces=rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8))
        for n, side in zip(counts, sides, strict=True)
    ]


def encoder_of(folder, **options):
    options = {"size": 32, "window": 16} | options
    return video_swin.Encoder(video_swin.Config(weights=Weights(source=str(folder)), device="cpu", **options))


class Reference:
    """torchvision's own transform and network on one window: what is behind the norm, and what is before the head."""

    def __init__(self, folder):
        self.model = SwinTransformer3d(**ARGUMENTS, num_classes=3).eval()
        self.model.load_state_dict(load_file(Path(folder) / "model.safetensors"), strict=False)
        self.model.norm.register_forward_hook(lambda module, inputs, output: setattr(self, "normed", output))
        self.model.head.register_forward_pre_hook(lambda module, inputs: setattr(self, "pooled", inputs[0]))
        self.transform = Swin3D_T_Weights.KINETICS400_V1.transforms(crop_size=(32, 32), resize_size=(32,))

    def __call__(self, frames):
        video = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).contiguous()
        with torch.inference_mode():
            self.model(self.transform(video)[None])
        return self.normed[0].mean((1, 2)).numpy(), self.pooled[0].numpy()


def test_it_gives_what_torchvision_gives_window_by_window():
    folder = video_swin.tiny().config.weights.source
    reference = Reference(folder)
    given = clips()
    long, still, exact, short = (clip.faces for clip in given)
    expected = [
        [long[:16], long[12:28], long[24:]],
        [still[[0, 0]]],
        [exact],
        [short[[0, 1, 2, 3, 4, 4]]],
    ]
    for ours, wanted in zip(encoder_of(folder).encode(given), expected, strict=True):
        made = [reference(window) for window in wanted]
        assert_close(ours, np.concatenate([steps for steps, _ in made]))
        if len(made) == 1:
            assert_close(ours.mean(0), made[0][1])


def test_the_window_and_the_size_are_options():
    folder = video_swin.tiny().config.weights.source
    (clip,) = clips([16], [40])
    assert_close(
        encoder_of(folder, window=8).encode([clip])[0],
        np.concatenate(encoder_of(folder).encode([ClipInput(faces=clip.faces[:8]), ClipInput(faces=clip.faces[8:])])),
    )
    assert encoder_of(folder, size=48).encode([clip])[0].shape == (8, 32)


@pytest.fixture
def published(tmp_path):
    """A folder as a user makes it of torchvision's weights, with their head."""
    model = architecture.randomly(lambda: swin3d_t(weights=None))
    (tmp_path / "config.json").write_text('{"variant": "swin3d_t"}')
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path


def test_weights_that_torchvision_publishes_are_taken(published):
    encoder = encoder_of(published, size=32)
    assert encoder.dim == 768
    assert encoder.encode(clips([3], [40]))[0].shape == (2, 768)


def test_weights_of_another_variant_are_refused(published):
    (published / "config.json").write_text('{"variant": "swin3d_s"}')
    with pytest.raises(PluginError, match=r"model\.safetensors is not of swin3d_s"):
        encoder_of(published).load()


@pytest.mark.parametrize(
    "config",
    [
        "{}",
        '{"variant": "swin9d"}',
        '{"variant": "custom"}',
        json.dumps({"variant": "swin3d_t"} | ARGUMENTS),
        "no json",
    ],
)
def test_a_config_that_names_no_variant_is_refused(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ConfigError, match=r'config\.json must be like {"variant": "swin3d_t"}'):
        _ = encoder_of(tmp_path).dim


@pytest.mark.parametrize("name", video_swin.ARCHITECTURES)
def test_the_published_sizes(name):
    published = video_swin.ARCHITECTURES[name]
    encoder = encoder_of(f"random:{name}")
    assert encoder.dim == (1024 if name == "swin3d_b" else 768)
    counted = architecture.count_parameters(lambda: encoder._build(encoder.model_config))
    assert counted == pytest.approx(published.num_parameters, rel=0.02)


def test_random_weights_make_features():
    encoder = encoder_of("random:swin3d_t")
    assert [frames.shape for frames in encoder.encode(clips([20, 1], [40, 40]))] == [(16, 768), (1, 768)]

import numpy as np
import pytest
import torch
from closeness import assert_close
from PIL import Image
from transformers import (
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMAEModel,
    ViTModel,
)

from mer_ray.encoders import emotion_vit
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.weights import Weights

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.2,
}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 1,
    "decoder_intermediate_size": 32,
}
PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})


def clips(counts=(5, 1, 12), sides=(112, 48, 32)):
    rng = np.random.default_rng(0)
    return [
        ClipInput(faces=rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8))
        for n, side in zip(counts, sides, strict=True)
    ]


def encoder_of(folder, **options):
    return emotion_vit.Encoder(emotion_vit.Config(weights=Weights(source=str(folder)), device="cpu", **options))


def reference(model, images):
    """The library's own processor and forward, one image at a time: last hidden states (N, 1 + P, D)."""
    with torch.inference_mode():
        return torch.cat(
            [model(**PROCESSOR(Image.fromarray(image), return_tensors="pt")).last_hidden_state for image in images]
        )


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_it_gives_what_the_library_gives_frame_by_frame(pool):
    folder = emotion_vit.tiny().config.weights.source
    model = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    given = clips()
    for ours, clip in zip(encoder_of(folder, pool=pool).encode(given), given, strict=True):
        states = reference(model, clip.faces)
        assert_close(ours, (states[:, 0] if pool == "cls" else states[:, 1:].mean(1)).numpy())


def unmasked(model, image):
    """What the masked autoencoder's own encoder gives of a whole image, its patches kept in order."""
    model = getattr(model, "vit", model).eval()
    model.config.mask_ratio = 0.0
    noise = torch.linspace(0, 1, 16)[None]
    with torch.inference_mode():
        return model(**PROCESSOR(Image.fromarray(image), return_tensors="pt"), noise=noise).last_hidden_state


@pytest.mark.parametrize("made_by", [ViTMAEForPreTraining, ViTMAEModel])
def test_weights_of_a_masked_autoencoder_are_taken(made_by):
    model = architecture.randomly(lambda: made_by(ViTMAEConfig(**SIZES, **DECODER)), seed=3)
    folder = architecture.keep_files(model, PROCESSOR)
    (clip,) = clips([2], [40])
    (ours,) = encoder_of(folder).encode([clip])
    assert_close(ours, torch.cat([unmasked(model, image)[:, 0] for image in clip.faces]).numpy())


def test_weights_of_a_classifier_are_taken():
    model = architecture.randomly(lambda: ViTForImageClassification(ViTConfig(**SIZES)), seed=3)
    folder = architecture.keep_files(model, PROCESSOR)
    (clip,) = clips([2], [40])
    assert_close(encoder_of(folder).encode([clip])[0], reference(model.vit.eval(), clip.faces)[:, 0].numpy())


def test_a_grid_is_one_image_of_evenly_spaced_frames():
    folder = emotion_vit.tiny().config.weights.source
    model = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    (clip,) = clips([12], [48])
    rows = [np.concatenate(clip.faces[[left, right]], axis=1) for left, right in ((1, 4), (7, 10))]
    (ours,) = encoder_of(folder, grid=2).encode([clip])
    assert_close(ours, reference(model, [np.concatenate(rows)])[:, 0].numpy())


def test_a_grid_of_one_frame_repeats_it():
    (clip,) = clips([1], [20])
    np.testing.assert_array_equal(emotion_vit.tiled(clip.faces, 3), np.tile(clip.faces[0], (3, 3, 1)))


def test_only_so_many_frames_are_taken():
    encoder = encoder_of(emotion_vit.tiny().config.weights.source, num_frames=4)
    long, short = encoder.encode(clips([12, 3], [32, 32]))
    assert (len(long), len(short)) == (4, 3)
    assert_close(long, encoder.encode([ClipInput(faces=clips([12, 3], [32, 32])[0].faces[[1, 4, 7, 10]])])[0])


def test_a_grid_and_a_number_of_frames_contradict_each_other():
    with pytest.raises(ValueError, match="leave out num_frames"):
        encoder_of("random:vit-mae-base", grid=2, num_frames=4)


@pytest.mark.parametrize("name", emotion_vit.ARCHITECTURES)
def test_the_published_sizes(name):
    published = emotion_vit.ARCHITECTURES[name]
    encoder = encoder_of(f"random:{name}")
    counted = architecture.count_parameters(lambda: encoder._build(encoder.model_config))
    assert counted == pytest.approx(published.num_parameters, rel=0.02)


def test_random_weights_make_features():
    sizes = emotion_vit.ARCHITECTURES | {"small": architecture.Architecture(lambda: ViTConfig(**SIZES), 0, "", "", "")}
    encoder = encoder_of("random:small")
    encoder.architectures = sizes
    assert [frames.shape for frames in encoder.encode(clips())] == [(5, 32), (1, 32), (12, 32)]


def test_weights_of_another_family_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    with pytest.raises(ConfigError, match="type 'dinov2'; the emotion_vit plug-in takes vit, vit_mae"):
        _ = encoder_of(tmp_path).dim


def test_weights_of_another_size_are_refused(tmp_path):
    model = architecture.randomly(lambda: ViTModel(ViTConfig(**SIZES), add_pooling_layer=False))
    folder = architecture.keep_files(model, PROCESSOR)
    ViTConfig(**SIZES | {"num_hidden_layers": 3}).save_pretrained(folder)
    with pytest.raises(PluginError, match="weights of another model"):
        encoder_of(folder).load()

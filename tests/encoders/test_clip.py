import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import open_clip
import pytest
import torch
from closeness import assert_close
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig

from mer_ray.encoders import clip
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture, open_clip_tower
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.weights import Weights

TEXT = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
OPEN_CLIP = {
    "model_cfg": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear"},
}


@pytest.fixture(scope="module")
def whole():
    """A folder with both towers, as transformers publishes CLIP."""
    vision = clip.tiny().model_config.to_dict()
    config = CLIPConfig(text_config=CLIPTextConfig(**TEXT, projection_dim=24), vision_config=vision, projection_dim=24)
    model = architecture.randomly(lambda: CLIPModel(config), seed=5)
    return architecture.keep_files(
        model, CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with both towers, as open_clip publishes CLIP."""
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP))
    model = architecture.randomly(lambda: open_clip.CLIP(**json.loads(json.dumps(OPEN_CLIP["model_cfg"]))), seed=6)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def encoder_of(folder, **options):
    return clip.Encoder(clip.Config(weights=Weights(source=str(folder)), device="cpu", **options))


def clips(*shapes):
    rng = np.random.default_rng(2)
    smooth = (rng.integers(0, 256, (count, 5, 5, 3), dtype=np.uint8) for count, _ in shapes)
    return [
        ClipInput(
            faces=np.stack([np.asarray(Image.fromarray(frame).resize((size, size), Image.BICUBIC)) for frame in frames])
        )
        for frames, (_, size) in zip(smooth, shapes, strict=True)
    ]


CLIPS = clips((3, 48), (1, 20), (7, 32), (4, 128))


@pytest.mark.parametrize("output", ["projected", "pooled"])
def test_it_gives_what_transformers_gives_frame_by_frame(whole, output):
    model = CLIPModel.from_pretrained(whole).eval()
    processor = CLIPImageProcessor.from_pretrained(whole)
    for ours, given in zip(encoder_of(whole, output=output).encode(CLIPS), CLIPS, strict=True):
        assert len(ours) == len(given.faces)
        for vector, frame in zip(ours, given.faces, strict=True):
            pixels = processor(images=frame, return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                pooled = model.vision_model(pixels).pooler_output
                wanted = model.visual_projection(pooled) if output == "projected" else pooled
            assert_close(vector, wanted[0].numpy())


@pytest.mark.parametrize("output", ["projected", "pooled"])
def test_it_gives_what_open_clip_gives_frame_by_frame(published, output):
    model = open_clip.create_model(f"local-dir:{published}").eval()
    if output == "pooled":
        model.visual.proj = None
    encoder = encoder_of(published, library="open_clip", output=output)
    encoded = encoder.encode(CLIPS)
    for ours, given in zip(encoded, CLIPS, strict=True):
        for vector, frame in zip(ours, given.faces, strict=True):
            with torch.inference_mode():
                assert_close(vector, model.encode_image(encoder._images([frame]))[0].numpy())
    assert encoded[0].shape[1] == encoder.dim == {"projected": 24, "pooled": 32}[output]


def test_open_clips_pixels_are_its_own_transforms_within_two_grey_levels():
    config = open_clip_tower.TowerConfig(OPEN_CLIP["model_cfg"], OPEN_CLIP["preprocess_cfg"])
    made = CLIPImageProcessor.from_dict(open_clip_tower.processor(config).to_dict())
    theirs = image_transform(32, is_train=False, **OPEN_CLIP["preprocess_cfg"])
    levels = 255 * torch.tensor(OPEN_CLIP["preprocess_cfg"]["std"]).view(3, 1, 1)
    for given in CLIPS:
        for frame in given.faces:
            pixels = made(images=frame, return_tensors="pt")["pixel_values"][0]
            apart = (pixels - theirs(Image.fromarray(frame))).abs() * levels
            assert apart.max() < 2.01
            assert apart.mean() < 0.1


@pytest.mark.parametrize(("dtype", "spread"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_open_clips_batches_change_nothing(published, dtype, spread):
    encoder = encoder_of(published, library="open_clip", dtype=dtype)
    for together, given in zip(encoder.encode(CLIPS), CLIPS, strict=True):
        (alone,) = encoder.encode([given])
        assert np.abs(together - alone).max() <= spread * np.abs(alone).max()
    exact = encoder_of(published, library="open_clip").encode(CLIPS[:1])[0]
    assert np.abs(encoder.encode(CLIPS[:1])[0] - exact).max() <= spread * np.abs(exact).max()


def test_the_text_towers_stay_behind(whole, published):
    for encoder in (encoder_of(whole), encoder_of(published, library="open_clip")):
        encoder.load()
        names = [name for name, _ in encoder._model.named_parameters()]
        assert names
        assert not [name for name in names if "text" in name or "token_embedding" in name]


def test_frames_of_all_clips_share_batches(whole):
    batches = encoder_of(whole, budget=6).batches(CLIPS)
    assert [len(batch["pixels"]) for batch in batches] == [6, 6, 3]


def test_some_frames_evenly(whole):
    every = encoder_of(whole).encode(CLIPS)
    some = encoder_of(whole, num_frames=3).encode(CLIPS)
    assert [len(frames) for frames in some] == [3, 1, 3, 3]
    assert_close(some[2], every[2][[1, 3, 5]])
    assert_close(some[1], every[1])


def test_five_minutes_at_five_frames_a_second():
    faces = np.zeros((1500, 16, 16, 3), np.uint8)
    (frames,) = clip.tiny().encode([ClipInput(faces=faces)])
    assert frames.shape == (1500, 24)


@pytest.mark.parametrize("name", clip.ARCHITECTURES)
def test_the_published_sizes(name):
    published = clip.ARCHITECTURES[name]
    config = published.config()
    library = "open_clip" if isinstance(config, open_clip_tower.TowerConfig) else "transformers"
    encoder = clip.Encoder(clip.Config(weights=Weights(source=f"random:{name}"), library=library))
    counted = architecture.count_parameters(lambda: encoder._build(encoder.model_config))
    assert counted == pytest.approx(published.num_parameters, rel=0.001)
    widths = {"clip-vit-base": 512, "clip-vit-large": 768, "ViT-H": 1024, "ViT-bigG": 1280}
    assert encoder.dim == next(width for beginning, width in widths.items() if name.startswith(beginning))


@pytest.mark.parametrize("library", ["transformers", "open_clip"])
def test_random_weights(library):
    class Small(clip.Encoder):
        architectures: ClassVar = {
            "transformers": Architecture(lambda: clip.tiny().model_config, 1, "", "", ""),
            "open_clip": Architecture(lambda: open_clip_tower.TowerConfig(OPEN_CLIP["model_cfg"], {}), 1, "", "", ""),
        }

    config = clip.Config(weights=Weights(source=f"random:{library}"), library=library, device="cpu")
    first, second = Small(config).encode(CLIPS), Small(config).encode(CLIPS)
    np.testing.assert_array_equal(first[0], second[0])
    assert first[0].shape == (3, 24)


def test_weights_of_another_family_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(ConfigError, match="type 'hubert'; this encoder takes clip"):
        _ = encoder_of(tmp_path).dim


def test_the_other_librarys_files_are_told_apart(whole, published):
    with pytest.raises(ConfigError, match="set library=open_clip"):
        _ = encoder_of(published).dim
    with pytest.raises(ConfigError, match="try library=transformers"):
        _ = encoder_of(whole, library="open_clip").dim
    with pytest.raises(ConfigError, match="set library=open_clip"):
        _ = clip.Encoder(clip.Config(weights=Weights(source="random:ViT-H-14"))).dim


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"timm_model_name": "convnext_base", "timm_pool": ""}, "no vision transformer"),
        ({"layers": [3, 4, 6, 3]}, "no vision transformer"),
        (None, "not a configuration"),
    ],
)
def test_other_towers_of_open_clip_are_refused(tmp_path, change, why):
    config = json.loads(json.dumps(OPEN_CLIP))
    if change:
        config["model_cfg"]["vision_cfg"] |= change
    else:
        del config["model_cfg"]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=why):
        _ = encoder_of(tmp_path, library="open_clip").dim


def test_incomplete_files_of_open_clip_are_refused(published, tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP))
    tensors = load_file(published / "open_clip_model.safetensors")
    tensors.pop("visual.proj")
    save_file(tensors, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(PluginError, match="proj"):
        encoder_of(tmp_path, library="open_clip").load()


def test_a_missing_image_processor_is_told(whole, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(Path(whole) / name)
    with pytest.raises(PluginError, match=r"preprocessor_config\.json"):
        encoder_of(tmp_path).load()


@pytest.mark.slow
def test_a_compiled_model_gives_the_same():
    plain = clip.tiny()
    compiled = clip.Encoder(plain.config.model_copy(update={"compile": True}))
    faces = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    (ours,), (theirs,) = compiled.encode([ClipInput(faces=faces)]), plain.encode([ClipInput(faces=faces)])
    assert hasattr(compiled._model, "_orig_mod"), "nothing was compiled"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())

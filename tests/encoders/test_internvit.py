import json

import numpy as np
import pytest
import torch
from closeness import assert_close
from safetensors.torch import save_file
from torch.nn import functional
from transformers import (
    AutoImageProcessor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    InternVLVisionModel,
    Qwen2Config,
)

from mer_ray.encoders import internvit
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.weights import Weights

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSOR = GotOcr2ImageProcessor(size={"height": 28, "width": 28}, **IMAGENET)
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "norm_type": "rms_norm",
    "use_qk_norm": True,
    "image_size": 28,
    "patch_size": 7,
    "initializer_range": 0.2,
    "layer_scale_init_value": 1.0,
}


def clips(counts=(5, 1, 12), sides=(112, 48, 32)):
    rng = np.random.default_rng(0)
    return [
        ClipInput(faces=rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8))
        for n, side in zip(counts, sides, strict=True)
    ]


def encoder_of(folder, **options):
    return internvit.Encoder(internvit.Config(weights=Weights(source=str(folder)), device="cpu", **options))


def pixels(folder, image, **options):
    processor = AutoImageProcessor.from_pretrained(folder)
    return processor(image, input_data_format="channels_last", return_tensors="pt", **options)["pixel_values"]


def reference(model, folder, clip, **options):
    """The library's own processor and forward, one frame at a time: last hidden states (F, 1 + P, D)."""
    with torch.inference_mode():
        return torch.cat([model(pixels(folder, face, **options)).last_hidden_state for face in clip.faces])


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_it_gives_what_the_library_gives_frame_by_frame(pool):
    folder = internvit.tiny().config.weights.source
    model = InternVLVisionModel.from_pretrained(folder).eval()
    given = clips()
    for ours, clip in zip(encoder_of(folder, pool=pool).encode(given), given, strict=True):
        states = reference(model, folder, clip)
        assert_close(ours, (states[:, 0] if pool == "cls" else states[:, 1:].mean(1)).numpy())


def test_another_image_size_interpolates_the_positions():
    folder = internvit.tiny().config.weights.source
    model = InternVLVisionModel.from_pretrained(folder).eval()
    torch.nn.init.normal_(model.embeddings.position_embeddings)
    model.save_pretrained(folder)
    (clip,) = clips([2], [40])
    states = reference(model, folder, clip, size={"height": 14, "width": 14})
    assert states.shape[1] == 1 + 2 * 2
    assert_close(encoder_of(folder, image_size=14).encode([clip])[0], states[:, 0].numpy())


def test_the_vision_tower_of_a_whole_model_is_taken():
    text = Qwen2Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=300,
    )
    config = InternVLConfig(vision_config=InternVLVisionConfig(**VISION), text_config=text)
    whole = architecture.randomly(lambda: InternVLForConditionalGeneration(config), seed=3)
    folder = architecture.keep_files(whole, PROCESSOR)
    (clip,) = clips([2], [40])
    encoder = encoder_of(folder)
    assert encoder.dim == 32
    assert_close(encoder.encode([clip])[0], reference(whole.model.vision_tower.eval(), folder, clip)[:, 0].numpy())


ORIGINAL = {
    "model_type": "intern_vit_6b",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "image_size": 28,
    "patch_size": 7,
    "layer_norm_eps": 1e-6,
    "qk_normalization": True,
    "qkv_bias": False,
}


def original_tensors():
    generator = torch.Generator().manual_seed(5)
    shapes = {
        "embeddings.class_embedding": (1, 1, 32),
        "embeddings.position_embedding": (1, 17, 32),
        "embeddings.patch_embedding.weight": (32, 3, 7, 7),
        "embeddings.patch_embedding.bias": (32,),
    }
    for i in range(2):
        shapes |= {
            f"encoder.layers.{i}.{name}": shape
            for name, shape in {
                "attn.qkv.weight": (96, 32),
                "attn.proj.weight": (32, 32),
                "attn.proj.bias": (32,),
                "attn.q_norm.weight": (32,),
                "attn.k_norm.weight": (32,),
                "mlp.fc1.weight": (64, 32),
                "mlp.fc1.bias": (64,),
                "mlp.fc2.weight": (32, 64),
                "mlp.fc2.bias": (32,),
                "norm1.weight": (32,),
                "norm2.weight": (32,),
                "ls1": (32,),
                "ls2": (32,),
            }.items()
        }
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def rms_norm(x, weight):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def original_forward(t, image):
    """InternViT as OpenGVLab's own code computes it: (1 + P, D)."""
    patches = functional.conv2d(
        image, t["embeddings.patch_embedding.weight"], t["embeddings.patch_embedding.bias"], stride=7
    )
    x = torch.cat([t["embeddings.class_embedding"][0], patches[0].flatten(1).T]) + t["embeddings.position_embedding"][0]
    for i in range(2):
        p = {name.removeprefix(f"encoder.layers.{i}."): tensor for name, tensor in t.items()}
        q, k, v = (rms_norm(x, p["norm1.weight"]) @ p["attn.qkv.weight"].T).reshape(-1, 3, 32).unbind(1)
        q, k = rms_norm(q, p["attn.q_norm.weight"]), rms_norm(k, p["attn.k_norm.weight"])
        q, k, v = (part.reshape(-1, 2, 16).transpose(0, 1) for part in (q, k, v))
        mixed = (torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v).transpose(0, 1).reshape(-1, 32)
        x = x + (mixed @ p["attn.proj.weight"].T + p["attn.proj.bias"]) * p["ls1"]
        hidden = functional.gelu(rms_norm(x, p["norm2.weight"]) @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"])
        x = x + (hidden @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]) * p["ls2"]
    return x


@pytest.fixture
def original(tmp_path):
    """A folder as OpenGVLab publishes it, in two files."""
    (tmp_path / "config.json").write_text(json.dumps(ORIGINAL))
    tensors = original_tensors()
    first = {name: tensor for name, tensor in tensors.items() if ".1." not in name}
    save_file(first, tmp_path / "model-00001-of-00002.safetensors")
    rest = {name: tensor for name, tensor in tensors.items() if ".1." in name}
    save_file(rest, tmp_path / "model-00002-of-00002.safetensors")
    processor = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 28, "crop_size": 28, "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor | IMAGENET))
    return tmp_path


def test_the_original_weights_are_taken(original):
    (clip,) = clips([3], [40])
    expected = torch.stack([original_forward(original_tensors(), pixels(original, face)) for face in clip.faces])
    assert_close(encoder_of(original).encode([clip])[0], expected[:, 0].numpy())
    assert_close(encoder_of(original, pool="mean").encode([clip])[0], expected[:, 1:].mean(1).numpy())


def test_original_weights_of_another_depth_are_refused(original):
    (original / "config.json").write_text(json.dumps(ORIGINAL | {"num_hidden_layers": 3}))
    with pytest.raises(PluginError, match="not those of an InternViT"):
        encoder_of(original).load()


def test_only_so_many_frames_are_taken():
    encoder = encoder_of(internvit.tiny().config.weights.source, num_frames=4)
    assert [len(frames) for frames in encoder.encode(clips())] == [4, 1, 4]


@pytest.mark.parametrize("name", internvit.ARCHITECTURES)
def test_the_published_sizes(name):
    published = internvit.ARCHITECTURES[name]
    encoder = encoder_of(f"random:{name}")
    assert encoder.dim == 3200
    counted = architecture.count_parameters(lambda: encoder._build(encoder.model_config))
    assert counted == pytest.approx(published.num_parameters, rel=0.02)


def test_random_weights_make_features():
    encoder = encoder_of("random:small")
    encoder.architectures = {"small": architecture.Architecture(lambda: InternVLVisionConfig(**VISION), 0, "", "", "")}
    assert [frames.shape for frames in encoder.encode(clips())] == [(5, 32), (1, 32), (12, 32)]


def test_weights_of_another_family_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ConfigError, match="type 'vit'; the internvit plug-in takes internvl, internvl_vision"):
        _ = encoder_of(tmp_path).dim

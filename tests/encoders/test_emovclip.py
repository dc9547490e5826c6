from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from closeness import assert_close
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from mer_ray.encoders import clip, emovclip
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.prompts import Prompts, fresh
from mer_ray.pretrained.weights import Weights


@pytest.fixture(scope="module")
def tiny():
    return emovclip.tiny()


def variant(encoder, **options):
    return emovclip.Encoder(emovclip.Config(**{**encoder.config.model_dump(), **options}))


def clips(*shapes):
    rng = np.random.default_rng(2)
    return [ClipInput(faces=rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)) for count, size in shapes]


CLIPS = clips((3, 48), (1, 20), (7, 32), (4, 128))


def test_a_video_is_the_mean_of_its_frames_read_with_prompts(tiny):
    source = tiny.config.weights.source
    processor = CLIPImageProcessor.from_pretrained(source)
    model = CLIPVisionModelWithProjection.from_pretrained(source).eval()
    tower, prompts = model.vision_model, Prompts.load(tiny.config.prompts)
    for ours, given in zip(tiny.encode(CLIPS), CLIPS, strict=True):
        frames = []
        for frame in given.faces:
            with torch.inference_mode():
                h = tower.pre_layrnorm(tower.embeddings(processor(images=frame, return_tensors="pt")["pixel_values"]))
                for layer, token in zip(tower.encoder.layers, prompts.vision, strict=True):
                    h = layer(torch.cat([h, token[None]], dim=1), None)[:, : h.shape[1]]
                frames.append(model.visual_projection(tower.post_layernorm(h[:, 0]))[0])
        assert_close(ours, torch.stack(frames).mean(0, keepdim=True).numpy())


def test_without_the_prompts_it_is_the_mean_of_plain_clip(tiny):
    plain = clip.Encoder(clip.Config(weights=tiny.config.weights, device="cpu"))
    means = [frames.mean(axis=0, keepdims=True) for frames in plain.encode(CLIPS)]
    bare = variant(tiny)
    bare.load()
    bare._model.vision_model.encoder = bare._model.vision_model.encoder.encoder
    for ours, prompted, mean in zip(bare.encode(CLIPS), tiny.encode(CLIPS), means, strict=True):
        assert_close(ours, mean)
        assert np.abs(prompted - mean).max() > 1e-2 * np.abs(mean).max()


def test_one_vector_for_five_minutes(tiny):
    (video,) = variant(tiny).encode([ClipInput(faces=np.zeros((1500, 16, 16, 3), np.uint8))])
    assert video.shape == (1, 24)


def test_fewer_frames_are_evenly_chosen(tiny):
    some = variant(tiny, num_frames=3).encode(CLIPS)[2]
    assert_close(some, tiny.encode([ClipInput(faces=CLIPS[2].faces[[1, 3, 5]])])[0])


def test_without_a_file_of_prompts_it_says_where_to_turn(tiny):
    with pytest.raises(ValueError, match=r"prompts=FILE\.safetensors is needed.*take the clip encoder"):
        emovclip.Config(weights=tiny.config.weights)


def test_a_file_that_is_missing_is_told(tiny):
    gone = variant(tiny, prompts="gone.safetensors")
    with pytest.raises(PluginError, match=r"prompts gone\.safetensors"):
        gone.load()
    with pytest.raises(PluginError, match=r"gone\.safetensors: there is no such file"):
        _ = gone.identity


def test_prompts_of_another_model_are_refused(tiny, tmp_path):
    theirs = Prompts.load(tiny.config.prompts)
    file = tmp_path / "p.safetensors"
    Prompts(theirs.vision, theirs.text, "0" * 16, theirs.classes, 1.0).save(file)
    with pytest.raises(PluginError, match="trained in the CLIP model 0000000000000000"):
        variant(tiny, prompts=str(file)).load()
    Prompts(fresh(3, 4, 32), theirs.text, theirs.model, theirs.classes, 1.0).save(file)
    with pytest.raises(PluginError, match="for 3 layers; the tower has 2"):
        variant(tiny, prompts=str(file)).load()


def test_its_identity_is_that_of_weights_and_prompts(tiny, tmp_path):
    content = Path(tiny.config.prompts).read_bytes()
    (tmp_path / "same.safetensors").write_bytes(content)
    (tmp_path / "other.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    same, other = (variant(tiny, prompts=str(tmp_path / f"{name}.safetensors")) for name in ("same", "other"))
    assert (same.identity, same.spec_options) == (tiny.identity, tiny.spec_options)
    assert other.identity != tiny.identity


def test_random_weights_get_random_prompts():
    class Small(emovclip.Encoder):
        architectures: ClassVar = {"small": Architecture(lambda: clip.tiny().model_config, 1, "", "", "")}

    encoder = Small(emovclip.Config(weights=Weights(source="random:small"), device="cpu"))
    (video,) = encoder.encode(CLIPS[:1])
    assert video.shape == (1, 24)
    assert [len(token) for token in encoder._model.vision_model.encoder.tokens] == [4, 4]


@pytest.mark.parametrize("name", emovclip.ARCHITECTURES)
def test_the_published_sizes(name):
    published = emovclip.ARCHITECTURES[name]
    encoder = emovclip.Encoder(emovclip.Config(weights=Weights(source=f"random:{name}")))
    counted = architecture.count_parameters(lambda: encoder._build(encoder.model_config))
    assert counted == pytest.approx(published.num_parameters, rel=0.001)

import numpy as np
import pytest
import torch
from closeness import assert_close
from transformers import (
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
    VideoMAEModel,
)
from transformers.models.videomae import modeling_videomae

from mer_ray.encoders import videomae
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
    "initializer_range": 0.2,
}
PROCESSOR = VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def clips(counts=(40, 1, 16, 5), sides=(48, 112, 32, 48)):
    rng = np.random.default_rng(0)
    return [
        ClipInput(faces=rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8))
        for n, side in zip(counts, sides, strict=True)
    ]


def encoder_of(folder, **options):
    return videomae.Encoder(videomae.Config(weights=Weights(source=str(folder)), device="cpu", **options))


def reference(model, frames):
    """The library's own processor and forward on one window of 16 frames: its mean last hidden state, (D,)."""
    inputs = PROCESSOR(list(frames), input_data_format="channels_last", return_tensors="pt")
    with torch.inference_mode():
        return model.eval()(**inputs).last_hidden_state[0].mean(0).numpy()


def test_it_gives_what_the_library_gives_window_by_window():
    folder = videomae.tiny().config.weights.source
    model = VideoMAEModel.from_pretrained(folder)
    given = clips()
    long, still, exact, short = (clip.faces for clip in given)
    expected = [
        [long[:16], long[12:28], long[24:]],
        [np.repeat(still, 16, axis=0)],
        [exact],
        [short[[0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4]]],
    ]
    for ours, wanted in zip(encoder_of(folder, budget=2**40).encode(given), expected, strict=True):
        assert_close(ours, np.stack([reference(model, window) for window in wanted]))


@pytest.mark.parametrize(
    ("made_by", "options"),
    [
        (
            VideoMAEForPreTraining,
            {"use_mean_pooling": False, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1},
        ),
        (VideoMAEForVideoClassification, {"use_mean_pooling": True}),
    ],
)
def test_weights_with_a_decoder_or_a_head_are_taken(made_by, options):
    if made_by is VideoMAEForPreTraining:
        options = options | {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}
    model = architecture.randomly(lambda: made_by(VideoMAEConfig(**SIZES, **options)), seed=3)
    folder = architecture.keep_files(model, PROCESSOR)
    (clip,) = clips([16], [40])
    assert_close(encoder_of(folder).encode([clip])[0], reference(model.videomae, clip.faces)[None])


@pytest.mark.parametrize("name", videomae.ARCHITECTURES)
def test_the_published_sizes(name, monkeypatch):
    # seconds of plain Python, for positions that are no parameters
    monkeypatch.setattr(modeling_videomae, "get_sinusoid_encoding_table", lambda count, dim: torch.zeros(1, count, dim))
    published = videomae.ARCHITECTURES[name]
    encoder = encoder_of(f"random:{name}")
    counted = architecture.count_parameters(lambda: encoder._build(encoder.model_config))
    assert counted == pytest.approx(published.num_parameters, rel=0.02)


def test_random_weights_make_features():
    encoder = encoder_of("random:small")
    encoder.architectures = {"small": architecture.Architecture(lambda: VideoMAEConfig(**SIZES), 0, "", "", "")}
    assert [frames.shape for frames in encoder.encode(clips())] == [(3, 32), (1, 32), (1, 32), (1, 32)]


def test_weights_of_another_family_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ConfigError, match="type 'vit'; the videomae plug-in takes videomae"):
        _ = encoder_of(tmp_path).dim


def test_a_missing_processor_is_told():
    model = architecture.randomly(lambda: VideoMAEModel(VideoMAEConfig(**SIZES)))
    with pytest.raises(PluginError, match=r"preprocessor_config\.json"):
        encoder_of(architecture.keep_files(model)).load()

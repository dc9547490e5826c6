"""Networks that part voices window by window: exact batches, loudness, rates, and weights of another model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_close

from mer_ray import registry
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.weights import Weights
from mer_ray.separators import convtasnet, mossformer2

SECOND = 16_000
FAMILIES = {"convtasnet": convtasnet, "mossformer2": mossformer2}


@pytest.fixture(params=FAMILIES, scope="module")
def separator(request):
    return FAMILIES[request.param].tiny()


def noise(num_samples, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=num_samples)).astype(np.float32)


def reread(separator, **options):
    return type(separator)(separator.config.model_copy(update=options))


@pytest.mark.parametrize("module", FAMILIES.values(), ids=FAMILIES)
def test_the_published_size(module):
    for name, published in module.ARCHITECTURES.items():
        separator = module.Separator(module.Config(weights=Weights(source=f"random:{name}")))
        count = architecture.count_parameters(separator.empty)
        assert count == pytest.approx(published.num_parameters, rel=0.02)


def test_convtasnet_has_the_layout_of_torchaudios_pipeline():
    from torchaudio.pipelines import CONVTASNET_BASE_LIBRI2MIX  # noqa: PLC0415 - it is needed in one test

    with torch.device("meta"):
        theirs = CONVTASNET_BASE_LIBRI2MIX._model_factory_func().state_dict()
        ours = convtasnet.Separator(
            convtasnet.Config(weights=Weights(source="random:convtasnet-base-libri2mix"))
        ).empty()
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }
    assert ours.mask_generator.mask_activate.__class__.__name__ == "ReLU"
    assert convtasnet.Config.model_fields["rate_hz"].default == CONVTASNET_BASE_LIBRI2MIX.sample_rate


def test_batches_of_windows_of_many_clips_are_exact(separator):
    clips = [noise(length, seed) for seed, length in enumerate((9 * SECOND, 5 * SECOND + 77, SECOND, 6 * SECOND))]
    few = reread(separator, budget=1)
    together = reread(separator, budget=10**9).separate(clips)
    assert few.runner.cut([], exact=True) == []
    for clip, streams in zip(clips, together, strict=True):
        assert_close(streams, few.separate([clip])[0])


def test_no_window_is_padded(separator):
    seen = []
    collate = separator._collate
    separator._collate = lambda payloads: seen.append(np.stack(payloads)) or collate(payloads)
    separator.separate([np.full(7 * SECOND + 5, 0.25, np.float32)])
    del separator._collate
    windows = np.concatenate(seen)
    assert windows.shape == (len(windows), separator._window[0])
    assert len(windows) > 1
    middle = windows[1:-1]  # resampling rings at a sound's ends
    np.testing.assert_allclose(middle, np.full_like(middle, 0.25), atol=5e-3)


@pytest.mark.parametrize("gain", [1e-4, 1.0, 30.0])
def test_both_streams_are_as_loud_as_the_clip(separator, gain):
    clip = np.float32(gain) * noise(3 * SECOND)
    for stream in separator.separate([clip])[0]:
        assert np.sqrt(np.mean(stream**2)) == pytest.approx(np.sqrt(np.mean(clip**2)), rel=1e-4)


def test_a_stream_without_a_sound_is_left_without(separator, monkeypatch):
    forward = separator._forward

    def one_voice(inputs):
        made = forward(inputs)
        made.streams_BKW[:, 1] = 0
        return made

    monkeypatch.setattr(separator, "_forward", one_voice)
    first, second = separator.separate([noise(SECOND)])[0]
    assert first.any()
    assert not second.any()


def test_a_clip_of_one_window_is_what_the_network_gives():
    separator = mossformer2.tiny()
    clip = noise(SECOND)
    runner = separator.runner
    with torch.inference_mode():
        theirs = separator._model(torch.from_numpy(clip)[None])[0].numpy()
    theirs *= np.sqrt(np.mean(clip**2) / np.mean(theirs**2, axis=1, keepdims=True))
    assert runner.device == "cpu"
    assert_close(separator.separate([clip])[0], theirs)


def test_other_windows_are_other_results(separator):
    clip = noise(7 * SECOND)
    other = reread(separator, window_seconds=1.0, stride_seconds=0.5)
    assert not np.allclose(separator.separate([clip])[0], other.separate([clip])[0], atol=1e-3)
    assert other.spec_options != separator.spec_options


def test_a_folder_of_another_model_is_refused_with_names(separator, tmp_path):
    other = next(module.tiny() for module in FAMILIES.values() if not isinstance(separator, module.Separator))
    source = Path(other.config.weights.source)
    with pytest.raises(PluginError, match=r"config\.json is of another model: .*unexpected keyword argument"):
        reread(separator, weights=Weights(source=str(source))).load()
    mixed = tmp_path / "mixed"
    shutil.copytree(source, mixed)
    shutil.copy(Path(separator.config.weights.source) / "config.json", mixed)
    with pytest.raises(PluginError, match=r"these are weights of another model than this .* missing: .* not of this"):
        reread(separator, weights=Weights(source=str(mixed))).load()


def test_a_network_of_three_voices_is_refused(separator, tmp_path):
    folder = tmp_path / "three"
    shutil.copytree(separator.config.weights.source, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {name: 3 for name in config if name in {"num_sources", "num_spks"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(PluginError, match="parts 3"):
        reread(separator, weights=Weights(source=str(folder))).load()


@pytest.mark.parametrize("name", FAMILIES)
def test_an_unknown_random_architecture_is_told_with_those_there_are(name):
    separator = registry.build("separators", name, {"weights": {"source": "random:nothing"}})
    with pytest.raises(ConfigError, match="there are " + ", ".join(FAMILIES[name].ARCHITECTURES)):
        separator.load()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_published_size_runs_with_random_weights(name):
    (architecture_name,) = FAMILIES[name].ARCHITECTURES
    separator = registry.build(
        "separators", name, {"weights": {"source": f"random:{architecture_name}"}, "device": "cpu"}
    )
    streams = separator.separate([noise(SECOND // 2)])[0]
    assert streams.shape == (2, SECOND // 2)
    assert np.isfinite(streams).all()

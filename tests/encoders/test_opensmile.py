import runpy
from pathlib import Path
from typing import get_args

import numpy as np
import opensmile as library
import pytest

from mer_ray import registry
from mer_ray.encoders import opensmile
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError

voice = runpy.run_path(str(Path(__file__).parents[1] / "media_samples.py"))["voice"]
SIZES = {
    "eGeMAPSv02": 88, "eGeMAPSv01b": 88, "eGeMAPSv01a": 88, "GeMAPSv01b": 62, "GeMAPSv01a": 62, "ComParE_2016": 6373,
    "emobase": 988, "IS09": 384, "IS10": 1582, "IS11": 4368, "IS12": 6125, "IS13": 6373,
}  # fmt: skip
"""Functionals of a set, as its paper counts them; IS12 in the library's version."""

pytestmark = pytest.mark.filterwarnings("ignore:Feature set .* is deprecated")


def encoder_of(**options):
    return opensmile.Encoder(opensmile.Config(**options))


def tone(frequency_hz, seconds=1.0, gain=0.3):
    t = np.arange(int(seconds * 16_000)) / 16_000
    return (gain * sum(np.sin(2 * np.pi * frequency_hz * k * t) / k for k in range(1, 8))).astype(np.float32)


def test_every_set_is_known():
    assert set(get_args(opensmile.FeatureSet)) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_a_set_is_what_the_library_makes_of_it(name):
    encoder = encoder_of(feature_set=name)
    samples = voice(1.0, 1)
    (row,) = encoder.encode([ClipInput(audio=samples)])
    assert row.shape == (1, SIZES[name]) == (1, encoder.dim)
    smile = library.Smile(library.FeatureSet[name], library.FeatureLevel.Functionals)
    np.testing.assert_array_equal(row[0], smile.process_signal(samples, 16_000).to_numpy(np.float32)[0])


@pytest.mark.parametrize("name", SIZES)
def test_a_set_is_defined_on_the_edge(name):
    clips = [voice(0.2, 0), np.zeros(16_000, np.float32), np.ones(16_000, np.float32), np.zeros(1, np.float32)]
    for row in encoder_of(feature_set=name).encode([ClipInput(audio=samples) for samples in clips]):
        assert row.shape == (1, SIZES[name])
        assert np.isfinite(row).all()


@pytest.mark.parametrize("length", [3_200, 7_999])
def test_a_clip_of_less_than_half_a_second_is_repeated_up_to_that(length):
    samples = voice(1.0, 3)[:length]
    smile = library.Smile(library.FeatureSet.eGeMAPSv02, library.FeatureLevel.Functionals)
    expected = smile.process_signal(np.tile(samples, 3)[:8_000], 16_000).to_numpy(np.float32)
    np.testing.assert_array_equal(encoder_of().encode([ClipInput(audio=samples)])[0], expected)


def test_five_minutes_are_one_row():
    (row,) = encoder_of(feature_set="IS09").encode([ClipInput(audio=np.tile(voice(10.0, 2), 30))])
    assert row.shape == (1, 384)
    assert np.isfinite(row).all()


def test_descriptors_are_measured_every_10_ms():
    encoder = encoder_of(level="descriptors")
    (frames,) = encoder.encode([ClipInput(audio=tone(200, 2.0))])
    assert frames.shape == (196, encoder.dim) == (196, 25)
    names = library.Smile(library.FeatureSet.eGeMAPSv02, library.FeatureLevel.LowLevelDescriptors).feature_names
    semitones = frames[:, names.index("F0semitoneFrom27.5Hz_sma3nz")]
    assert np.median(semitones) == pytest.approx(12 * np.log2(200 / 27.5), abs=0.5)


def test_egemaps_measures_pitch_and_survives_full_scale():
    encoder = encoder_of()
    semitones = [encoder.encode([ClipInput(audio=tone(f))])[0][0, 0] for f in (110, 220)]
    assert semitones[1] - semitones[0] == pytest.approx(12, abs=0.5)
    square = np.sign(np.sin(2 * np.pi * 150 * np.arange(16_000) / 16_000)).astype(np.float32)
    softer = encoder.encode([ClipInput(audio=square * np.float32(0.99))])[0]
    np.testing.assert_allclose(encoder.encode([ClipInput(audio=square)])[0], softer, rtol=0.1, atol=1.0)


def test_a_set_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match=r"feature_set.*IS14"):
        registry.build("encoders", "opensmile", {"feature_set": "IS14"})


def test_the_licence_is_the_librarys_own():
    assert "no commercial use" in opensmile.Encoder.licence

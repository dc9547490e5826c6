import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from mer_ray.errors import PluginError
from mer_ray.pretrained import spectrogram
from mer_ray.pretrained.spectrogram import LogMel
from mer_ray.pretrained.weights import Weights

EXTRACTOR = WhisperFeatureExtractor(feature_size=80, chunk_length=5)


def waveforms(*lengths):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(n).astype(np.float32) * 10.0 ** -(i % 4) for i, n in enumerate(lengths)]


@pytest.mark.parametrize("lengths", [(1,), (32_000, 5, 16_123), (80_000, 400), (79_700, 79_999)])
def test_it_is_the_librarys_spectrogram_of_the_padded_waveforms(lengths):
    given = waveforms(*lengths)
    theirs = EXTRACTOR(given, sampling_rate=16_000, return_tensors="pt").input_features
    ours = LogMel(EXTRACTOR, 80_000)(given)
    assert ours.shape == theirs.shape == (len(lengths), 80, 500)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-6, 1.0])
def test_steady_waveforms_too(value):
    given = [np.full(9_600, value, np.float32)]
    theirs = EXTRACTOR(given, sampling_rate=16_000, return_tensors="pt").input_features
    np.testing.assert_allclose(LogMel(EXTRACTOR, 80_000)(given), theirs, rtol=0, atol=1e-6)


def test_it_counts_the_frames_of_a_waveforms_own_length():
    for length in (1, 160, 161, 32_000, 79_999):
        made = EXTRACTOR(np.zeros(length), sampling_rate=16_000, return_attention_mask=True, return_tensors="np")
        assert LogMel(EXTRACTOR, 80_000).num_frames(length) == made.attention_mask.sum()


def test_a_missing_extractor_is_told(tmp_path):
    with pytest.raises(PluginError, match=r"preprocessor_config\.json belongs there"):
        spectrogram.load(tmp_path, Weights(source=str(tmp_path)), 80)

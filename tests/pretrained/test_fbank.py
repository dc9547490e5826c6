"""Stacked mel bands: against FunASR's own, by loops, and files that are none of theirs."""

import numpy as np
import pytest
import torch
from golden_weights import wave

from mer_ray.errors import PluginError
from mer_ray.pretrained import fbank
from mer_ray.pretrained.fbank import Frontend

FUNASR = [[21.6959, 22.5231, 40.5504, 40.0459], [22.3538, 20.8037, 40.5130, 40.0923]]
"""Of the funasr package 1.4.16 for 2000 samples and 8 bands: the numbers 0, 17, 38 and 55 of each stacked frame."""


def norms():
    return wave(56), 1 + 0.5 * wave(56, phase=1.0)


def test_it_gives_what_funasr_gives():
    made = Frontend(*norms(), noise=0.0)((0.2 * wave(2000)).numpy())
    np.testing.assert_allclose(made[:, [0, 17, 38, 55]], FUNASR, atol=1e-3)


@pytest.mark.parametrize("num_frames", [1, 2, 6, 7, 12, 13])
def test_frames_are_stacked_around_every_sixth(num_frames):
    bands = torch.arange(2.0 * num_frames).reshape(num_frames, 2)
    made = fbank.stack(bands)
    assert made.shape == (-(-num_frames // 6), 14)
    for t, row in enumerate(made):
        taken = [bands[min(max(6 * t + offset, 0), num_frames - 1)] for offset in range(-3, 4)]
        assert torch.equal(row, torch.cat(taken))


@pytest.mark.parametrize("num_samples", [1, 399, 400, 16_000])
def test_digital_silence_is_a_faint_noise_that_repeats(num_samples):
    frontend = Frontend.plain()
    made = frontend(np.zeros(num_samples, np.float32))
    assert made.shape == (1 if num_samples <= 400 else 17, 560)
    assert torch.equal(made, frontend(np.zeros(num_samples, np.float32)))
    without = Frontend(frontend.shift_I, frontend.scale_I, noise=0.0)(np.zeros(num_samples, np.float32))
    assert float(without.max()) < 0 < float(made.mean())


def test_norms_are_read_as_they_are_written_and_as_kaldi_writes_them(tmp_path):
    Frontend(*norms()).save_pretrained(tmp_path)
    found = Frontend.load(tmp_path, "here", 56)
    assert torch.equal(found.shift_I, norms()[0])
    assert torch.equal(found.scale_I, norms()[1])
    kaldis = (
        "<Nnet> \n<Splice> 7 7\n[ 0 ]\n<AddShift> 7 7 \n<LearnRateCoef> 0 [ -8.31 -8.6 1e-1 1 1 1 1 ] \n"
        "<Rescale> 7 7 \n<LearnRateCoef> 0 [ 0.155775 2 2 2 2 2 2 ] \n</Nnet> \n"
    )
    (tmp_path / "am.mvn").write_text(kaldis)
    found = Frontend.load(tmp_path, "here", 7)
    assert found.shift_I.tolist() == pytest.approx([-8.31, -8.6, 0.1, 1, 1, 1, 1])
    assert found.scale_I.tolist() == pytest.approx([0.155775, *[2] * 6])


def test_a_file_that_holds_no_norms_or_others_is_told(tmp_path):
    with pytest.raises(PluginError, match=r"weights here: .*am\.mvn cannot be read"):
        Frontend.load(tmp_path, "here", 56)
    (tmp_path / "am.mvn").write_text("<AddShift> [ 1 ]")
    with pytest.raises(PluginError, match=r"weights here: .*am\.mvn cannot be read"):
        Frontend.load(tmp_path, "here", 56)
    Frontend(*norms()).save_pretrained(tmp_path)
    with pytest.raises(PluginError, match="56 shifts and 56 scales, the model takes 560"):
        Frontend.load(tmp_path, "here", 560)

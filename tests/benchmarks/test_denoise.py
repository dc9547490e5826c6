import io
import json
import tarfile
from pathlib import Path

import in_process
import numpy as np
import pytest
import soundfile

from mer_ray import config, registry
from mer_ray.benchmarks import denoise_peers, noisy_voices
from mer_ray.errors import ConfigError
from mer_ray.evaluation.denoising import si_sdr_db

SECOND = 16_000


def add(archive, name, samples):
    """Put a waveform into an archive as a wav file."""
    file = io.BytesIO()
    soundfile.write(file, samples, SECOND, format="WAV")
    member = tarfile.TarInfo(name)
    member.size = file.tell()
    file.seek(0)
    archive.addfile(member, file)


def voice(seed):
    """Harmonics of a gliding pitch, in syllables, a little over a second."""
    time = np.arange(SECOND + 100 * seed) / SECOND
    phase = np.cumsum(2 * np.pi * (130 + 10 * seed + 20 * np.sin(5 * time)) / SECOND)
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * time), 0, None)
    return 0.1 * syllables * sum(np.sin(k * phase) / k for k in range(1, 12))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four voices, two noises of which one is mostly silent, and a room."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "nemo_wav16k.tar", "w") as archive:
        for seed in range(4):
            add(archive, f"nemo/{seed}.wav", voice(seed))
    with tarfile.open(folder / "noise_rir_16k.tar", "w") as archive:
        add(archive, "noise_rir/noise/esc10_Rain_1.wav", 0.1 * rng.normal(size=SECOND // 2))
        late = np.concatenate([np.zeros(4 * SECOND), 0.1 * rng.normal(size=SECOND)])
        add(archive, "noise_rir/noise/esc10_Dogbark_1.wav", late)
        add(archive, "noise_rir/noise/speechbrain_noise1.wav", np.full(SECOND, 0.5))
        echo = rng.normal(size=SECOND // 2) * np.exp(-np.arange(SECOND // 2) / 800)
        add(archive, "noise_rir/rir/room.wav", np.concatenate([np.zeros(50), [1], 0.05 * echo]))
    return folder


def test_each_separator_is_measured_and_real_ones_clean_more_than_the_steady_filter(data, tmp_path):
    told = tmp_path / "out.json"
    assert in_process.run("bench", "denoise", f"data={data}", "clips=3", "snr_db=[0,5]", "--json", str(told)) == 0
    figures = json.loads(told.read_text())
    assert set(figures["conditions"]) == {"0db", "5db", "room"}
    assert figures["noisy_si_sdr_db"] == pytest.approx(2.5, abs=0.3)
    assert set(figures["separators"]) == {"spectral", "rnnoise", "deepfilternet"}
    for one in figures["separators"].values():
        assert one["si_sdr_db"] == pytest.approx((one["conditions"]["0db"] + one["conditions"]["5db"]) / 2)
        assert min(one["clips_per_s"], one["peer_clips_per_s"]) > 0
    assert figures["separators"]["rnnoise"]["si_sdr_db"] > figures["noisy_si_sdr_db"] + 2


def test_a_mixture_has_the_ratio_asked_for_and_the_same_draws_at_every_ratio(data):
    recordings = noisy_voices.read(str(data), 4, seed=0)
    assert [len(one) for one in (recordings.voices, recordings.noises, recordings.rooms)] == [4, 2, 1]
    loud, faint = (noisy_voices.mix(recordings, snr, seed=3) for snr in (0, 10))
    for one, other in zip(loud, faint, strict=True):
        noise = one.noisy - one.clean
        assert np.sum(one.clean**2) == pytest.approx(np.sum(noise**2), rel=1e-3)
        np.testing.assert_allclose(other.noisy - other.clean, noise * 10**-0.5, atol=1e-5)
    again = noisy_voices.mix(recordings, 0, seed=3)
    assert all(np.array_equal(one.noisy, other.noisy) for one, other in zip(loud, again, strict=True))
    assert any(
        not np.array_equal(one.noisy, other.noisy)
        for one, other in zip(loud, noisy_voices.mix(recordings, 0, seed=4), strict=True)
    )


def test_voices_are_drawn_by_seed(data):
    lengths = {tuple(len(one) for one in noisy_voices.read(str(data), 2, seed).voices) for seed in range(6)}
    assert len(lengths) > 1


def test_a_room_echoes_on_time_and_as_loud(data):
    recordings = noisy_voices.read(str(data), 1, seed=0)
    (spoken,), (room,) = recordings.voices, recordings.rooms
    heard = noisy_voices.reverberate(spoken, room)
    assert np.mean(heard**2) == pytest.approx(np.mean(spoken**2), rel=1e-3)
    assert 1 < si_sdr_db(heard, spoken) < 25
    click = np.zeros(1000, np.float32)
    click[100] = 1
    assert np.abs(noisy_voices.reverberate(click, room)).argmax() == 100
    assert np.array_equal(noisy_voices.mix(recordings, 60, seed=0, in_room=True)[0].clean, heard)


@pytest.mark.parametrize("name", denoise_peers.PEERS)
def test_a_peer_gives_what_the_separator_gives_but_late(name, data):
    (noisy,) = noisy_voices.mix(noisy_voices.read(str(data), 1, seed=0), 5, seed=0)
    (ours,) = registry.build("separators", name, {}).separate([noisy.noisy])
    assert si_sdr_db(denoise_peers.PEERS[name](noisy.noisy), ours[0]) > 25


def test_a_missing_or_small_archive_is_told(data, tmp_path):
    with pytest.raises(ConfigError, match=r"nemo_wav16k.tar holds 4 of the 9"):
        noisy_voices.read(str(data), 9, seed=0)
    with pytest.raises(ConfigError, match=r"nemo_wav16k.tar cannot be read"):
        noisy_voices.read(str(tmp_path), 1, seed=0)


def test_the_measured_figures_hold_what_is_promised():
    figures = json.loads((Path(config.REPOSITORY) / "jobs/bench_results/denoise.json").read_text())
    assert figures["separators"]["deepfilternet"]["si_sdr_db"] >= 10
    assert figures["separators"]["rnnoise"]["si_sdr_db"] >= 9

import numpy as np
import pytest
import soundfile
import torch

from mer_ray.errors import ConfigError
from mer_ray.speech import augment
from mer_ray.speech.augment import Mixing, Sounds

STEADY = {"speeds": (1.0,)}


def tone(hz, seconds=1.0, level=0.1):
    return (level * np.sin(2 * np.pi * hz * np.arange(int(16000 * seconds)) / 16000)).astype(np.float32)


def power(samples):
    return float(np.mean(np.square(samples, dtype=np.float64)))


def snr_db(clean, noisy):
    return 10 * np.log10(power(clean) / power(noisy - clean))


def rng(seed=0):
    return np.random.default_rng(seed)


NOISE = (rng(1).normal(size=5000) * 0.3).astype(np.float32)
SOUNDS = Sounds(noise=[NOISE], speakers=[tone(700, 0.3), tone(900, 2.0)])


def test_shares_and_ranges_are_those_asked_for():
    """A clip's noise is known by its spectrum: the tones of the speakers, or broad noise."""
    clip, kinds, snrs = tone(200), [], {"noise": [], "speakers": []}
    for seed in range(400):
        heard = augment.mixed(clip, Mixing(**STEADY), SOUNDS, rng(seed))
        assert heard.shape == clip.shape
        rest = heard - clip
        if not rest.any():
            kinds.append("clean")
            continue
        spectrum = np.abs(np.fft.rfft(rest)) ** 2
        of_tones = spectrum[690:710].sum() + spectrum[890:910].sum()
        kinds.append("speakers" if of_tones > 0.5 * spectrum.sum() else "noise")
        snrs[kinds[-1]].append(snr_db(clip, heard))
    share = {kind: kinds.count(kind) / len(kinds) for kind in ("clean", "noise", "speakers")}
    assert share["clean"] == pytest.approx(0.5, abs=0.08)
    assert share["noise"] == pytest.approx(0.25, abs=0.08)
    assert min(snrs["noise"]) >= 4.99
    assert 11 < max(snrs["noise"]) <= 12.01
    assert min(snrs["speakers"]) >= 9.99
    assert 25 < max(snrs["speakers"]) <= 30.01


def test_the_same_draw_is_the_same_sound_whatever_torch_drew_before():
    mixing = Mixing(clean_share=0)
    first = augment.mixed(tone(200), mixing, SOUNDS, rng(3))
    torch.rand(7)
    np.testing.assert_array_equal(augment.mixed(tone(200), mixing, SOUNDS, rng(3)), first)
    assert not np.array_equal(augment.mixed(tone(200), mixing, SOUNDS, rng(4)), first)


def test_what_is_not_there_is_not_drawn():
    clip = tone(200)
    for seed in range(20):
        np.testing.assert_array_equal(augment.mixed(clip, Mixing(**STEADY), Sounds(), rng(seed)), clip)
    heard = augment.mixed(clip, Mixing(clean_share=0, **STEADY), Sounds(), rng(0), others=[tone(700)])
    assert 9.9 < snr_db(clip, heard) < 30.1


@pytest.mark.parametrize("silence", [np.zeros(1600, np.float32), np.zeros(0, np.float32)])
def test_silence_stays_silence(silence):
    mixing = Mixing(clean_share=0, speeds=(1.0, 1.2))
    for seed in range(5):
        assert not augment.mixed(silence, mixing, SOUNDS, rng(seed)).any()
    mute = Sounds(noise=[np.zeros(100, np.float32)])
    heard = augment.mixed(tone(200), Mixing(clean_share=0, **STEADY), mute, rng(0))
    np.testing.assert_array_equal(heard, tone(200))


def test_a_room_is_heard_behind_the_direct_sound():
    room = np.zeros(400, np.float32)
    room[[100, 300]] = 1.0, 0.5
    click = np.zeros(1000, np.float32)
    click[50] = 1.0
    heard = augment.reverberant(click, room)
    assert heard.shape == click.shape
    assert np.flatnonzero(np.abs(heard) > 0.01).tolist() == [50, 250]
    assert heard[250] / heard[50] == pytest.approx(0.5, abs=1e-5)
    through = augment.babble([tone(700)], [room], 16000, 2, rng())
    assert not np.allclose(through, augment.babble([tone(700)], [], 16000, 2, rng()))


def test_pace_changes_length_and_pitch():
    fast = augment.paced(tone(200), 1.25)
    assert len(fast) == pytest.approx(16000 / 1.25, abs=2)
    spectrum = np.abs(np.fft.rfft(fast, 16000))
    assert abs(int(spectrum.argmax()) - 250) <= 2
    lengths = {len(augment.mixed(tone(200), Mixing(), Sounds(), rng(seed))) for seed in range(20)}
    assert len(lengths) == 3


def test_masks_hide_a_band_and_a_stretch_of_each():
    spectrograms = torch.from_numpy(rng().normal(size=(2, 40, 100)).astype(np.float32))
    mixing = Mixing(mask_bands=8, mask_frames=20)
    made = augment.masked(spectrograms, mixing, rng(1))
    changed = (made != spectrograms).float().mean(dim=(1, 2))
    assert (changed > 0).all()
    assert (changed < 0.5).all()
    assert torch.equal(made, augment.masked(spectrograms, mixing, rng(1)))
    assert not torch.equal(made, augment.masked(spectrograms, mixing, rng(2)))
    assert augment.masked(spectrograms, Mixing(), rng()) is spectrograms


def test_folders_are_read_mono_at_16_khz(tmp_path):
    soundfile.write(tmp_path / "b.wav", np.stack([tone(200)[:8000]] * 2, axis=1), 8000)
    soundfile.write(tmp_path / "a.flac", tone(300), 16000)
    sounds = Sounds.of(Mixing(noise=str(tmp_path)))
    assert [len(one) for one in sounds.noise] == [16000, 16000]
    assert sounds.rooms == ()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no \.wav"):
        Sounds.of(Mixing(rooms=str(tmp_path / "empty")))

import numpy as np

from mer_ray.data.features import Feature, FeatureSet
from mer_ray.learners.scaling import Scaling
from mer_ray.learners.voices import Voices


def make(num_voices=4, num_clips=400, seed=0, modality="audio"):
    """Clips of well parted voices, faces that say nothing of them, and the voice of each clip."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(num_voices, size=num_clips)
    voice = (rng.normal(scale=3, size=(num_voices, 20))[truth] + rng.normal(size=(num_clips, 20))).astype(np.float32)
    present = rng.random(num_clips) < 0.9
    voice[~present] = np.nan
    face = (8 * np.eye(6)[rng.integers(6, size=num_clips)] + rng.normal(size=(num_clips, 6))).astype(np.float32)
    features = (
        Feature("face", "video", face, np.ones(num_clips, dtype=bool)),
        Feature("voice", modality, voice, present),
    )
    return FeatureSet(tuple(f"clip{i}" for i in range(num_clips)), features), truth


def test_voices_are_told_apart_by_what_is_heard_alone():
    clips, truth = make()
    voices = Voices.learn(clips, seed=0)
    found = voices.assign(clips)
    heard = clips.features[1].present
    assert voices.features == ("voice",)
    assert (found[~heard] == -1).all()
    for voice in np.unique(found[heard]):
        assert len(set(truth[found == voice])) == 1
    np.testing.assert_array_equal(Voices.learn(clips, seed=0).centre, voices.centre)


def test_one_voice_is_left_whole():
    clips, _ = make(num_voices=1)
    assert Voices.learn(clips, seed=0).num_voices == 1


def test_without_audio_all_features_are_read():
    clips, _ = make(modality="speech")
    assert Voices.learn(clips, seed=0).features == ("face", "voice")


def test_standardised_by_voices_clips_no_longer_tell_whose_they_are():
    clips, truth = make()
    scaled = Scaling.learn(clips, [None] * 400, "voices", 5.0, seed=0).apply(clips, [None] * 400).features[1]
    heard = clips.features[1].present
    levels = [scaled.values[heard & (truth == voice)].mean(axis=0) for voice in range(4)]
    assert np.abs(levels).max() < 0.5

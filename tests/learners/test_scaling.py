import numpy as np
import pytest

from mer_ray.data.features import Feature, FeatureSet
from mer_ray.errors import CorruptPartError, FeatureFileError
from mer_ray.learners.scaling import Scaling

SPEAKERS = ["ann"] * 6 + ["bob"] * 9 + [None] * 3 + ["cyd"]


def make(speakers=SPEAKERS, dtype=np.float32, seed=0, first=0):
    """Two features; each speaker has his own level and spread, the absent values are NaN."""
    rng = np.random.default_rng(seed)
    level = {name: rng.normal(scale=4, size=5) for name in ("ann", "bob", "cyd", "dan", None)}
    features = []
    for name, modality, absent in (("voice", "audio", 0.2), ("face", "video", 0.0)):
        values = np.stack([level[s] + rng.normal(size=5) * (1 + len(s or "")) for s in speakers]).astype(dtype)
        present = rng.random(len(speakers)) >= absent
        values[~present] = np.nan
        features.append(Feature(name, modality, values, present))
    return FeatureSet(tuple(f"clip{first + i}" for i in range(len(speakers))), tuple(features))


def join(one, other):
    """The clips of both."""
    pairs = zip(one.features, other.features, strict=True)
    features = (
        Feature(a.name, a.modality, np.concatenate([a.values, b.values]), np.concatenate([a.present, b.present]))
        for a, b in pairs
    )
    return FeatureSet(one.clip_ids + other.clip_ids, tuple(features))


def expected(values, present, speakers, shrink):
    """Brute force, speaker by speaker."""
    groups = {s: [i for i in range(len(speakers)) if present[i] and speakers[i] == s] for s in set(speakers)}
    squares = sum(((values[rows] - values[rows].mean(0)) ** 2).sum(0) for rows in groups.values() if rows)
    within = squares / sum(max(len(rows) - 1, 0) for rows in groups.values())
    whole = values[present].mean(0), values[present].var(0)
    result = values.copy()
    for speaker, rows in groups.items():
        if not rows:
            continue
        n, own = len(rows), values[rows]
        mean = (n * own.mean(0) + shrink * whole[0]) / (n + shrink)
        variance = (((own - own.mean(0)) ** 2).sum(0) + shrink * within) / (n - 1 + shrink)
        mean, variance = whole if speaker is None else (mean, variance)
        result[rows] = ((own - mean) / np.sqrt(variance)).clip(-10, 10)
    return result


@pytest.mark.parametrize("shrink", [0.5, 10.0])
def test_each_speaker_by_his_own_clips_mixed_with_the_whole(shrink):
    clips = make()
    scaled = Scaling.learn(clips, SPEAKERS, "speaker", shrink, seed=0).apply(clips, SPEAKERS)
    for given, found in zip(clips.features, scaled.features, strict=True):
        wanted = expected(given.values.astype(np.float64), given.present, SPEAKERS, shrink)
        np.testing.assert_allclose(found.values, wanted, rtol=1e-4, atol=1e-5)
        assert np.isnan(found.values[~given.present]).all(), "an absent row is left as it was"
        assert np.isfinite(found.values[given.present]).all()


def test_without_shrinking_a_speaker_is_centred_and_of_unit_spread():
    clips = make()
    face = Scaling.learn(clips, SPEAKERS, "speaker", 0.0, seed=0).apply(clips, SPEAKERS).features[1].values
    np.testing.assert_allclose(face[6:15].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(face[6:15].std(axis=0, ddof=1), 1, atol=1e-5)
    np.testing.assert_allclose(face[-1], 0, atol=1e-5)


@pytest.mark.parametrize("shrink", [0.0, 10.0])
def test_columns_that_tell_nothing_but_the_speaker_are_silenced(shrink):
    clips = make()
    face = clips.features[1].values
    face[:, 1] = 3.7
    face[:, 2] = [len(s or "") for s in SPEAKERS]
    face[:6, 3] = 1.0
    scaled = Scaling.learn(clips, SPEAKERS, "speaker", shrink, seed=0).apply(clips, SPEAKERS).features[1].values
    spoken = [row for row, speaker in enumerate(SPEAKERS) if speaker]
    assert (scaled[:, 1] == 0).all()
    assert (scaled[spoken, 2] == 0).all()
    assert np.ptp(scaled[:6, 3]) == 0
    assert np.ptp(scaled[6:15, 3]) > 1, "another speaker's is not"


def test_speakers_of_one_clip_each_are_standardised_by_the_whole():
    speakers = [f"s{i}" for i in range(40)]
    clips = make([None] * 40)
    one = Scaling.learn(clips, speakers, "speaker", 1000.0, seed=0).apply(clips, speakers)
    plain = Scaling.learn(clips, [None] * 40, "speaker", 1000.0, seed=0).apply(clips, [None] * 40)
    for a, b in zip(one.features, plain.features, strict=True):
        np.testing.assert_allclose(a.values, b.values, atol=0.02)


def test_later_clips_join_what_is_known_of_their_speaker():
    """And those learnt from do not count twice, in whatever company they come."""
    clips = make()
    later_speakers = ["bob"] * 4 + ["dan"] * 5
    later = make(later_speakers, seed=1, first=100)
    scaling = Scaling.learn(clips, SPEAKERS, "speaker", 2.0, seed=0)
    found = scaling.apply(join(clips, later), SPEAKERS + later_speakers)
    alone = scaling.apply(later, later_speakers)
    old = scaling.apply(clips, SPEAKERS)
    for f, (one, other) in enumerate(zip(clips.features, later.features, strict=True)):
        np.testing.assert_array_equal(found.features[f].values[19:], alone.features[f].values)
        np.testing.assert_array_equal(found.features[f].values[:6], old.features[f].values[:6])
        assert (found.features[f].values[6:15] != old.features[f].values[6:15]).any()
        bob = np.concatenate([one.values[6:15][one.present[6:15]], other.values[:4][other.present[:4]]])
        whole = one.values[one.present].mean(axis=0)
        shift = (bob.sum(axis=0) + 2 * whole) / (len(bob) + 2)
        signs = np.sign(found.features[f].values[19:23][other.present[:4]])
        np.testing.assert_array_equal(signs, np.sign(other.values[:4][other.present[:4]] - shift))


@pytest.mark.parametrize("how", ["speaker", "voices"])
def test_clips_that_do_not_join_come_out_the_same_in_any_company(how):
    """A known speaker as when learnt from, one not heard before as a clip of nobody."""
    clips = make()
    scaling = Scaling.learn(clips, SPEAKERS, how, 2.0, seed=0)
    later_speakers = ["bob", "dan", "dan", "dan"]
    later = make(later_speakers, seed=1, first=100)
    company = join(later, clips)
    found = scaling.apply(company, [*later_speakers, *SPEAKERS], join=False)
    nobody = scaling.apply(later, ["bob", None, None, None], join=False)
    learnt = scaling.apply(clips, SPEAKERS)
    for row in range(4):
        alone = scaling.apply(later.take(np.array([row])), later_speakers[row : row + 1], join=False)
        for one, other in zip(alone.features, found.features, strict=True):
            np.testing.assert_array_equal(one.values[0], other.values[row])
    for f in range(2):
        np.testing.assert_array_equal(found.features[f].values[:4], nobody.features[f].values)
        np.testing.assert_array_equal(found.features[f].values[4:], learnt.features[f].values)
    joined = scaling.apply(company, [*later_speakers, *SPEAKERS])
    assert (joined.features[1].values[:4] != found.features[1].values[:4]).any()


@pytest.mark.parametrize("how", ["speaker", "voices"])
def test_it_comes_back_from_its_file_and_a_damaged_one_is_named(how):
    clips = make(["ann", "bob", None] * 40, dtype=np.float16)
    scaling = Scaling.learn(clips, ["ann", "bob", None] * 40, how, 10.0, seed=3)
    data = scaling.to_bytes()
    assert data == Scaling.learn(clips, ["ann", "bob", None] * 40, how, 10.0, seed=3).to_bytes()
    again = Scaling.from_bytes(data)
    assert again.to_bytes() == data
    later = make(["bob", "dan"] * 9, dtype=np.float16, seed=4, first=500)
    for one, other in zip(
        scaling.apply(later, ["bob", "dan"] * 9).features, again.apply(later, ["bob", "dan"] * 9).features, strict=True
    ):
        assert one.values.dtype == np.float16
        np.testing.assert_array_equal(one.values, other.values)
    for damaged in (data[:-9], b"", data.replace(b'"scaling"', b'"scalinh"')):
        with pytest.raises(CorruptPartError, match="delete them"):
            Scaling.from_bytes(damaged)


def test_a_feature_that_was_not_learnt_is_refused():
    clips = make()
    scaling = Scaling.learn(clips.only(["face"]), SPEAKERS, "speaker", 10.0, seed=0)
    with pytest.raises(FeatureFileError, match=r"feature voice, 5 wide.*face \(5 wide\)"):
        scaling.apply(clips, SPEAKERS)


def test_a_clip_rests_on_what_is_known_of_its_speaker_and_on_the_new_clips_that_join():
    clips = make()
    scaling = Scaling.learn(clips, SPEAKERS, "speaker", 10.0, seed=0)
    assert scaling.rests_on(clips, SPEAKERS).tolist() == [6] * 6 + [9] * 9 + [0] * 3 + [1]
    new = make(["bob", "dan", "dan", None], first=100)
    assert scaling.rests_on(new, ["bob", "dan", "dan", None]).tolist() == [10, 2, 2, 0]
    assert scaling.rests_on(new, ["bob", "dan", "dan", None], join=False).tolist() == [9, 0, 0, 0]

import numpy as np
import pytest

from mer_ray.benchmarks import real_sets
from mer_ray.errors import FeatureFileError
from mer_ray.types import Split


def write(folder, name, num_clips=240, classes=3, distance=2.5, seed=0, **changed):
    """A made file of a set's form: every feature tells the class a little, a quarter of the clips is the test."""
    rng = np.random.default_rng(seed)
    form, truth = real_sets.FORMS[name], np.arange(num_clips) % classes
    arrays = {feature: distance * rng.normal(size=(classes, 6))[truth] for feature in form.modalities}
    arrays = {feature: (x + rng.normal(scale=2, size=x.shape)).astype(np.float32) for feature, x in arrays.items()}
    arrays[form.label] = np.array(["joy", "anger", "worry"])[truth]
    arrays[form.split] = np.array(["train", "train", "train", "test"])[np.arange(num_clips) // classes % 4]
    if form.speaker:
        arrays[form.speaker] = np.arange(num_clips) // (4 * classes)
    arrays |= changed
    np.savez(folder / form.file, **{key: value for key, value in arrays.items() if value is not None})
    return arrays


@pytest.mark.parametrize("name", real_sets.FORMS)
def test_every_clip_is_read_with_its_class_and_speaker(tmp_path, name):
    arrays = write(tmp_path, name)
    one = real_sets.read(tmp_path, name)
    form = real_sets.FORMS[name]
    assert one.class_names == ("anger", "joy", "worry")
    assert [one.class_names[c] for c in one.truth] == arrays[form.label].tolist()
    assert [(f.name, f.modality) for f in one.features.features] == list(form.modalities.items())
    for feature in one.features.features:
        np.testing.assert_array_equal(feature.values, arrays[feature.name])
    assert one.speakers == (tuple(arrays[form.speaker].astype(str)) if form.speaker else (None,) * 240)
    np.testing.assert_array_equal(one.test, arrays[form.split] == "test")


def test_a_clip_of_another_split_is_left_out(tmp_path):
    split = np.array(["train", "val", "test"])[np.arange(240) % 3]
    arrays = write(tmp_path, "nemo", split=split, emotion=np.array(["b", "a"])[np.arange(240) % 2])
    one = real_sets.read(tmp_path, "nemo")
    np.testing.assert_array_equal(one.features.features[0].values, arrays["audio"][split != "val"])
    assert len(set(one.features.clip_ids)) == len(one.truth) == 160


def test_a_tenth_of_each_class_keeps_its_label_and_no_test_clip_does(tmp_path):
    write(tmp_path, "handwritten")
    one = real_sets.read(tmp_path, "handwritten")
    drawn = one.experiment(0.1, seed=1)
    assert np.bincount(drawn.labels[drawn.labelled]).tolist() == [6, 6, 6]
    assert (drawn.labels[drawn.labelled] == one.truth[drawn.labelled]).all()
    assert not one.test[drawn.labelled].any()
    np.testing.assert_array_equal(drawn.pool, ~one.test & (drawn.labels < 0))
    assert {(s, p) for s, p in zip(drawn.splits, drawn.pool, strict=True)} == {
        (Split.TRAIN, False),
        (Split.UNLABELED, True),
        (Split.TEST, False),
    }
    assert (one.experiment(0.1, seed=2).labels != drawn.labels).any()
    whole = one.experiment(1.0, seed=1)
    np.testing.assert_array_equal(whole.labels, np.where(one.test, -1, one.truth))
    assert not whole.pool.any()


def test_what_is_not_the_set_is_refused(tmp_path):
    with pytest.raises(FeatureFileError, match=r"nemo_audiofeat\.npz is not there; give the folder"):
        real_sets.read(tmp_path, "nemo")
    write(tmp_path, "nemo", speaker=None)
    with pytest.raises(FeatureFileError, match=r"not the file of the set nemo .*speaker"):
        real_sets.read(tmp_path, "nemo")
    whole = (tmp_path / "nemo_audiofeat.npz").read_bytes()
    (tmp_path / "nemo_audiofeat.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FeatureFileError, match="fetch it again"):
        real_sets.read(tmp_path, "nemo")

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from mer_ray.benchmarks import real_sets
from mer_ray.benchmarks.mining import references
from mer_ray.benchmarks.real_sets import Form
from mer_ray.errors import FeatureFileError
from mer_ray.evaluation.metrics import waf
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


def test_a_set_of_ones_own_is_read_by_its_form(tmp_path):
    arrays = write(tmp_path, "nemo")
    form = Form(file=str(tmp_path / "nemo_audiofeat.npz"), modalities={"audio": "audio"}, label="emotion")
    one = real_sets.read("elsewhere", "mine", form)
    assert (one.name, set(one.speakers)) == ("mine", {None})
    np.testing.assert_array_equal(one.features.features[0].values, arrays["audio"])


def test_so_many_labels_of_each_class_are_kept(tmp_path):
    write(tmp_path, "handwritten")
    one = real_sets.read(tmp_path, "handwritten")
    drawn = one.experiment(0.1, 1, per_class=1)
    assert np.bincount(drawn.labels[drawn.labelled]).tolist() == [1, 1, 1]
    assert drawn.pool.sum() == (~one.test).sum() - 3
    assert (one.experiment(0.1, 2, per_class=1).labelled != drawn.labelled).any()


@pytest.mark.parametrize("name", real_sets.MADE)
def test_a_made_set_is_the_same_each_time_and_can_be_learnt(name):
    one, again = real_sets.read("nowhere", name), real_sets.read("nowhere", name)
    for first, second in zip(one.features.features, again.features.features, strict=True):
        np.testing.assert_array_equal(first.values, second.values)
    assert 0.25 < one.test.mean() < 0.4
    peers = references(one.experiment(0.3, seed=0))
    assert waf(one.truth[one.test], peers["lda"][one.test]) > 0.7


def test_the_commonest_class_of_the_skewed_set_is_ten_times_as_common_as_the_rarest():
    counts = np.bincount(real_sets.read("nowhere", "skewed").truth)
    assert counts[0] / counts[-1] == pytest.approx(10, rel=0.3)


def test_most_of_the_misleading_pool_is_never_labelled_and_costs_who_learns_from_it():
    one = real_sets.read("nowhere", "misleading")
    drawn = one.experiment(0.3, seed=0)
    assert not one.never[drawn.labelled].any()
    assert one.never[drawn.pool].mean() > 0.7
    assert not (one.never & one.test).any()
    values = np.concatenate([feature.values for feature in one.features.features], axis=1)
    truth, pool = one.truth, np.flatnonzero(drawn.pool)
    alone = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(
        values[drawn.labelled], truth[drawn.labelled]
    )
    taught = np.concatenate([truth[drawn.labelled], alone.predict(values[pool])])
    self_taught = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    self_taught.fit(values[np.concatenate([drawn.labelled, pool])], taught)
    scores = [waf(truth[one.test], model.predict(values[one.test])) for model in (alone, self_taught)]
    assert scores[0] > scores[1] + 0.05

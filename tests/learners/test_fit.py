from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_clips import clips, training

from mer_ray import registry
from mer_ray.config import FitConfig
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.data.room import Room
from mer_ray.errors import LearnerError
from mer_ray.learners import training as training_module
from mer_ray.learners.fit import fit_fold, fit_folds, inner_split, reproducible
from mer_ray.learners.model import tensors

FIT = FitConfig(epochs=6, batch_size=16, hidden=12)
STOPPING = FitConfig(
    epochs=60, batch_size=16, hidden=12, learning_rate=0.02, patience=4, inner_share=0.3, inner_least=5
)


def model_config(features, fusion="attention", hidden=12, num_classes=3):
    dims = tuple(feature.values.shape[1] for feature in features.features)
    return registry.configure("fusion", fusion, {"dims": dims, "num_classes": num_classes, "hidden": hidden})


def fit(features, rows, fusion="attention", fit_config=FIT, seed=0, num_classes=3):
    config = model_config(features, fusion, fit_config.hidden, num_classes)
    return fit_fold(features, rows, fusion, config, fit_config, seed)


def bits(model):
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def predict(model, features):
    with torch.no_grad():
        return model(*tensors(features))[0].softmax(1).numpy()


def altered(features, change, number=0):
    """The features with the values of one of them changed."""
    made = list(features.features)
    old = made[number]
    values = old.values.copy()
    change(values)
    made[number] = Feature(old.name, old.modality, values, old.present)
    return FeatureSet(features.clip_ids, tuple(made))


@pytest.fixture
def data():
    features, labels = clips()
    return features, labels, training(np.arange(60), labels)


@pytest.mark.parametrize("fusion", registry.names("fusion"))
def test_it_learns_and_predicts_clips_that_it_has_not_seen(data, fusion):
    features, labels, rows = data
    model = fit(features, rows, fusion, FitConfig(epochs=30, batch_size=16, hidden=16))
    assert not model.training
    held_out = np.arange(60, 90)
    held_out = held_out[features.present[held_out].any(axis=1)]
    predicted = predict(model, features.take(held_out)).argmax(axis=1)
    assert (predicted == labels[held_out]).mean() > 0.85


@pytest.mark.parametrize("fit_config", [FIT, STOPPING.model_copy(update={"epochs": 8})])
def test_the_same_seed_gives_the_same_bits_whatever_was_done_before(data, fit_config):
    features, _, rows = data
    first = bits(fit(features, rows, fit_config=fit_config, seed=3))
    torch.manual_seed(99)
    torch.rand(1000)
    np.random.default_rng(0).random(10)
    torch.nn.Dropout()(torch.ones(50))
    assert bits(fit(features, rows, fit_config=fit_config, seed=3)) == first
    assert bits(fit(features, rows, fit_config=fit_config, seed=4)) != first


def test_the_process_keeps_its_own_random_state_and_threads(data):
    features, _, rows = data
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        fit(features, rows)
        assert torch.equal(torch.rand(3), expected)
        assert torch.get_num_threads() == 2
        with reproducible(1):
            assert torch.get_num_threads() == 1
        with pytest.raises(ZeroDivisionError), reproducible(1):
            1 / 0  # noqa: B018 - any failure inside
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_held_out_clips_do_not_matter(data):
    features, _, rows = data

    def wild(values):
        values[60:] = 1e6

    for number in range(3):
        assert bits(fit(altered(features, wild, number), rows)) == bits(fit(features, rows))


def test_training_clips_and_labels_do_matter(data):
    features, labels, rows = data
    present = np.flatnonzero(features.features[0].present[:60])
    assert bits(fit(altered(features, lambda values: values.__setitem__(present[0], 9.0)), rows)) != bits(
        fit(features, rows)
    )
    assert bits(fit(features, training(np.arange(60), (labels + 1) % 3))) != bits(fit(features, rows))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_stands_in_absent_features_does_not_matter(data, value):
    features, _, rows = data
    absent = ~features.features[1].present
    assert absent.any()
    changed = altered(features, lambda values: values.__setitem__(absent, value), 1)
    model, expected = fit(changed, rows), fit(features, rows)
    assert bits(model) == bits(expected)
    seen = np.flatnonzero(features.present.any(axis=1))
    np.testing.assert_array_equal(predict(model, changed.take(seen)), predict(expected, features.take(seen)))


def test_pseudo_labelled_clips_are_trained_on(data):
    features, labels, rows = data
    more = np.arange(60, 90)
    adopted = training(np.arange(60), labels, more, labels[more])
    assert bits(fit(features, adopted)) != bits(fit(features, rows))
    only_two = np.flatnonzero(labels[:60] < 2)
    without = fit(features, training(only_two, labels))
    with_third = fit(features, training(only_two, labels, more, labels[more]), fit_config=FitConfig(epochs=25))
    third = np.flatnonzero((labels == 2) & features.present.all(axis=1))[:10]
    assert (predict(with_third, features.take(third)).argmax(1) == 2).mean() > 0.8
    assert (predict(without, features.take(third)).argmax(1) == 2).mean() < 0.2


@pytest.mark.parametrize("num_classes", [3, 5])
def test_a_class_absent_in_training_keeps_its_column(data, num_classes):
    features, labels, _ = data
    rows = training(np.flatnonzero(labels[:60] < 2), labels, num_classes=num_classes)
    model = fit(features, rows, num_classes=num_classes)
    seen = np.flatnonzero(features.present.any(axis=1))
    probabilities = predict(model, features.take(seen))
    assert probabilities.shape == (len(seen), num_classes)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert np.isfinite(probabilities).all()


def test_float16_features_are_learnt_as_float32_ones_of_the_same_values(data):
    features, _, rows = data
    halves = [Feature(f.name, f.modality, f.values.astype(np.float16), f.present) for f in features.features]
    half = FeatureSet(features.clip_ids, tuple(halves))
    single = [Feature(f.name, f.modality, f.values.astype(np.float32), f.present) for f in halves]
    assert bits(fit(half, rows)) == bits(fit(FeatureSet(features.clip_ids, tuple(single)), rows))


def test_large_float16_values_do_not_overflow(data):
    features, _, rows = data
    first = features.features[0]
    values = np.where(first.present[:, None], np.clip(first.values * 8000, -65000, 65000), 0).astype(np.float16)
    huge = FeatureSet(features.clip_ids, (Feature("huge", "audio", values, first.present),))
    model = fit(huge, rows)
    seen = np.flatnonzero(first.present)
    probabilities = predict(model, huge.take(seen))
    assert np.isfinite(probabilities).all()
    assert len(np.unique(probabilities.round(4), axis=0)) > 10


@pytest.mark.parametrize("constant", [0.0, 3.7, -1e20])
def test_a_constant_feature_gives_finite_results_and_is_not_read_later(data, constant):
    features, _, rows = data
    flat = altered(features, lambda values: values.__setitem__(slice(None), constant))
    model = fit(flat, rows)
    seen = np.flatnonzero(features.present.any(axis=1))
    probabilities = predict(model, flat.take(seen))
    assert np.isfinite(probabilities).all()
    other = altered(flat, lambda values: values.__setitem__(slice(None), 12.0))
    np.testing.assert_array_equal(predict(model, other.take(seen)), probabilities)


def test_clips_with_none_of_the_features_are_left_out(data):
    features, labels, _ = data
    voice = features.only(["voice"])
    present = voice.features[0].present
    assert not present[:60].all()
    expected = bits(fit(voice, training(np.flatnonzero(present[:60]), labels)))
    assert bits(fit(voice, training(np.arange(60), labels))) == expected
    unseen = np.flatnonzero(~present)
    assert bits(fit(voice, training(np.arange(60), labels, unseen, labels[unseen]))) == expected


def test_no_labelled_clip_with_a_feature_is_an_error_that_names_it(data):
    features, labels, _ = data
    voice = features.only(["voice"])
    unseen, seen = np.flatnonzero(~voice.present[:, 0]), np.flatnonzero(voice.present[:, 0])
    for rows in (training(unseen, labels), training(unseen, labels, seen, labels[seen])):
        with pytest.raises(LearnerError, match="voice"):
            fit(voice, rows)


def test_a_loss_that_is_not_finite_is_an_error_that_says_what_to_do(data):
    features, _, rows = data
    with pytest.raises(LearnerError, match=r"lower fit\.learning_rate"):
        fit(features, rows, fit_config=FitConfig(epochs=5, learning_rate=1e30))


def watch(monkeypatch):
    """Every inner score that the fit takes, with what was scored."""
    seen = []
    score = training_module._score

    def spy(logits, inner):
        seen.append((score(logits, inner), inner))
        return seen[-1][0]

    monkeypatch.setattr(training_module, "_score", spy)
    return seen


def test_early_stopping_keeps_the_best_epoch_and_stops_patiently(data, monkeypatch):
    features, _, rows = data
    seen = watch(monkeypatch)
    model = fit(features, rows, fit_config=STOPPING)
    scores = [score for score, _ in seen]
    best = scores.index(max(scores))
    assert len(scores) == best + STOPPING.patience + 1 < STOPPING.epochs
    inner = seen[0][1]
    logits, _ = model(*tensors(features.take(inner.clip)))
    assert training_module._score(logits.detach(), inner) == pytest.approx(max(scores), rel=1e-5)
    assert scores[-1] != pytest.approx(max(scores), rel=1e-3)


def test_what_early_stopping_watches_is_not_trained_on(data, monkeypatch):
    features, _, rows = data
    given = []
    train = training_module.train

    def spy(models, parts, inners, *rest):
        given.append((set(parts[0].clip.tolist()), set(inners[0].clip.tolist())))
        train(models, parts, inners, *rest)

    monkeypatch.setattr(training_module, "train", spy)
    fit(features, rows, fit_config=STOPPING)
    learnt, inner = given[0]
    seen = set(np.flatnonzero(features.present[:60].any(axis=1)).tolist())
    assert learnt.isdisjoint(inner)
    assert learnt | inner == seen
    assert abs(len(inner) - STOPPING.inner_share * len(seen)) < 3


def test_the_inner_split_holds_true_labels_alone(data, monkeypatch):
    features, labels, _ = data
    seen = watch(monkeypatch)
    only_two, more = np.flatnonzero(labels[:60] < 2), np.flatnonzero(labels == 2)
    fit(features, training(only_two, labels, more, labels[more]), fit_config=STOPPING)
    assert set(np.concatenate([inner.target.argmax(axis=1) for _, inner in seen]).tolist()) == {0, 1}


def test_a_small_inner_split_is_not_watched(data, monkeypatch):
    features, _, rows = data
    seen = watch(monkeypatch)
    fit(features, rows, fit_config=STOPPING.model_copy(update={"inner_least": 30, "epochs": 5}))
    fit(features, rows, fit_config=STOPPING.model_copy(update={"inner_share": 0.0, "epochs": 5}))
    assert seen == []


def test_pseudo_labels_count_by_their_weight_and_may_be_soft(data):
    features, labels, _ = data
    more = np.arange(60, 90)

    def adopted(change):
        return change(training(np.arange(60), labels, more, labels[more]))

    hard = bits(fit(features, adopted(lambda rows: rows)))
    light = adopted(lambda rows: replace(rows, pseudo_weight=rows.pseudo_weight * 0.3))
    soft = adopted(lambda rows: replace(rows, pseudo_target=(rows.pseudo_target + 0.5) / 2.5))
    assert (
        len({hard["fusion.embed.absent"], *(bits(fit(features, r))["fusion.embed.absent"] for r in (light, soft))}) == 3
    )
    wrong = training(np.arange(60), labels, more, (labels[more] + 1) % 3, weight=0.0)
    seen = np.flatnonzero(features.present.all(axis=1))
    predicted = predict(fit(features, wrong, fit_config=FitConfig(epochs=30, hidden=16)), features.take(seen))
    assert (predicted.argmax(axis=1) == labels[seen]).mean() > 0.9


def test_memory_mapped_features_are_fitted_to_the_same_bits(data):
    features, _, rows = data
    room, order = Room(0), np.arange(len(features.clip_ids))
    mapped = FeatureSet(
        features.clip_ids, tuple(replace(one, values=room.copy(one.values, order)) for one in features.features)
    )
    assert all(isinstance(one.values.base, np.memmap) for one in mapped.features)
    assert bits(fit(mapped, rows)) == bits(fit(features, rows))


def test_valence_is_learnt_in_its_own_unit_from_clips_that_have_it(data):
    features, labels, rows = data
    valence = np.where(np.arange(90) % 5 == 0, np.nan, 4.0 * labels - 2).astype(np.float32)
    (model,) = fit_folds(
        features, [rows], "attention", model_config(features), FIT.model_copy(update={"valence": 1.0, "epochs": 60}),
        [0], valence,
    )  # fmt: skip
    held_out = np.arange(60, 90)[features.present[60:].all(axis=1)]
    with torch.no_grad():
        values, present = tensors(features.take(held_out))
        outputs, _ = model.fusion(model.prepare(values), present)
        logits, _ = model(values, present)
    assert logits.shape == (len(held_out), 3)
    assert np.abs(model.valences(outputs).numpy() - (4.0 * labels[held_out] - 2)).mean() < 1.5


@pytest.mark.parametrize("change", [{"balance": "logits"}, {"dtype": "bfloat16"}])
def test_each_option_acts_and_what_is_fitted_still_tells_the_classes(data, change):
    features, labels, rows = data
    settings_ = FitConfig(epochs=30, batch_size=16, hidden=16)
    model = fit(features, rows, fit_config=settings_.model_copy(update=change))
    assert bits(model) != bits(fit(features, rows, fit_config=settings_))
    seen = np.arange(60, 90)[features.present[60:].any(axis=1)]
    assert (predict(model, features.take(seen)).argmax(axis=1) == labels[seen]).mean() > 0.85


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0, 0.99), st.integers(1, 20))
def test_the_inner_split_is_a_share_of_each_class_and_never_all_of_it(labels, share, least):
    labels = np.array(labels)
    inner = inner_split(labels, share, least, seed=0)
    sizes = {c: min(round(share * (labels == c).sum()), (labels == c).sum() - 1) for c in set(labels.tolist())}
    if sum(sizes.values()) < least:
        assert len(inner) == 0
    else:
        assert (np.diff(inner) > 0).all()
        assert {c: (labels[inner] == c).sum() for c in sizes} == sizes
    assert inner.tolist() == inner_split(labels, share, least, seed=0).tolist()


def test_the_inner_split_is_drawn_by_the_seed():
    labels = np.zeros(100, dtype=np.int64)
    assert inner_split(labels, 0.2, 1, seed=0).tolist() != inner_split(labels, 0.2, 1, seed=1).tolist()

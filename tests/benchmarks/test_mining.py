from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from mer_ray.benchmarks import mining, real_sets
from mer_ray.config import FitConfig, MiningConfig
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.errors import ConfigError
from mer_ray.learners.experiment import Experiment
from mer_ray.types import Split

PEERS = ("logistic", "lda", "self_training", "label_spreading")
COLUMNS = {"labelled_only", "mined", "mined_vote", "mined_topk", "all_labels"} | {
    f"{model}{suffix}" for model in PEERS for suffix in ("", "_scaled")
}


def write_handwritten(folder, num_clips=400, num_classes=3):
    """A file of the set's form: six weak views of three classes, a quarter of the clips for the test."""
    rng = np.random.default_rng(0)
    truth = np.arange(num_clips) % num_classes
    views = {f"view{i}": rng.normal(size=(num_classes, 8))[truth] + rng.normal(size=(num_clips, 8)) for i in range(6)}
    split = np.where(rng.random(num_clips) < 0.25, "test", "train")
    np.savez(folder / "mv_handwritten.npz", label=truth, split=split, **views)


@pytest.mark.slow
def test_every_column_is_measured_and_two_runs_say_the_same(tmp_path, ray_cluster):
    write_handwritten(tmp_path)
    settings = mining.Config(
        data=str(tmp_path),
        sets=["handwritten"],
        seeds=[0, 1],
        strategies=["vote", "topk"],
        fit=FitConfig(folds=2, epochs=30, hidden=16, learning_rate=1e-2, standardise="fold"),
        mining=MiningConfig(rounds=1, strategy="vote"),
    )
    one = real_sets.read(tmp_path, "handwritten")
    draw = mining.draw(one, settings, seed=0)
    assert draw.waf.keys() == COLUMNS
    assert draw.waf == mining.draw(one, settings, seed=0).waf
    assert draw.waf["mined"] == draw.waf["mined_vote"]
    assert draw.waf["all_labels"] >= draw.waf["labelled_only"] > 0.6
    *_, figures = mining.measure([one], settings, Console(quiet=True))
    found = figures["sets"]["handwritten"]
    assert found.keys() == COLUMNS | {"paired", "gain", "gap_closed", "standardised", "chosen", "seconds"}
    assert found["paired"].keys() == COLUMNS
    differences = np.subtract(found["mined"]["values"], found["labelled_only"]["values"])
    assert found["paired"]["mined"]["mean"] == pytest.approx(differences.mean()) == found["gain"]["test"]
    assert found["paired"]["mined"]["standard_error"] == pytest.approx(differences.std(ddof=1) / np.sqrt(2))
    assert found["mined"]["values"][0] == draw.waf["mined"]
    assert found["mined"]["mean"] == pytest.approx(np.mean(found["mined"]["values"]))
    assert found["standardised"] == ["fold", "fold"]
    assert found["chosen"] == [None, None]


def write_spoken(folder, num_speakers=12, each=24, num_classes=3):
    """Voices of speakers of different levels, the last three of whom are heard in the test alone."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(num_speakers), each)
    truth = np.arange(len(who)) % num_classes
    levels, classes = 4 * rng.normal(size=(num_speakers, 8)), 0.8 * rng.normal(size=(num_classes, 8))
    voice = levels[who] + classes[truth] + rng.normal(size=(len(who), 8))
    split = np.where(who >= num_speakers - 3, "test", "train")
    np.savez(folder / "spoken.npz", voice=voice, label=truth, who=who, split=split)
    return real_sets.Form(file="spoken.npz", modalities={"voice": "audio"}, speaker="who")


@pytest.mark.slow
def test_where_mining_chooses_every_candidate_is_scored(tmp_path):
    form = write_spoken(tmp_path)
    settings = mining.Config(
        data=str(tmp_path), sets={"spoken": form}, strategies=[], fraction=0.3,
        fit=FitConfig(folds=3, epochs=30, hidden=16, learning_rate=1e-2, standardise="speaker"),
        mining=MiningConfig(strategy="auto"),
    )  # fmt: skip
    draw = mining.draw(real_sets.read(tmp_path, "spoken", form), settings, seed=0)
    scored = {name.removeprefix("candidate_") for name in draw.waf if name.startswith("candidate_")}
    assert scored == {"round_0", "linear", "lda", "lda_em", "student", "mean"}
    assert draw.waf["candidate_round_0"] == draw.waf["labelled_only"]
    assert draw.waf[f"candidate_{draw.chosen}"] == draw.waf["mined"]
    assert draw.waf["labelled_choice"] in {draw.waf[f"candidate_{name}"] for name in ("round_0", "linear", "lda")}
    assert draw.waf["mined_inductive"] != draw.waf["mined"]
    assert draw.standardised == "speaker"
    assert draw.oof_gain is not None
    one = settings.model_copy(update={"labels_per_class": 1})
    assert mining.draw(real_sets.read(tmp_path, "spoken", form), one, seed=0).oof_gain is None


def test_no_test_clip_has_a_say_in_how_the_others_are_standardised(tmp_path):
    one = real_sets.read(tmp_path, "spoken", write_spoken(tmp_path))
    values = one.features.features[0].values.copy()
    last = np.flatnonzero(one.test)[1:]
    values[last] += 50
    feature = replace(one.features.features[0], values=values)
    moved = replace(one, features=replace(one.features, features=(feature,)))
    plain, other = (
        mining.without_test(each, each.experiment(0.3, 0), 10.0).features.features[0].values for each in (one, moved)
    )
    np.testing.assert_array_equal(np.delete(plain, last, axis=0), np.delete(other, last, axis=0))
    assert (plain[last] != other[last]).all()


def test_the_references_are_taught_by_the_labels_kept_and_the_pool_alone():
    """A test clip, of whatever values, changes nothing for the others."""
    rng = np.random.default_rng(0)
    truth = np.arange(200) % 2
    values = (rng.normal(size=(200, 3)) + 2 * truth[:, None]).astype(np.float32)
    labels, pool = np.where(np.arange(200) < 20, truth, -1), (np.arange(200) >= 20) & (np.arange(200) < 150)

    def predict(values):
        feature = Feature("voice", "audio", values, np.ones(200, dtype=bool))
        ids = tuple(str(i) for i in range(200))
        splits = tuple(np.select([labels >= 0, pool], [Split.TRAIN, Split.UNLABELED], Split.TEST))
        made = Experiment(FeatureSet(ids, (feature,)), labels, splits, (None,) * 200, ("a", "b"), pool, "made", 0)
        return mining.references(made)

    found, others = predict(values), predict(np.where(np.arange(200)[:, None] < 150, values, 99.0))
    assert found.keys() == set(PEERS)
    for name in PEERS:
        assert (found[name][:150] == truth[:150]).mean() > 0.85
        np.testing.assert_array_equal(found[name][:150], others[name][:150])
    moved = values.copy()
    moved[20:150] += 5
    away = predict(moved)
    for name in ("self_training", "label_spreading"):
        assert (found[name] != away[name]).any()
    for name in ("logistic", "lda"):
        np.testing.assert_array_equal(found[name][150:], away[name][150:])


def test_an_unknown_set_is_named_before_anything_is_read():
    with pytest.raises(ConfigError, match="no set 'ravdes'; did you mean 'ravdess'"):
        next(mining.run(mining.Config(data="nowhere", sets=["ravdes"]), Console(quiet=True)))


def test_a_set_of_ones_own_is_named_with_its_form():
    told = {"mine": {"file": "mine.npz", "modalities": {"voice": "audio"}, "label": "emotion"}}
    settings = mining.Config.model_validate({"data": "nowhere", "sets": told})
    assert list(settings.sets) == ["mine"]
    assert mining.Config(data="nowhere", sets=["digits"]).sets == {"digits": None}

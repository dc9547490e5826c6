"""How the loop chooses what features are standardised by."""

import json
import shutil
from dataclasses import replace

import made_experiment as made
import numpy as np
import pytest
from made_mining import artifacts, brief, mine, same

from mer_ray.data.features import FeatureSet
from mer_ray.learners.learner import Learner
from mer_ray.learners.scaling import Scaling
from mer_ray.rounds.guard import Comparison
from mer_ray.tune.committee import Committee


def speaking(one_emotion_each=False):
    """Six speakers whose voices, faces and words stand apart; or three, each of one emotion, which is all they tell."""
    experiment, truth = made.make(num_labelled=90)
    speakers = truth if one_emotion_each else np.arange(len(truth)) // 3 % 6
    apart = 0.0 if one_emotion_each else 4.0
    features = tuple(
        replace(f, values=f.values + (apart * np.random.default_rng(7).normal(size=(6, 8)))[speakers].astype("f4"))
        for f in experiment.features.features
    )
    features = FeatureSet(experiment.features.clip_ids, features)
    return replace(experiment, features=features, speakers=tuple(f"speaker{s}" for s in speakers))


def by(how):
    return brief(made.settings(rounds=1), standardise=how)


def test_features_are_standardised_by_speaker_where_that_wins_out_of_fold(tmp_path, here):
    experiment = speaking()
    done = mine(tmp_path / "auto", experiment, by("auto"))
    told = json.loads((done.rounds / "standardise/metrics.json").read_text())
    assert told["chosen"] == "speaker"
    assert told["oof_waf"]["speaker"] > told["oof_waf"]["fold"] + told["noise"]
    assert ("standardised", told) in done.events
    speaker = mine(tmp_path / "speaker", experiment, by("speaker"))
    assert same(speaker.mined, done.mined), "round 0 is the fit that was tried"
    assert not (speaker.rounds / "standardise").exists()
    scaling = (done.rounds / "scaling.safetensors").read_bytes()
    assert scaling == (speaker.rounds / "scaling.safetensors").read_bytes()
    scaled = Scaling.from_bytes(scaling).apply(experiment.features, experiment.speakers)
    learner = done.rounds / "01/all"
    files = {name: (learner / name).read_bytes() for name in ("model.safetensors", "config.json")}
    predicted = Learner.from_files(files).predict(scaled)
    assert predicted.to_bytes() == (learner / "predictions.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("known", "gain", "chosen"),
    [
        (True, 0.02, "speaker"), (True, -0.01, "fold"),
        (False, 0.02, "fold"), (False, 0.2, "voices"),
    ],
)  # fmt: skip
def test_known_speakers_need_not_be_better_by_more_than_the_noise(tmp_path, here, monkeypatch, known, gain, chosen):
    monkeypatch.setattr(Committee, "compare", lambda *labels: Comparison(0.5 + gain, 0.5, 0.1))
    experiment = speaking()
    experiment = experiment if known else replace(experiment, speakers=(None,) * len(experiment.speakers))
    settings = brief(made.settings(rounds=0), standardise="auto", epochs=1, folds=2)
    done = mine(tmp_path, experiment, settings)
    assert json.loads((done.rounds / "standardise/metrics.json").read_text())["chosen"] == chosen


def test_features_stay_as_they_are_where_that_is_better(tmp_path, here):
    done = mine(tmp_path, speaking(one_emotion_each=True), by("auto"))
    assert json.loads((done.rounds / "standardise/metrics.json").read_text())["chosen"] == "fold"
    assert not (done.rounds / "scaling.safetensors").exists()
    np.testing.assert_array_equal(
        done.controller.experiment.features.features[0].values, done.experiment.features.features[0].values
    )


def test_other_speakers_of_unlabelled_clips_begin_anew_and_another_bound_of_memory_does_not(tmp_path, here):
    """Whatever the memory, the rounds are the same to the bit."""
    experiment = speaking()
    settings = brief(made.settings(rounds=0), standardise="speaker", epochs=1, folds=2)
    settings = settings.model_copy(update={"learners": made.learners()[:1]})
    mapped = brief(settings, memory_bytes=1, epochs=1)
    first = mine(tmp_path, experiment, settings)
    before = artifacts(first.rounds)
    assert mine(tmp_path, experiment, mapped).fits == []
    assert artifacts(first.rounds) == before
    assert same(mine(tmp_path / "mapped", experiment, mapped).mined, first.mined)
    assert artifacts(tmp_path / "mapped/rounds") == before
    speakers = np.where(experiment.labels >= 0, experiment.speakers, "somebody").tolist()
    other = mine(tmp_path, replace(experiment, speakers=tuple(speakers)), settings)
    kind, told = other.events[0]
    assert kind == "rounds_moved_aside"
    assert artifacts(tmp_path / told["to"]) == before
    assert artifacts(other.rounds)["scaling.safetensors"] != before["scaling.safetensors"]
    assert other.fits == ["00/all"]


@pytest.mark.parametrize(
    "lost", ["standardise/fold/all", "standardise/speaker/no_face", "00/all", "scaling.safetensors"]
)
def test_a_choice_that_was_cut_off_is_made_again_the_same(tmp_path, here, lost):
    experiment = speaking()
    whole = mine(tmp_path, experiment, by("auto"))
    before = artifacts(whole.rounds)
    place = whole.rounds / lost
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    (whole.rounds / "standardise/metrics.json").unlink()
    again = mine(tmp_path, experiment, by("auto"))
    assert again.fits == ([lost] if lost.startswith("00") else []), "round 0 is taken from what was tried"
    assert same(again.mined, whole.mined)
    assert artifacts(again.rounds) == before

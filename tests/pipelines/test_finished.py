"""A run's final ensemble, read from its files alone, says what the run itself said."""

from dataclasses import replace

import made_experiment as made
import made_finished
import numpy as np
import pytest

from mer_ray.data.features import FeatureSet
from mer_ray.data.room import Room
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, CorruptPartError, FeatureFileError, InputError
from mer_ray.pipelines import finished, results
from mer_ray.rounds.ensemble import mean_valence

KINDS = {
    "as shipped": {},
    "by the mean": {"ensemble": "mean"},
    "by speaker": {"standardise": "speaker"},
    "with valence": {"valence": 1.0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_runs_own_clips_get_the_runs_own_answers(kind, tmp_path):
    experiment, truth = made.make(num_labelled=45, num_pool=40, num_test=20, absent=0.3)
    valence = np.where(experiment.labels < 0, np.nan, truth).astype(np.float32)
    speakers = tuple(f"s{i % 7}" for i in range(len(truth)))
    experiment = replace(experiment, speakers=speakers, valence=valence)
    store = Store(str(tmp_path))
    run = made_finished.finish(experiment, store, **KINDS[kind])
    results.final_of(run).write(store / "rounds")
    ensemble = finished.read(store)
    new = np.flatnonzero(experiment.labels < 0)[::-1]
    raw = experiment.features.take(new)
    given = finished.as_learnt(ensemble.final, FeatureSet(raw.clip_ids, raw.features[::-1]))
    given = finished.standardise(store, given, [experiment.speakers[row] for row in new], Room())
    heard = [ensemble.vote(place, given) for place in range(len(ensemble.learners))]
    said = ensemble.final.combine(np.stack([one.probabilities for one in heard]))
    np.testing.assert_allclose(said.probabilities, run.mined.final.probabilities[new], atol=1e-6)
    np.testing.assert_array_equal(said.label, run.mined.final.label[new])
    if "valence" not in KINDS[kind]:
        assert run.mined.valence is None
        return
    said_valence = mean_valence([one.valence for one in heard], ensemble.final.valence)
    np.testing.assert_allclose(said_valence, run.mined.valence[new], atol=1e-5)
    assert np.corrcoef(said_valence, truth[new])[0, 1] > 0.5
    nobody = ~experiment.features.present[new].any(axis=1)
    np.testing.assert_allclose(said_valence[nobody], np.nanmean(valence))


def test_a_feature_that_no_new_clip_has_is_absent_and_one_of_another_width_refused():
    experiment, _ = made.make(num_labelled=6, num_pool=3, num_test=0)
    voice, face, words = experiment.features.features
    reads = tuple(results.Read(f.name, f.modality, f.values.shape[1]) for f in (voice, face, words))
    final = results.Final("mode", made.CLASSES, (0.4, 0.3, 0.3), (), reads)
    given = finished.as_learnt(final, FeatureSet(experiment.features.clip_ids, (words, replace(voice, modality="x"))))
    assert [(f.name, f.modality, bool(f.present.any())) for f in given.features] == [
        ("voice", "audio", True),
        ("face", "video", False),
        ("words", "text", True),
    ]
    with pytest.raises(FeatureFileError, match="face is 3 wide and was 8 in the run"):
        finished.check_widths(final, [replace(face, values=face.values[:, :3])])


def test_what_is_no_run_an_unfinished_or_a_damaged_one_is_told_apart(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(ConfigError, match="is no run; give the"):
        finished.read_settings(store)
    store.write("config.yaml", b"model: x\n")
    with pytest.raises(ConfigError, match=r"of this version: unknown key model"):
        finished.read_settings(store)
    with pytest.raises(InputError, match="the run is not finished"):
        finished.read(store)
    with pytest.raises(InputError, match="let it end"):
        finished.trained_on(store)
    voter = results.Voter("all", 0, (1.0,))
    results.Final("mode", made.CLASSES, (0.4, 0.3, 0.3), (voter,), ()).write(store / "rounds")
    with pytest.raises(CorruptPartError, match="00/all lacks a file"):
        finished.read(store)
    store.write("rounds/final.json", b"{")
    with pytest.raises(CorruptPartError, match=r"final.json is damaged"):
        finished.read(store)

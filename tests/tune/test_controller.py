"""The mining loop on real Ray Tune; where a test is of the loop's logic alone, its learners are fitted right here."""

import json
import re
import shutil
from collections import Counter
from dataclasses import replace

import made_experiment as made
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from made_experiment import CLASSES
from made_mining import LEARNERS, artifacts, brief, mine, same

from mer_ray.config import LearnerConfig, PluginConfig
from mer_ray.data.features import FeatureSet
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, LearnerError
from mer_ray.evaluation.metrics import waf
from mer_ray.learners.learner import Learner
from mer_ray.mining import base as mining
from mer_ray.mining import vote
from mer_ray.tune.ablations import ablate
from mer_ray.tune.controller import Controller
from mer_ray.types import Split

FIGURES = {
    "round", "oof_waf", "learners", "temperatures", "selected", "selected_by_fold", "trained_on", "kept", "reason",
}  # fmt: skip
ARTIFACTS = {"model.safetensors", "config.json", "metrics.json", "predictions.safetensors"}


def test_it_learns_something_and_adopts_in_every_round_but_the_last(done):
    assert [one.number for one in done.mined.rounds] == [0, 1, 2]
    assert done.mined.last.oof_waf > 0.6, "these classes can be told apart"
    assert [len(one.selected) > 0 for one in done.mined.rounds] == [True, True, False]


def test_every_artifact_is_where_the_design_says(done):
    assert sorted(path.name for path in done.rounds.iterdir()) == ["00", "01", "02", "experiment.json"]
    for number in range(3):
        folder = done.rounds / f"{number:02d}"
        names = {path.name for path in folder.iterdir()}
        assert names == {*LEARNERS, "votes.parquet", "selected.parquet", "metrics.json"}
        figures = json.loads((folder / "metrics.json").read_text())
        one = done.mined.rounds[number]
        assert set(figures) == FIGURES
        assert (figures["round"], figures["oof_waf"], figures["kept"]) == (number, one.oof_waf, True)
        assert figures["selected"] == len({row["clip_id"] for row in done.selected(number)})
        for learner in LEARNERS:
            assert {path.name for path in (folder / learner).iterdir()} == ARTIFACTS
    assert sorted(done.fits) == sorted(f"{number:02d}/{name}" for number in range(3) for name in LEARNERS)


def test_events_tell_each_change_of_state(done):
    assert [kind for kind, _ in done.events] == ["round_started", "round_done"] * 3
    assert [fields["round"] for _, fields in done.events] == [0, 0, 1, 1, 2, 2]
    assert done.events[0][1]["pseudo_labels"] == 0
    assert done.events[2][1]["pseudo_labels"] == len(done.mined.rounds[0].selected)


def test_fits_in_workers_say_how_far_they_are(done):
    num_fits, epochs = len(LEARNERS), made.FIT.epochs
    words = [what for _, what in done.told]
    assert any(re.match(rf"\d of {num_fits} fits, epoch \d+ of {epochs}", what) for what in words)
    assert words.count(f"{num_fits} of {num_fits} fits") == 3, "of each round, as it ends"
    assert all(0 <= share <= 1 for share, _ in done.told)


def test_the_files_of_a_learner_predict_what_it_voted(done):
    folder = done.rounds / "01/no_face"
    files = {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json")}
    again = Learner.from_files(files).predict(done.experiment.features)
    assert again.to_bytes() == (folder / "predictions.safetensors").read_bytes()


def tempered(done, number, learner):
    """What the learner's models say of every clip, by its temperatures (F, N, C)."""
    temperatures = np.array(done.mined.rounds[number].temperatures[learner])[:, None, None]
    powers = done.predictions(number, learner).probabilities_FNC.astype(np.float64) ** (1 / temperatures)
    return powers / powers.sum(axis=2, keepdims=True)


def test_votes_are_what_the_model_of_all_labels_says_of_clips_not_labelled_for_training(done):
    ids = done.experiment.features.clip_ids
    for number in range(3):
        rows = pq.read_table(done.rounds / f"{number:02d}/votes.parquet").to_pylist()
        found = {(row["clip_id"], row["learner"]): [row[f"prob_{name}"] for name in CLASSES] for row in rows}
        assert len(found) == len(rows), "a learner votes twice on a clip"
        expected = {}
        for learner in LEARNERS:
            said_NC = tempered(done, number, learner)[3]
            for row in np.flatnonzero((done.held_out < 0) & ~np.isnan(said_NC).any(axis=1)):
                expected[ids[row], learner] = said_NC[row].tolist()
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(list(found.values()), [expected[key] for key in found], atol=1e-6)


def test_labelled_clips_are_predicted_by_the_fold_that_did_not_see_them(done):
    for learner in LEARNERS:
        folds_FNC = tempered(done, 2, learner)
        for row in done.experiment.labelled:
            said = done.mined.rounds[2].votes[learner][row]
            np.testing.assert_allclose(said, folds_FNC[done.held_out[row], row], atol=1e-6)


def test_what_is_adopted_is_what_three_of_four_learners_of_the_fold_agree_on(done):
    """Against brute force: from the pool alone, once per fold, even among the learners."""
    ids = done.experiment.features.clip_ids
    taken = set()
    for number in range(2):
        votes = {name: done.predictions(number, name).probabilities_FNC for name in LEARNERS}
        expected = {}
        for fold in range(4):
            for row in np.flatnonzero(done.experiment.pool):
                classes = [int(v[fold, row].argmax()) for v in votes.values() if not np.isnan(v[fold, row]).any()]
                best, count = Counter(classes).most_common(1)[0] if classes else (0, 0)
                if count >= 3 and (fold, ids[row]) not in taken:
                    expected[fold, ids[row]] = (CLASSES[best], count)
        rows = done.selected(number)
        found = {(row["fold"], row["clip_id"]): (row["label"], row["agreement"]) for row in rows}
        assert len(found) == len(rows), "a clip is adopted twice in a fold"
        assert found == expected
        taken |= set(found)
        for fold in range(4):
            sizes = Counter(row["learner"] for row in rows if row["fold"] == fold)
            counts = [sizes[name] for name in LEARNERS]
            assert max(counts) - min(counts) <= 1, "the split is not even"
    splits = dict(zip(ids, done.experiment.splits, strict=True))
    assert {splits[clip] for _, clip in taken} == {Split.UNLABELED}


def test_each_model_trains_on_the_other_folds_and_on_its_own_adoptions(done):
    controller, last = done.controller, done.mined.rounds[2]
    adopted = [row | {"round": number} for number in range(2) for row in done.selected(number)]
    ids = done.experiment.features.clip_ids
    for name in LEARNERS:
        trial = controller.trial(f"02/{name}", controller.learners[name], last.trained_on)
        assert controller.context.finished(trial) is not None, "the artifact is of these very rows"
        for fold, rows in enumerate(trial.folds):
            assert set(rows.clip) == set(done.experiment.labelled[done.held_out[done.experiment.labelled] != fold])
            np.testing.assert_array_equal(rows.label, done.experiment.labels[rows.clip])
            own = [(row["clip_id"], row["label"]) for row in adopted if (row["fold"], row["learner"]) == (fold, name)]
            pseudo = zip(rows.pseudo_clip, rows.pseudo_target.argmax(axis=1), strict=True)
            assert [(ids[clip], CLASSES[label]) for clip, label in pseudo] == own
            np.testing.assert_array_equal(rows.pseudo_target, np.eye(3)[rows.pseudo_target.argmax(axis=1)])
            assert set(rows.pseudo_weight.tolist()) <= {1.0}


def test_a_second_controller_fits_nothing_and_says_the_same(done):
    before = artifacts(done.rounds)
    again = mine(done.folder, done.experiment, made.settings(rounds=2))
    assert again.fits == []
    assert same(again.mined, done.mined)
    assert artifacts(done.rounds) == before


def test_what_is_missing_or_damaged_is_fitted_again_and_nothing_else(done, tmp_path):
    """Also the state of a run killed in round 2: one learner of it is not there yet, the round's tables neither."""
    shutil.copytree(done.folder, tmp_path, dirs_exist_ok=True)
    rounds = tmp_path / "rounds"
    shutil.rmtree(rounds / "00/all")
    damaged = rounds / "01/no_face/predictions.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-40] + bytes([whole[-40] ^ 4]) + whole[-39:])
    (rounds / "02/no_words/metrics.json").unlink()
    for name in ("votes.parquet", "selected.parquet", "metrics.json"):
        (rounds / "02" / name).unlink()
    again = mine(tmp_path, done.experiment, made.settings(rounds=2))
    assert again.fits == ["00/all", "01/no_face", "02/no_words"]
    assert same(again.mined, done.mined)
    assert artifacts(rounds) == artifacts(done.rounds)


def with_speakers_of_the_unlabelled(experiment, names=("ann", "bo")):
    """The same, with speakers of the clips that are not labelled alone."""
    speakers = [None if labelled else names[row % 2] for row, labelled in enumerate(experiment.labels >= 0)]
    return replace(experiment, speakers=tuple(speakers))


CHANGES = {
    "seed": lambda e, s: (replace(e, seed=1), s),
    "speakers": lambda e, s: (with_speakers_of_the_unlabelled(e), s),
    "labels": lambda e, s: (replace(e, labels=np.where(e.labels >= 0, (e.labels + 1) % 3, -1)), s),
    "pool": lambda e, s: (replace(e, pool=e.pool & (np.arange(len(e.pool)) % 2 == 0)), s),
    "features": lambda e, s: (replace(e, features_digest="others"), s),
    "fit": lambda e, s: (e, s.model_copy(update={"fit": s.fit.model_copy(update={"epochs": 2})})),
    "learners": lambda e, s: (e, s.model_copy(update={"learners": made.learners()[:3]})),
    "strategy": lambda e, s: (e, made.settings(strategy="topk")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_experiment_moves_the_rounds_aside_whole(done, tmp_path, change):
    shutil.copytree(done.folder, tmp_path, dirs_exist_ok=True)
    before = artifacts(tmp_path / "rounds")
    events = []
    experiment, settings = CHANGES[change](done.experiment, made.settings())
    Controller(experiment, settings, Store(str(tmp_path)), lambda kind, **fields: events.append((kind, fields)))
    (moved,) = [path for path in tmp_path.iterdir() if path.name != "rounds"]
    assert events == [("rounds_moved_aside", {"to": moved.name})]
    assert artifacts(moved) == before
    assert list(artifacts(tmp_path / "rounds")) == ["experiment.json"]


def test_fewer_rounds_or_another_policy_on_failure_continue_the_same_experiment(done, tmp_path):
    shutil.copytree(done.folder, tmp_path, dirs_exist_ok=True)
    again = mine(tmp_path, done.experiment, made.settings(rounds=1, on_failure="quorum"))
    assert again.fits == []
    assert len(again.mined.rounds) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["rounds"]


class Liar(mining.Strategy):
    """Adopts every clip, and says of each what the learners do not."""

    def select(self, votes_KNC, context):
        adopted = vote.Strategy(vote.Config()).select(votes_KNC, context)
        label = (adopted.label + 1) % votes_KNC.shape[2]
        return replace(adopted, label=label, target=np.eye(votes_KNC.shape[2], dtype=np.float32)[label])


def lie(controller):
    controller.strategy = Liar(mining.Config())


def test_the_guard_drops_a_round_that_made_the_learners_worse(tmp_path, here):
    experiment, _ = made.make()
    guarded = mine(tmp_path, experiment, made.settings(rounds=3, guard=True), lie)
    first, second = guarded.mined.rounds
    assert second.oof_waf < first.oof_waf - 0.02
    assert (first.kept, second.kept) == (True, False)
    assert "mining stops and drops this round" in second.reason
    assert guarded.mined.last is first
    tempered, _ = guarded.controller.committee.temper(first.mean)
    np.testing.assert_array_equal(guarded.mined.final.probabilities, tempered.probabilities)
    assert len(second.selected) == 0
    assert guarded.selected(1) == []
    assert json.loads((guarded.rounds / "01/metrics.json").read_text())["kept"] is False
    assert guarded.events[-1][1]["kept"] is False
    assert not (guarded.rounds / "02").exists()
    tolerant = mine(tmp_path / "more", experiment, made.settings(rounds=1, guard=False), lie)
    assert [one.kept for one in tolerant.mined.rounds] == [True, True]
    assert tolerant.mined.rounds[1].oof_waf == second.oof_waf


def test_features_go_into_the_object_store_once_a_run(ray_cluster, tmp_path, monkeypatch):
    put, stored = ray.put, []
    monkeypatch.setattr(ray, "put", lambda value: stored.append(len(ray.cloudpickle.dumps(value))) or put(value))
    experiment, _ = made.make(num_labelled=30, num_pool=2000, num_test=0)
    size = sum(feature.values.nbytes for feature in experiment.features.features)
    done = mine(tmp_path, experiment, brief(made.settings(rounds=1), folds=2))
    assert len(done.mined.rounds) == 2
    assert sum(bytes_put >= size for bytes_put in stored) == 1


def test_mining_ends_when_nothing_new_is_adopted(tmp_path, here):
    experiment, _ = made.make()
    empty = mine(tmp_path, replace(experiment, pool=np.zeros_like(experiment.pool)), made.settings(rounds=3))
    assert len(empty.mined.rounds) == 1
    assert empty.mined.last.reason == "nothing new was adopted: mining ends"


def test_test_clips_are_adopted_only_from_a_pool_that_has_them(tmp_path, here):
    experiment, _ = made.make()
    everything = replace(experiment, pool=experiment.labels < 0)
    found = mine(tmp_path, everything, made.settings(rounds=1))
    splits = dict(zip(experiment.features.clip_ids, experiment.splits, strict=True))
    assert {splits[row["clip_id"]] for row in found.selected(0)} == {Split.UNLABELED, Split.TEST}


def with_a_learner_that_fails():
    """The second learner's only feature is there for no labelled clip, so that no fold can be fitted."""
    experiment, _ = made.make()
    words = experiment.features.features[2]
    late = replace(words, name="late", present=words.present & (experiment.labels < 0))
    experiment = replace(
        experiment, features=FeatureSet(experiment.features.clip_ids, (*experiment.features.features, late))
    )
    four = made.learners()
    four[1] = LearnerConfig(name="late", features=["late"], fusion=PluginConfig(name="concat"))
    return experiment, lambda rounds, policy: made.settings(rounds, on_failure=policy).model_copy(
        update={"learners": four}
    )


@pytest.mark.slow
def test_a_failed_learner_refuses_the_round_or_leaves_a_quorum(ray_cluster, tmp_path):
    experiment, settings = with_a_learner_that_fails()
    with pytest.raises(LearnerError, match=r"round 0: learner late failed twice .*no labelled clip.*on_failure=quorum"):
        mine(tmp_path, experiment, settings(1, "refuse"))
    left = [name for name in LEARNERS if name != "no_voice"]
    assert not (tmp_path / "rounds/00/late").exists()
    assert all((tmp_path / "rounds/00" / name / "metrics.json").exists() for name in left)
    quorum = mine(tmp_path, experiment, settings(1, "quorum"))
    assert sorted(quorum.fits) == [f"01/{name}" for name in sorted(left)], "round 0 was there"
    assert [sorted(one.learners) for one in quorum.mined.rounds] == [sorted(left)] * 2
    failures = [fields for kind, fields in quorum.events if kind == "learners_failed"]
    assert [(f["round"], *f["learners"]) for f in failures] == [(0, "00/late"), (1, "01/late")]
    joined = Counter(row["learner"] for row in quorum.selected(0))
    assert sorted(joined) == sorted(left), "adopted clips go to learners that are there"
    assert all(row["agreement"] == 3 for row in quorum.selected(0))


def test_a_wrong_learner_or_strategy_is_refused_before_any_fit(tmp_path):
    experiment, _ = made.make()
    wrong = made.settings().model_copy(update={"learners": [LearnerConfig(name="a", features=["vioce"])]})
    with pytest.raises(ConfigError, match=r"no feature 'vioce'.*voice"):
        Controller(experiment, wrong, Store(str(tmp_path)))
    with pytest.raises(ConfigError, match=r"mining\.prior"):
        Controller(experiment, made.settings(prior={"joy": 1.0}), Store(str(tmp_path)))
    with pytest.raises(ConfigError, match="no clip has a speaker"):
        Controller(experiment, brief(made.settings(), standardise="speaker"), Store(str(tmp_path)))
    with pytest.raises(ConfigError, match="min_agre"):
        Controller(experiment, made.settings(options={"min_agre": 2}), Store(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_mining_gains_over_the_labels_alone_and_shuffled_pseudo_labels_do_not(ray_cluster, tmp_path):
    experiment, truth = made.make(num_labelled=30, num_pool=300, num_test=300, dim=60, distance=2.4)
    gained = mine(tmp_path, experiment, made.settings(rounds=2, guard=True))
    worth = ablate(gained.controller, gained.mined)
    test = np.array([split is Split.TEST for split in experiment.splits])

    def score(label):
        return waf(truth[test], label[test])

    first, final = score(gained.mined.rounds[0].mean.label), score(gained.mined.final.label)
    assert sorted(worth.modalities) == ["audio", "text", "video"]
    assert max(score(label) for label in worth.modalities.values()) < first - 0.05, "a modality alone is weaker"
    assert final > first + 0.03
    assert score(worth.control) < first + 0.01
    named = {path.name for path in (gained.rounds / "ablations").iterdir()}
    assert named == {*(f"only_{m}" for m in worth.modalities), *(f"control_{name}" for name in LEARNERS)}

    def fit_nothing(bench, trials, on_done):
        return {trial.folder: bench.finished(trial) for trial in trials}, {}

    again = Controller(experiment, made.settings(rounds=2, guard=True), Store(str(tmp_path)), fit=fit_nothing)
    np.testing.assert_array_equal(ablate(again, again.mine()).control, worth.control)

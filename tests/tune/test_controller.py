"""The mining loop on real Ray Tune; where a test is of the loop's logic alone, its learners are fitted right here."""

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import made_experiment as made
import numpy as np
import pyarrow.parquet as pq
import pytest
from made_experiment import CLASSES

from mer_ray.config import LearnerConfig, PluginConfig
from mer_ray.data.features import FeatureSet
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, LearnerError
from mer_ray.evaluation.metrics import waf
from mer_ray.learners import folds as folding
from mer_ray.learners.learner import Learner, Predictions
from mer_ray.learners.scaling import Scaling
from mer_ray.mining import base as mining
from mer_ray.mining import vote
from mer_ray.tune import controller as controllers
from mer_ray.tune.ablations import ablate
from mer_ray.tune.controller import Controller, Mined
from mer_ray.types import Split

LEARNERS = [learner.name for learner in made.learners()]
FIGURES = {
    "round", "oof_waf", "learners", "temperatures", "selected", "selected_by_fold", "trained_on", "kept", "reason",
}  # fmt: skip
ARTIFACTS = {"model.safetensors", "config.json", "metrics.json", "predictions.safetensors"}


@dataclass
class Done:
    """A finished loop and what it told."""

    folder: Path
    experiment: object
    controller: Controller
    mined: Mined
    fits: list = field(default_factory=list)
    events: list = field(default_factory=list)

    @property
    def rounds(self):
        return self.folder / "rounds"

    @property
    def held_out(self):
        return self.controller.council.held_out

    def predictions(self, number, learner):
        return Predictions.from_bytes((self.rounds / f"{number:02d}/{learner}/predictions.safetensors").read_bytes())

    def selected(self, number):
        return pq.read_table(self.rounds / f"{number:02d}/selected.parquet").to_pylist()


def mine(folder, experiment, settings, change=lambda controller: None):
    fits, events = [], []
    controller = Controller(
        experiment,
        settings,
        Store(str(folder)),
        on_event=lambda kind, **fields: events.append((kind, fields)),
        on_fit=fits.append,
    )
    change(controller)
    return Done(Path(folder), experiment, controller, controller.mine(), fits, events)


@pytest.fixture(scope="module")
def done(ray_cluster, tmp_path_factory):
    """Two rounds of mining after round 0, on Ray Tune."""
    experiment, _ = made.make()
    return mine(tmp_path_factory.mktemp("mined"), experiment, made.settings(rounds=2))


@pytest.fixture
def here(monkeypatch):
    """Fit the learners of a round one after another in this process."""

    def run(bench, trials, on_done):
        for trial in trials:
            if bench.finished(trial) is None:
                bench.work(trial)
                on_done(trial.folder)
        return {trial.folder: bench.finished(trial) for trial in trials}, {}

    monkeypatch.setattr(controllers, "run", run)


def artifacts(rounds):
    """What the rounds are, file by file, without the seconds that they took."""
    found = {str(path.relative_to(rounds)): path.read_bytes() for path in rounds.rglob("*") if path.is_file()}
    for name, data in found.items():
        if name.count("/") >= 2 and name.endswith("metrics.json"):
            found[name] = {key: value for key, value in json.loads(data).items() if key != "seconds"}
    return found


def same(one, other):
    """Whether two results are equal to the bit."""
    np.testing.assert_array_equal(one.final.probabilities, other.final.probabilities)
    np.testing.assert_array_equal(one.final.label, other.final.label)
    assert len(one.rounds) == len(other.rounds)
    for a, b in zip(one.rounds, other.rounds, strict=True):
        assert (a.number, a.learners, a.learner_waf, a.oof_waf) == (b.number, b.learners, b.learner_waf, b.oof_waf)
        for learner in a.learners:
            np.testing.assert_array_equal(a.votes[learner], b.votes[learner])
            np.testing.assert_array_equal(a.weights[learner], b.weights[learner])
    return True


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


def test_the_files_of_a_learner_predict_what_it_voted(done):
    folder = done.rounds / "01/no_face"
    files = {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json")}
    again = Learner.from_files(files).predict(done.experiment.features)
    assert again.to_bytes() == (folder / "predictions.safetensors").read_bytes()


def test_votes_are_the_fold_averaged_probabilities_of_clips_not_labelled_for_training(done):
    ids = done.experiment.features.clip_ids
    for number in range(3):
        rows = pq.read_table(done.rounds / f"{number:02d}/votes.parquet").to_pylist()
        found = {(row["clip_id"], row["learner"]): [row[f"prob_{name}"] for name in CLASSES] for row in rows}
        assert len(found) == len(rows), "a learner votes twice on a clip"
        expected = {}
        for learner in LEARNERS:
            mean_NC = done.predictions(number, learner).probabilities_FNC.mean(axis=0, dtype=np.float64)
            for row in np.flatnonzero((done.held_out < 0) & ~np.isnan(mean_NC).any(axis=1)):
                expected[ids[row], learner] = mean_NC[row].tolist()
        assert found == expected


def test_labelled_clips_are_predicted_by_the_fold_that_did_not_see_them(done):
    for learner in LEARNERS:
        folds_FNC = done.predictions(2, learner).probabilities_FNC
        for row in done.experiment.labelled:
            np.testing.assert_array_equal(done.mined.rounds[2].votes[learner][row], folds_FNC[done.held_out[row], row])


def test_what_is_adopted_is_what_three_of_four_learners_of_the_fold_agree_on(done):
    """Against brute force: from the pool alone, once per fold, even among the learners."""
    ids = done.experiment.features.clip_ids
    taken = set()
    for number in range(2):
        votes = {name: done.predictions(number, name).probabilities_FNC for name in LEARNERS}
        expected = {}
        for fold in range(3):
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
        for fold in range(3):
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
        assert controller.bench.finished(trial) is not None, "the artifact is of these very rows"
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


CHANGES = {
    "seed": lambda e, s: (replace(e, seed=1), s),
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


def assert_same_but_for_rounding(one, other):
    """Folds are fitted in one batched program, whose sums may round otherwise when another fold's rows differ."""
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_labels_of_the_held_out_fold_reach_neither_its_models_nor_its_pseudo_labels(done, tmp_path, here, monkeypatch):
    """Permute them: every model of that fold, in every round, is the same; those of other folds are not."""
    fold = 1
    rows = done.experiment.labelled[done.held_out[done.experiment.labelled] == fold]
    labels = done.experiment.labels.copy()
    labels[rows] = np.random.default_rng(0).permutation(labels[rows])
    assert (labels[rows] != done.experiment.labels[rows]).mean() > 0.3
    monkeypatch.setattr(folding, "make", lambda *arguments: done.controller.folds)
    other = mine(tmp_path, replace(done.experiment, labels=labels), made.settings(rounds=2))
    for number in range(3):
        for learner in LEARNERS:
            one, two = (d.predictions(number, learner).probabilities_FNC for d in (done, other))
            assert_same_but_for_rounding(one[fold], two[fold])
            others = [np.nanmax(np.abs(one[f] - two[f])) for f in range(3) if f != fold]
            assert min(others) > 0.01, "the labels changed nothing anywhere"
        of_fold = [
            [{**row, "confidence": round(row["confidence"], 4)} for row in d.selected(number) if row["fold"] == fold]
            for d in (done, other)
        ]
        assert of_fold[0] == of_fold[1]
        assert number == 2 or done.selected(number) != other.selected(number)


def brief(settings, **fit):
    """The same job of shorter fits, for tests of what happens around them."""
    return settings.model_copy(update={"fit": settings.fit.model_copy(update={"epochs": 8, **fit})})


def test_nor_do_they_by_class_shares_growth_or_selecting_anew(tmp_path, here, monkeypatch):
    experiment, _ = made.make()
    options = {
        "strategy": "topk", "options": {"share": 0.6, "share_rounds": 2}, "prior": "labelled", "relabel": "revisit",
        "split": "all",
    }  # fmt: skip
    settings = brief(made.settings(rounds=1, **options))
    one = mine(tmp_path / "one", experiment, settings)
    rows = experiment.labelled[one.held_out[experiment.labelled] == 1]
    labels = experiment.labels.copy()
    labels[rows] = (labels[rows] + 1) % 3
    monkeypatch.setattr(folding, "make", lambda *arguments: one.controller.folds)
    two = mine(tmp_path / "two", replace(experiment, labels=labels), settings)
    for learner in LEARNERS:
        first, second = (done.predictions(1, learner).probabilities_FNC for done in (one, two))
        assert_same_but_for_rounding(first[1], second[1])
        assert np.nanmax(np.abs(first[0] - second[0])) > 0.01


EVERYTHING = {
    "strategy": "soft", "split": "bootstrap", "relabel": "revisit", "calibrate": True, "weigh_learners": True,
    "prior": "uniform", "rounds_kept": "all", "weight": 0.5,
}  # fmt: skip


def test_with_every_option_on_a_run_cut_off_anywhere_ends_as_an_undisturbed_one(tmp_path, here):
    experiment, _ = made.make()
    settings = brief(made.settings(rounds=2, **EVERYTHING))
    whole = mine(tmp_path / "whole", experiment, settings)
    assert [len(one.selected) > 0 for one in whole.mined.rounds] == [True, True, False]
    for place, (number, learner) in enumerate([(0, "all"), (1, "no_face"), (2, "no_words")]):
        cut = tmp_path / f"cut{place}"
        shutil.copytree(tmp_path / "whole", cut)
        shutil.rmtree(cut / f"rounds/{number:02d}/{learner}")
        for name in ("votes.parquet", "selected.parquet", "metrics.json"):
            (cut / f"rounds/{number:02d}" / name).unlink()
        again = mine(cut, experiment, settings)
        assert again.fits == [f"{number:02d}/{learner}"]
        assert same(again.mined, whole.mined)
        assert artifacts(cut / "rounds") == artifacts(tmp_path / "whole/rounds")


def test_what_is_selected_anew_replaces_what_was_and_comes_from_the_whole_pool(tmp_path, here):
    experiment, _ = made.make()
    done = mine(tmp_path, experiment, brief(made.settings(rounds=2, **EVERYTHING)))
    first, second, third = done.mined.rounds
    assert third.trained_on is second.selected
    assert set(first.selected.clip) & set(second.selected.clip)
    trial = done.controller.trial("02/all", done.controller.learners["all"], third.trained_on)
    for fold, rows in enumerate(trial.folds):
        own = third.trained_on.of(fold, 0)
        assert len(own)
        np.testing.assert_array_equal(rows.pseudo_target, own.target)
        np.testing.assert_array_equal(rows.pseudo_weight, own.weight)
        assert ((own.target > 0) & (own.target < 1)).any(), "targets are soft"
        assert (own.weight % 0.5 != 0).any() or (own.weight > 0.5).any()


def test_votes_are_tempered_by_what_is_recorded_and_learners_weigh_by_their_score(tmp_path, here):
    experiment, _ = made.make()
    done = mine(tmp_path, experiment, made.settings(rounds=0, calibrate=True, weigh_learners=True))
    (one,) = done.mined.rounds
    told = json.loads((done.rounds / "00/metrics.json").read_text())["temperatures"]
    assert {name: tuple(by_fold) for name, by_fold in told.items()} == one.temperatures
    raw = done.predictions(0, "all").probabilities_FNC.astype(float)
    powers = raw ** (1 / np.array(told["all"]))[:, None, None]
    tempered = powers / powers.sum(axis=2, keepdims=True)
    free = np.flatnonzero(experiment.labels < 0)
    np.testing.assert_allclose(one.votes["all"][free], tempered.mean(axis=0)[free], atol=1e-5)
    assert sum(done.mined.weights.values()) == pytest.approx(1)
    assert max(done.mined.weights, key=done.mined.weights.get) == "all"
    weighed = sum(done.mined.weights[name] * np.nan_to_num(one.votes[name][free]) for name in LEARNERS)
    voting = sum(done.mined.weights[name] * ~np.isnan(one.votes[name][free, 0]) for name in LEARNERS)
    np.testing.assert_allclose(done.mined.final.probabilities[free], weighed / voting[:, None], rtol=1e-6)


@pytest.mark.parametrize(("kept", "numbers"), [("last", [2]), ("first_and_last", [0, 2]), ("all", [0, 1, 2])])
def test_the_final_ensemble_is_of_the_rounds_that_are_to_be_kept(done, tmp_path, kept, numbers):
    shutil.copytree(done.folder, tmp_path, dirs_exist_ok=True)
    again = mine(tmp_path, done.experiment, made.settings(rounds=2, rounds_kept=kept))
    assert again.fits == [], "which rounds vote at the end does not change those that are made"
    votes = np.stack([[done.mined.rounds[n].votes[name] for n in numbers] for name in LEARNERS]).mean(axis=1)
    voting = ~np.isnan(votes).any(axis=(0, 2))
    np.testing.assert_allclose(again.mined.final.probabilities[voting], votes.mean(axis=0)[voting])


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


def test_features_stay_as_they_are_where_that_is_better(tmp_path, here):
    done = mine(tmp_path, speaking(one_emotion_each=True), by("auto"))
    assert json.loads((done.rounds / "standardise/metrics.json").read_text())["chosen"] == "fold"
    assert not (done.rounds / "scaling.safetensors").exists()
    np.testing.assert_array_equal(
        done.controller.experiment.features.features[0].values, done.experiment.features.features[0].values
    )


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
    np.testing.assert_array_equal(guarded.mined.final.probabilities, first.mean.probabilities)
    assert len(second.selected) == 0
    assert guarded.selected(1) == []
    assert json.loads((guarded.rounds / "01/metrics.json").read_text())["kept"] is False
    assert guarded.events[-1][1]["kept"] is False
    assert not (guarded.rounds / "02").exists()
    tolerant = mine(tmp_path / "more", experiment, made.settings(rounds=1, guard=True, guard_tolerance=1.0), lie)
    assert [one.kept for one in tolerant.mined.rounds] == [True, True]
    assert tolerant.mined.rounds[1].oof_waf == second.oof_waf


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
        Controller(experiment, by("speaker"), Store(str(tmp_path)))
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

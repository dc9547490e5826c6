"""What ``mining`` sets: labels of a held-out fold come back by none of it, and a cut-off run ends the same."""

import json
import shutil
from dataclasses import replace

import made_experiment as made
import numpy as np
from made_mining import LEARNERS, artifacts, brief, mine, same

from mer_ray.learners import folds as folding


def assert_same_but_for_rounding(one, other):
    """Folds are fitted in one batched program, whose sums may round otherwise when another fold's rows differ."""
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_labels_of_the_held_out_fold_reach_neither_its_models_nor_its_pseudo_labels(tmp_path, here, monkeypatch):
    """Permute them: every model of that fold, in every round, is the same; those of other folds are not.

    Its schedule is bounded: folds are in step, and how many clips another adopts would move the steps of an epoch.
    """
    fold, settings = 1, brief(made.settings(rounds=2), most_steps=8)
    done = mine(tmp_path / "one", made.make()[0], settings)
    rows = done.experiment.labelled[done.held_out[done.experiment.labelled] == fold]
    labels = done.experiment.labels.copy()
    labels[rows] = np.random.default_rng(0).permutation(labels[rows])
    assert (labels[rows] != done.experiment.labels[rows]).mean() > 0.3
    monkeypatch.setattr(folding, "make", lambda *arguments: done.controller.folds)
    other = mine(tmp_path / "two", replace(done.experiment, labels=labels), settings)
    for number in range(3):
        for learner in LEARNERS:
            one, two = (d.predictions(number, learner).probabilities_FNC for d in (done, other))
            assert_same_but_for_rounding(one[fold], two[fold])
            others = [np.nanmax(np.abs(one[f] - two[f])) for f in range(4) if f != fold]
            assert min(others) > 0.01, "the labels changed nothing anywhere"
        of_fold = [
            [{**row, "confidence": round(row["confidence"], 4)} for row in d.selected(number) if row["fold"] == fold]
            for d in (done, other)
        ]
        assert of_fold[0] == of_fold[1]
        assert number == 2 or done.selected(number) != other.selected(number)


def test_nor_do_they_by_class_shares_or_selecting_anew(tmp_path, here, monkeypatch):
    experiment, _ = made.make()
    options = {
        "strategy": "topk", "options": {"k": 30, "relabel": "revisit", "split": "all"}, "prior": "labelled",
    }  # fmt: skip
    settings = brief(made.settings(rounds=1, **options), most_steps=8)
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
    "strategy": "topk", "options": {"split": "bootstrap", "relabel": "revisit"}, "prior": "uniform",
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
        assert own.weight.max() >= 2, "a clip drawn twice counts twice"


def test_votes_are_tempered_by_what_is_recorded_and_learners_count_alike(tmp_path, here):
    experiment, _ = made.make()
    done = mine(tmp_path, experiment, made.settings(rounds=0))
    (one,) = done.mined.rounds
    told = json.loads((done.rounds / "00/metrics.json").read_text())["temperatures"]
    assert {name: tuple(by_fold) for name, by_fold in told.items()} == one.temperatures
    assert all(temperature != 1 for temperature in told["all"])
    raw = done.predictions(0, "all").probabilities_FNC.astype(float)
    powers = raw ** (1 / np.array(told["all"]))[:, None, None]
    tempered = powers / powers.sum(axis=2, keepdims=True)
    free = np.flatnonzero(experiment.labels < 0)
    np.testing.assert_allclose(one.votes["all"][free], tempered[-1][free], atol=1e-5)
    votes = np.stack([one.votes[name][free] for name in LEARNERS])
    voting = ~np.isnan(votes).any(axis=(0, 2))
    powers = votes.mean(axis=0)[voting] ** (1 / done.mined.temperature)
    final = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(done.mined.final.probabilities[free][voting], final)

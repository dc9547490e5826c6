"""``mining.strategy=auto``: what is fitted, what is chosen, and that a cut-off run ends the same."""

from dataclasses import replace

import made_experiment as made
import numpy as np
import pytest
from made_mining import artifacts, brief, mine, same

from mer_ray import progress
from mer_ray.config import LearnerConfig, MiningConfig
from mer_ray.errors import ConfigError, LearnerError
from mer_ray.evaluation.metrics import waf
from mer_ray.mining import base
from mer_ray.tune import candidates
from mer_ray.tune import controller as controllers
from mer_ray.tune.search import fit_here
from mer_ray.types import Split

TAUGHT = {"lda_em", "student"}


def settings(**options):
    given = made.settings(**{"rounds": 1, "guard": True, "strategy": "auto", **options})
    return brief(given).model_copy(update={"learners": "auto"})


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    with pytest.MonkeyPatch.context() as changes:
        changes.setattr(controllers, "run", fit_here)
        experiment, truth = made.make(distance=2.2)
        yield mine(tmp_path_factory.mktemp("chosen"), experiment, settings()), truth


def test_every_candidate_is_judged_and_one_is_chosen(chosen):
    done, _ = chosen
    judged = done.mined.choice.judged
    assert list(judged) == ["round_0", "linear", "lda", "lda_em", "student", "mean"]
    assert sum(one.chosen for one in judged.values()) == 1
    assert (judged["round_0"].gain, judged["round_0"].noise) == (0, 0)
    for one in judged.values():
        assert 0 < one.oof_waf <= 1
        assert one.log_loss > 0
        assert 0 <= one.ece <= 1


def test_what_learns_from_the_pool_has_the_last_word_and_what_it_used_is_told(chosen):
    done, truth = chosen
    mined, experiment = done.mined, done.experiment
    assert mined.choice.name == "mean"
    assert set(mined.last.learners) == TAUGHT
    assert mined.how == "mean"
    assert set(mined.rounds[0].learners).isdisjoint(TAUGHT)
    used = mined.rounds[0].selected
    assert set(used.clip) <= set(np.flatnonzero(experiment.pool))
    np.testing.assert_allclose(used.target.sum(axis=1), 1, rtol=1e-5)
    assert {round(float(weight), 3) for weight in used.weight} == {0.2, 0.3}
    assert ((mined.adopted >= 0) == np.isin(np.arange(len(truth)), used.clip)).all()
    rows = done.selected(0)
    assert {row["learner"] for row in rows} == TAUGHT
    for row in rows[:20]:
        assert sum(row[f"prob_{name}"] for name in experiment.class_names) == pytest.approx(1, abs=1e-5)


def test_a_prior_moves_what_the_student_is_taught_and_says_to_the_shares_expected(tmp_path, here):
    experiment, _ = made.make(distance=1.2)
    done = mine(tmp_path / "none", experiment, settings())
    shares = {"anger": 0.7, "joy": 0.2, "worry": 0.1}
    prior_C = np.array([shares[name] for name in made.CLASSES])
    moved = mine(tmp_path / "given", experiment, settings(prior=shares))
    pool = np.flatnonzero(experiment.pool)
    said = moved.predictions(1, "lda_em").probabilities_FNC
    np.testing.assert_array_equal(said, done.predictions(1, "lda_em").probabilities_FNC)

    def taught(run, fold):
        student = list(run.controller.learners).index("student")
        return run.mined.rounds[0].selected.of(fold, student)

    assert len(said) == 4
    for fold in range(4):
        told, plain = taught(moved, fold), taught(done, fold)
        np.testing.assert_array_equal(told.clip, plain.clip)
        expected = base.align(said[fold, pool], prior_C).astype(np.float32)[np.isin(pool, told.clip)]
        np.testing.assert_array_equal(told.target, expected)
        before, after = (np.abs(one.target.mean(axis=0) - prior_C).max() for one in (plain, told))
        assert after < 0.85 * before
    before, after = (
        np.abs(np.nanmean(run.predictions(1, "student").probabilities_FNC[:, pool], axis=1) - prior_C).max(axis=1)
        for run in (done, moved)
    )
    assert (after < 0.9 * before).all(), "the student says what it was taught, by every model"


def test_it_is_better_than_the_labels_alone_on_the_test_clips(chosen):
    done, truth = chosen
    test = np.array([split is Split.TEST for split in done.experiment.splits])
    plain = done.controller.committee.final(done.mined.rounds[0].votes, done.mined.rounds[0].learners)
    scores = [waf(truth[test], label[test]) for label in (done.mined.final.label, plain.label)]
    assert scores[0] > scores[1]


def test_no_label_of_a_test_clip_or_of_the_pool_is_known_to_the_choice(chosen):
    done, truth = chosen
    assert (done.experiment.labels[~np.isin(np.arange(len(truth)), done.experiment.labelled)] == -1).all()


def test_where_the_pool_misleads_round_0_has_the_last_word(tmp_path, here):
    """The pool's clips lie where one class is, moved away from another: whoever learns from them errs."""
    experiment, truth = made.make(distance=2.5, absent=0.0)
    features, rng = [], np.random.default_rng(0)
    for feature in experiment.features.features:
        centres = np.stack([feature.values[truth == c].mean(axis=0) for c in range(len(made.CLASSES))])
        values, pool = feature.values.copy(), np.flatnonzero(experiment.pool)
        away = rng.integers(1, len(made.CLASSES), size=len(pool))
        values[pool] = centres[0] - 3 * centres[away] + rng.normal(size=(len(pool), values.shape[1]))
        features.append(replace(feature, values=values.astype(np.float32)))
    experiment = replace(experiment, features=replace(experiment.features, features=tuple(features)))
    long = made.settings(rounds=1, guard=True, strategy="auto").model_copy(update={"learners": "auto"})
    done = mine(tmp_path, experiment, long)
    assert done.mined.choice.name == "round_0"
    assert [one.kept for one in done.mined.rounds] == [True, False]
    assert done.mined.how == "mode"
    assert not (done.mined.adopted >= 0).any()


class Cut(BaseException):
    """The end of the process."""


def ended_by(folder):
    """Ends the process when a learner is fitted."""

    def tell(fitted):
        if fitted == folder:
            raise Cut

    return lambda controller: setattr(controller, "on_fit", tell)


def ended_amid_the_last_fit(controller):
    """Ends the process half-way through the fit of the student, which alone is left."""

    def tell(share, what):
        if share > 0.5 and what.startswith("epoch"):
            raise Cut

    def fit(context, trials, on_done):
        assert [trial.folder for trial in trials if context.finished(trial) is None] in ([], ["01/student"])
        with progress.heard(tell):
            return fit_here(context, trials, on_done)

    controller.fit = fit


def test_a_run_cut_off_between_any_two_candidates_and_amid_the_last_fit_ends_the_same(chosen, tmp_path, here):
    done, _ = chosen
    order = done.fits
    moments = {place: ended_by(order[place]) for place in (1, 4, 5, 6)} | {7: ended_amid_the_last_fit}
    assert order[4:] == ["00/linear", "00/lda", "01/lda_em", "01/student"]
    for place, cut in moments.items():
        with pytest.raises(Cut):
            mine(tmp_path, done.experiment, settings(), cut)
        fitted = {path.parent.name for path in tmp_path.glob("rounds/*/*/metrics.json")}
        assert fitted == {folder.rpartition("/")[2] for folder in order[: min(place + 1, 7)]}
    again = mine(tmp_path, done.experiment, settings())
    assert again.fits == ["01/student"]
    assert again.mined.choice == done.mined.choice
    assert same(again.mined, done.mined)
    assert artifacts(tmp_path / "rounds") == artifacts(done.rounds)


def test_of_a_class_with_one_label_nothing_is_said_out_of_fold_and_the_pool_is_learnt_from(tmp_path, here):
    experiment, _ = made.make(num_labelled=40, distance=2.5)
    labels = experiment.labels.copy()
    last = np.flatnonzero(labels == 2)
    labels[last[1:]] = -1
    done = mine(tmp_path, replace(experiment, labels=labels), settings())
    assert done.mined.choice.oof_waf is None
    assert "one labelled clip" in done.mined.choice.reason
    assert done.mined.choice.name == "mean"


def test_without_a_pool_or_rounds_there_is_round_0_alone(tmp_path, here):
    experiment, _ = made.make()
    bare = mine(tmp_path / "bare", replace(experiment, pool=np.zeros_like(experiment.pool)), settings())
    none = mine(tmp_path / "none", experiment, settings(rounds=0))
    for done in (bare, none):
        assert len(done.mined.rounds) == 1
        assert done.mined.choice is None


def test_listed_learners_are_the_candidates_and_where_none_reads_the_pool_two_are_added(tmp_path, here):
    experiment, _ = made.make()
    names = [feature.name for feature in experiment.features.features]
    listed = [
        LearnerConfig(name="network", features=names),
        LearnerConfig(name="em", features=names[:1], model={"name": "lda_em"}),
    ]
    given = settings().model_copy(update={"learners": listed})
    done = mine(tmp_path, experiment, given)
    assert list(done.mined.choice.judged) == ["round_0", "em"]
    with pytest.raises(ConfigError, match="every learner listed reads it"):
        mine(tmp_path / "refused", experiment, given.model_copy(update={"learners": listed[1:]}))
    done = mine(tmp_path / "added", experiment, given.model_copy(update={"learners": listed[:1]}))
    assert list(done.mined.choice.judged) == ["round_0", "lda_em", "student", "mean"]
    namesake = [LearnerConfig(name="student", features=names)]
    with pytest.raises(ConfigError, match="student is listed: give it another name"):
        mine(tmp_path / "namesake", experiment, given.model_copy(update={"learners": namesake}))


def test_who_must_tell_the_valence_is_a_network():
    experiment, _ = made.make()
    plain = [LearnerConfig(name="network", features=[experiment.features.features[0].name])]
    who = candidates.learners(plain, experiment.features, MiningConfig(), are_listed=False, valence=True)
    assert who.candidates == {"student": ("student",), "mean": ("lda_em", "student")}


def test_where_all_that_learn_from_the_pool_fail_a_quorum_goes_on_with_round_0(tmp_path, here, monkeypatch):
    def failing(context, trials, on_done):
        taught = [trial.folder for trial in trials if trial.folder.startswith("01/")]
        found, failed = fit_here(context, [trial for trial in trials if trial.folder not in taught], on_done)
        return found, {**failed, **dict.fromkeys(taught, "lost")}

    monkeypatch.setattr(controllers, "run", failing)
    experiment, _ = made.make()
    done = mine(tmp_path, experiment, settings(on_failure="quorum"))
    assert len(done.mined.rounds) == 1
    assert done.mined.choice is None
    with pytest.raises(LearnerError, match="lda_em failed twice"):
        mine(tmp_path, experiment, settings())
